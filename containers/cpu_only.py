"""Removes from an environment what torch never loads on a CPU: `ENVIRONMENT/bin/python cpu_only.py`.

PyPI's torch for Linux needs some of NVIDIA's libraries to load at all, even where nothing will run on a GPU; the others, among them
the largest, and Triton are opened on a GPU alone. Which those are tells the process itself, once torch and torchvision are loaded and
have computed: a file of the packages `nvidia` and `triton` that it has not mapped into its memory is removed.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

import torch
import torchvision

CUDA_PACKAGES = ("nvidia", "triton")


def mapped_files() -> set[Path]:
    """The files that this process has mapped into its memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]).resolve() for line in lines if "/" in line}


def remove_unused(packages: Path, used: set[Path]) -> int:
    """Removes the files of CUDA_PACKAGES in `packages` (site-packages) that are not `used`, and empty folders; gives the bytes."""
    freed = 0
    for package in CUDA_PACKAGES:
        for path in sorted((packages / package).rglob("*"), reverse=True):  # what a folder holds comes before it
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.resolve() not in used:
                freed += path.lstat().st_size
                path.unlink()
    shutil.rmtree(packages / "triton", ignore_errors=True)
    return freed


def main() -> None:
    network = torchvision.models.resnet18()
    network(torch.rand(2, 3, 64, 64)).sum().backward()
    torch.linalg.eigh(torch.eye(8))
    torchvision.ops.nms(torch.rand(4, 4), torch.rand(4), 0.5)
    freed = remove_unused(Path(sysconfig.get_path("purelib")), mapped_files())
    print(f"removed {freed / 1e6:.0f} MB that only GPUs need", file=sys.stderr)


if __name__ == "__main__":
    main()
