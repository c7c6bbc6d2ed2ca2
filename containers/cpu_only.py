"""Takes CUDA out of an environment that will run on CPUs alone: `ENVIRONMENT/bin/python cpu_only.py`. Needs binutils.

PyPI's torch for Linux does not load without the libraries of NVIDIA's that it was linked with, though a CPU never calls them. Those
over SMALL bytes are replaced by stubs: libraries of the same name that have the symbols which torch and torchvision ask for, and whose
functions end the process with an illegal instruction. Everything else of the packages `nvidia` and `triton` is removed, and the
environment's processes see no GPU, so that nobody comes to call a stub.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SMALL = 10_000_000  # among them CUDA's runtime, which torch does call: to learn that there is no GPU
HIDE_GPUS = (
    "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''\n"  # Python runs the lines of a .pth file when it starts
)


def needed_libraries(binary: Path) -> set[str]:
    """The names of the libraries that the dynamic linker loads with `binary`."""
    return set(re.findall(r"\(NEEDED\).*\[(.*)\]", _output("readelf", "--dynamic", binary)))


def symbols(binary: Path, *, defined: bool) -> set[tuple[str, str]]:
    """(name, version) of the dynamic symbols that `binary` defines, or asks others for; "" for no version."""
    lines = _output("nm", "--dynamic", "--with-symbol-versions", f"--{'' if defined else 'un'}defined-only", binary)
    parted = (line.split()[-1].partition("@") for line in lines.splitlines())
    return {(name, version.lstrip("@")) for name, _, version in parted}


def write_stub(library: Path, wanted: set[str]) -> None:
    """Puts in the place of `library` one that defines those of its symbols that are `wanted`, each under its version."""
    versions: dict[str, list[str]] = {}
    for name, version in sorted(symbols(library, defined=True)):
        if name in wanted:
            versions.setdefault(version, []).append(name)
    names = [name for group in versions.values() for name in group]
    with tempfile.TemporaryDirectory() as folder:
        source, script, made = Path(folder) / "stub.s", Path(folder) / "versions", Path(folder) / "stub.o"
        source.write_text("".join(f".globl {name}\n.type {name}, @function\n{name}: ud2\n" for name in names))
        script.write_text(
            "".join(f"{version} {{ {'; '.join(group)}; }};\n" for version, group in versions.items() if version)
        )
        _output("as", source, "-o", made)
        library.unlink()  # it may be a hard link
        option = [f"--version-script={script}"] if script.stat().st_size else []
        _output("ld", "-shared", f"-soname={library.name}", *option, "-o", library, made)


def strip(packages: Path) -> None:
    """Does it in `packages`, the environment's site-packages."""
    users = [*packages.glob("torch/**/*.so*"), *packages.glob("torchvision/**/*.so*")]
    needed = {name for user in users for name in needed_libraries(user)}
    wanted = {name for user in users for name, _ in symbols(user, defined=False)}
    shutil.rmtree(packages / "triton", ignore_errors=True)
    for path in sorted((packages / "nvidia").rglob("*"), reverse=True):  # what a folder holds comes before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name not in needed:
            path.unlink()
        elif path.stat().st_size > SMALL:
            write_stub(path, wanted)
    (packages / "cpu_only.pth").write_text(HIDE_GPUS)


def _output(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    strip(Path(sysconfig.get_path("purelib")))
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)  # that it loads is known before it is used
