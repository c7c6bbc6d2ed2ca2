"""CUDA's libraries give way to stubs of the same names, versions and symbols, and what nothing is linked with goes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from containers import cpu_only

pytestmark = pytest.mark.skipif(not shutil.which("ld"), reason="needs binutils")


def library(
    path: Path, functions: list[str], *, version: str = "", calls: tuple[str, ...] = (), links: tuple = ()
) -> Path:
    """A shared library whose functions do nothing, and which asks for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source, script, made = path.parent / "s.s", path.parent / "s.map", path.parent / "s.o"
    lines = [f".globl {name}\n.type {name}, @function\n{name}: ret\n" for name in functions]
    source.write_text(".text\n" + "".join(lines) + ".data\n" + "".join(f".quad {name}\n" for name in calls))
    script.write_text(f"{version} {{ {' '.join(name + ';' for name in functions)} }};\n")
    subprocess.run(["as", source, "-o", made], check=True)
    options = [f"--version-script={script}"] if version else []
    subprocess.run(["ld", "-shared", f"-soname={path.name}", *options, "-o", path, made, *links], check=True)
    for scrap in (source, script, made):
        scrap.unlink()
    return path


@pytest.fixture
def packages(tmp_path) -> Path:
    """site-packages in which torch asks for two functions of libbig, one of libplain and one of libsmall, and for nothing else."""
    root = tmp_path / "site-packages"
    big = library(root / "nvidia/big/lib/libbig.so.7", ["one", "two", "three"], version="BIG_7")
    plain = library(root / "nvidia/big/lib/libplain.so.1", ["four", "five"])
    small = library(root / "nvidia/small/lib/libsmall.so.2", ["six"])
    library(root / "nvidia/unused/lib/libunused.so.1", ["seven"])
    (root / "nvidia" / "unused" / "header.h").write_text("")
    (root / "triton" / "backends").mkdir(parents=True)
    (root / "triton" / "backends" / "libbig.so.7").symlink_to(big)
    needs = ("one", "three", "four", "six")
    library(root / "torch/lib/libtorch.so", ["torch"], calls=needs, links=(big, plain, small))
    (root / "torchvision").mkdir()
    for path in (big, plain):
        os.truncate(path, cpu_only.SMALL + 1)
    return root


def test_what_torch_is_linked_with_stays_by_name_and_the_rest_goes(packages, tmp_path):
    kept = tmp_path / "another environment's libbig"
    os.link(packages / "nvidia/big/lib/libbig.so.7", kept)
    small = (packages / "nvidia/small/lib/libsmall.so.2").read_bytes()
    cpu_only.strip(packages)
    left = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    libraries = {"nvidia/big/lib/libbig.so.7", "nvidia/big/lib/libplain.so.1", "nvidia/small/lib/libsmall.so.2"}
    assert left == {*libraries, "torch/lib/libtorch.so", "cpu_only.pth"}
    assert not (packages / "triton").exists() and not (packages / "nvidia" / "unused").exists()
    assert (packages / "nvidia/small/lib/libsmall.so.2").read_bytes() == small
    assert (packages / "nvidia/big/lib/libbig.so.7").stat().st_size < 50_000 < kept.stat().st_size
    assert cpu_only.symbols(packages / "nvidia/big/lib/libbig.so.7", defined=True) >= {
        ("one", "BIG_7"),
        ("three", "BIG_7"),
    }


@pytest.mark.parametrize("stripped", [True, False])
def test_the_dynamic_linker_is_content(packages, stripped):
    """Every symbol is looked up at once (RTLD_NOW), and a called stub ends the process."""
    if stripped:
        cpu_only.strip(packages)
    else:  # without the stubs it is not: this test can fail
        (packages / "nvidia/big/lib/libbig.so.7").unlink()
    code = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1], 2); print('loaded', flush=True); lib.torch(); lib.one()"
    folders = ":".join(str(path.parent) for path in packages.rglob("*.so.*"))
    command = [sys.executable, "-c", code, packages / "torch/lib/libtorch.so"]
    ended = subprocess.run(command, env={**os.environ, "LD_LIBRARY_PATH": folders}, capture_output=True, text=True)
    if stripped:
        assert ended.stdout == "loaded\n" and ended.returncode == -4 and "no version information" not in ended.stderr
    else:
        assert ended.stdout == "" and "libbig.so.7" in ended.stderr


def test_the_environment_sees_no_gpu(packages):
    cpu_only.strip(packages)
    code = "import os, site, sys; site.addsitedir(sys.argv[1]); print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    command = [sys.executable, "-c", code, packages]
    ended = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"}, capture_output=True, text=True)
    assert ended.stdout == "''\n", ended.stderr
