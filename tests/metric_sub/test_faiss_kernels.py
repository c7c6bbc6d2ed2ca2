"""FAISS's matrix kernels, by what OpenBLAS itself tells of the libraries that a process has loaded."""

import json
import os
import subprocess
import sys

import pytest

from metric_sub.faiss_kernels import CHOICE, kernels_for
from shared.machine import cpu_flags

AVX2 = {"sse2", "avx", "avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
TELL = """
import json, os, threadpoolctl
libraries = [each for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"]
print(json.dumps([{each["filepath"].split("/")[-2]: each["architecture"] for each in libraries}, os.environ.get("OPENBLAS_CORETYPE")]))
"""


def kernels_loaded_by(module: str, **variables: str) -> tuple[dict[str, str], str | None]:
    """{folder of an OpenBLAS: its kernels} of a process that has imported the module, and the choice in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != CHOICE} | variables
    told = subprocess.run(
        [sys.executable, "-c", f"import {module}\n{TELL}"], env=environment, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(told.stdout))


@pytest.mark.parametrize(
    ("flags", "kernels"),
    [
        (set(), None),  # ARM's flags have other names
        ({"sse2", "avx", "fma"}, None),
        (AVX2, "Haswell"),
        (AVX2 | {"avx512f", "avx512cd"}, "Haswell"),  # Knights Landing
        (AVX512, "SkylakeX"),
        (AVX512 | {"avx512_bf16", "amx_bf16"}, "SkylakeX"),
    ],
)
def test_kernels_by_what_the_cpu_can_do(flags, kernels):
    assert kernels_for(flags) == kernels


@pytest.mark.parametrize("module", ["metric_sub.search", "metric_sub.evaluate"])  # the second has pytorch-metric-learning first
def test_faiss_has_the_kernels_of_this_cpu_and_numpy_its_own(module):
    (of_numpy, _), (loaded, left) = kernels_loaded_by("numpy"), kernels_loaded_by(module)
    if "faiss_cpu.libs" not in loaded or kernels_for(cpu_flags()) is None:
        pytest.skip("FAISS here has another BLAS, or the CPU no AVX2")
    assert loaded["faiss_cpu.libs"] == kernels_for(cpu_flags()) and left is None
    assert loaded.items() >= of_numpy.items()


def test_a_choice_that_was_made_is_obeyed():
    loaded, left = kernels_loaded_by("metric_sub.search", OPENBLAS_CORETYPE="Nehalem")
    if "faiss_cpu.libs" not in loaded:
        pytest.skip("FAISS here has another BLAS")
    assert loaded["faiss_cpu.libs"] == left == "Nehalem"
