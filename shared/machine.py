"""The machine, and what a file was made with: versions, commit, hardware. On record beside it, in no fingerprint."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "av",
    "opencv-python-headless",
    "pillow",
    "numpy",
    "pandas",
    "pyarrow",
    "faiss-cpu",
    "accelerate",
    "pytorch-metric-learning",
    "detectron2",
)


@functools.cache
def made_with() -> dict:
    """{vid2shop, commit, python, packages, system, cpu, cores, memory_gb, gpus}; null for what is not known.

    commit: of the checkout, with `-dirty` where files differ from it; in an image VID2SHOP_COMMIT of its build. cores: that this
    process may use. gpus: names, where torch is loaded and sees any.
    """
    return {
        "vid2shop": _project_version(),
        "commit": os.environ.get("VID2SHOP_COMMIT") or _commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": _gpus(),
    }


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What an x86 CPU can do, in Linux's words (avx2, avx512f); empty for others, and where the system does not say."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _project_version() -> str | None:
    for line in _lines(PROJECT / "pyproject.toml"):  # the project runs from its folder: it is not installed
        if line.startswith("version = "):
            return line.split('"')[1]
    return None


def _commit() -> str | None:
    if not (PROJECT / ".git").exists():  # a folder around the project may be another repository
        return None
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


def cpu_name() -> str | None:
    """The CPU's model, or else its kind (x86_64); None where neither is known."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine() or None


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
