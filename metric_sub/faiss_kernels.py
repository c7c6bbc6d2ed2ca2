"""FAISS, with the matrix kernels that this CPU can run."""

import importlib
import os
from collections.abc import Set
from types import ModuleType

from shared.machine import cpu_flags

CHOICE = "OPENBLAS_CORETYPE"  # OpenBLAS reads it once, as it is loaded
OWN = ("VID2SHOP_FAISS_KERNELS", "own")  # a variable and its value that leave the choice to FAISS's OpenBLAS
AVX2 = {"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"}
KERNELS = {  # OpenBLAS's name for kernels -> Linux's for the instructions that they may have; the widest first
    "SkylakeX": AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "Haswell": AVX2,
}


def import_faiss() -> ModuleType:
    """FAISS; has its OpenBLAS, where nobody has loaded it yet, take the kernels for what the CPU can do.

    FAISS's wheel brings an OpenBLAS of 2021 (0.3.15), which knows CPUs by their model: on one that is younger it takes kernels of before
    AVX, and searching takes five times as long. Once the wheel has one that knows today's CPUs, this can go. Who has set
    OPENBLAS_CORETYPE is obeyed. FAISS with another BLAS does not read it.
    """
    importlib.import_module("numpy")  # which FAISS imports: its own OpenBLAS is newer, and must choose for itself
    kernels = kernels_for(cpu_flags())
    left_alone = CHOICE in os.environ or os.environ.get(OWN[0]) == OWN[1]
    chosen = {CHOICE: kernels} if kernels and not left_alone else {}
    os.environ.update(chosen)
    try:
        return importlib.import_module("faiss")
    finally:
        for name in chosen:
            del os.environ[name]  # other libraries' OpenBLAS and other programs choose for themselves


def kernels_for(flags: Set[str]) -> str | None:
    """OpenBLAS's name for the fastest kernels that a CPU with these flags runs; None where it is to choose for itself."""
    return next((name for name, needed in KERNELS.items() if needed <= flags), None)
