"""The locked requirements are whole and agree, and no tracked file says where packages come from."""

import re
import subprocess
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared.errors import UserError
from tests.conftest import PROJECT
from tests.stage_environment import locked_versions, make_environment

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
GROUPS = PYPROJECT["dependency-groups"]
BASE = PYPROJECT["project"]["dependencies"]
TOOLS = [line for group in GROUPS.values() for line in group if isinstance(line, str)]  # the rest names other groups
LOCKS = {  # file: what it is made of
    "requirements.lock": [*BASE, *EXTRAS["detect"], *EXTRAS["match"], *EXTRAS["quantize"], *TOOLS],
    "bbox_sub/requirements.txt": [*BASE, *EXTRAS["detect"]],
    "bbox_sub/requirements-detectron2.txt": [*BASE, *EXTRAS["detect"], *EXTRAS["detectron2"]],
    "metric_sub/requirements.txt": [*BASE, *EXTRAS["match"]],
    "tests/requirements.txt": GROUPS["test"],
}
REGISTRIES = [  # in two halves: this file is tracked as well
    ("pypi", ".org"),
    ("python", "hosted.org"),
    ("download.py", "torch.org"),
    ("npm", "js.org"),
    ("anaconda", ".org"),
    ("deb.debian", ".org"),
    ("docker", ".io"),
    ("ghcr", ".io"),
    ("quay", ".io"),
    ("nvcr", ".io"),
    ("--index", "-url"),
    ("--extra", "-index"),
    ("--find", "-links"),
]


def locked(name: str) -> dict[str, str]:
    return locked_versions(PROJECT / name)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_its_version_and_hashes_and_no_dependency_is_missing(lock):
    versions = locked(lock)
    for line in LOCKS[lock]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[canonical(wanted.name)]), f"{lock}: {line}"


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "bbox_sub/requirements.txt", "metric_sub/requirements.txt", "tests/requirements.txt"]
)
def test_what_a_locked_package_needs_is_locked_too(lock):
    """Or pip refuses the file: with hashes it takes nothing that is not in it. The packages' own metadata tells what they need."""
    versions, missing, waiting, seen = locked(lock), [], [], set()
    waiting = [(Requirement(line).name, extra) for line in LOCKS[lock] for extra in (*Requirement(line).extras, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for needed in map(Requirement, distribution(name).requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                if canonical(needed.name) not in versions:
                    missing.append(f"{needed} of {name}")
                waiting += [(needed.name, more) for more in (*needed.extras, "")]
    assert not missing and {canonical(name) for name, _ in seen} == set(versions)


@pytest.mark.parametrize("lock", [name for name in LOCKS if name != "requirements.lock"])
def test_the_files_agree_on_every_version(lock):
    whole, part = locked("requirements.lock"), locked(lock)
    assert {name: version for name, version in part.items() if version != whole.get(name, version)} == {}
    if lock != "bbox_sub/requirements-detectron2.txt":  # detectron2 is no requirement of the project
        assert set(part) <= set(whole)


def test_detectron2_takes_nothing_of_the_first_stage_away():
    assert locked("bbox_sub/requirements.txt").items() <= locked("bbox_sub/requirements-detectron2.txt").items()


def test_no_stage_has_what_only_others_need():
    detect, match = locked("bbox_sub/requirements.txt"), locked("metric_sub/requirements.txt")
    of_match = {"faiss-cpu", "pytorch-metric-learning", "scikit-learn"}
    assert not of_match & set(detect) and of_match <= set(match)
    of_detect = {"pycocotools", "detectron2", "fvcore", "iopath"}
    assert not of_detect & set(match) and "pycocotools" in detect
    assert not {"nncf", "pytest", "hypothesis", "ruff"} & (set(detect) | set(match))


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: which files are the project's own is not known")
    return [PROJECT / name for name in listed.stdout.split("\0") if name]


def test_no_tracked_file_tells_where_packages_come_from():
    options = re.compile(r"--no-emit-(index-url|find-links)")  # of lock.sh: that uv shall not write them
    words = re.compile("|".join(re.escape("".join(halves)) for halves in REGISTRIES))
    files = tracked_files()
    assert PROJECT / "requirements.lock" in files and PROJECT / "lock.sh" in files
    found = []
    for path in files:
        if path.is_file():
            text = options.sub("", path.read_bytes().decode("utf-8", errors="ignore"))
            found += [f"{path.relative_to(PROJECT)}: {match[0]}" for match in words.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2 --hash=sha256:" + "0" * 64,
        "numpy==2.0",
        "numpy @ file:///numpy.whl --hash=sha256:" + "0" * 64,
        "numpy==2.0 --hash=md5:" + "0" * 32,
    ],
)
def test_a_line_without_version_or_hash_is_refused(line, tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text(f"# a comment\nav==18.0 \\\n    --hash=sha256:{'1' * 64}\n    # via x\n{line}\n")
    with pytest.raises(UserError, match="expected name==version and hashes, found 'numpy"):
        locked_versions(path)
    path.write_text(path.read_text().removesuffix(f"{line}\n"))
    assert locked_versions(path) == {"av": "18.0"}


@pytest.mark.parametrize(
    ("package", "there", "missing"),
    [("bbox_sub", "pycocotools", "faiss"), ("metric_sub", "faiss", "pycocotools")],
)
def test_a_stages_environment_holds_that_stages_packages_alone(package, there, missing, tmp_path):
    make_environment(package, tmp_path / "environment")
    code = f"import importlib.util as u, json, sys, {there}, pytest\nprint(json.dumps([u.find_spec(n) is None for n in sys.argv[1:]]))"
    command = [
        tmp_path / "environment" / "bin" / "python",
        "-P",
        "-c",
        code,
        missing,
        "nncf",
        "ruff",
        "shared",
        "torch",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, cwd="/", env={})
    assert ended.stdout.strip() == "[true, true, true, true, false]", ended.stderr
