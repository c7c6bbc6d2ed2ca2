"""FAISS's matrix kernels, by what OpenBLAS itself tells of the libraries that a process has loaded."""

import json
import os
import subprocess
import sys

import pytest

from metric_sub.faiss_kernels import CHOICE, OWN, kernels_for
from shared.machine import cpu_flags

AVX2 = {"sse2", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"}
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
TELL = """
import json, os, threadpoolctl
libraries = [each for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"]
print(json.dumps([{each["filepath"].split("/")[-2]: each["architecture"] for each in libraries}, os.environ.get("OPENBLAS_CORETYPE")]))
"""


def kernels_loaded_by(module: str, flags: set[str], **variables: str) -> tuple[dict[str, str], str | None]:
    """{folder of an OpenBLAS: its kernels} of a process on a CPU of these flags that imports the module; OPENBLAS_CORETYPE after it."""
    environment = {name: value for name, value in os.environ.items() if name not in (CHOICE, OWN[0])} | variables
    code = f"import shared.machine\nshared.machine.cpu_flags = lambda: {flags}\nimport {module}\n{TELL}"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    loaded, left = json.loads(told.stdout)
    if not cpu_flags() >= AVX2 or (module != "numpy" and "faiss_cpu.libs" not in loaded):
        pytest.skip("FAISS here has another BLAS, or the CPU no AVX2")
    return loaded, left


@pytest.mark.parametrize(
    ("flags", "kernels"),
    [
        (set(), None),  # ARM's flags have other names
        ({"sse2", "avx", "fma"}, None),
        (AVX512 - {"bmi2"}, None),  # a virtual machine that hides some
        (AVX2, "Haswell"),
        (AVX2 | {"avx512f", "avx512cd"}, "Haswell"),  # Knights Landing
        (AVX512, "SkylakeX"),
        (AVX512 | {"avx512_bf16", "amx_bf16"}, "SkylakeX"),
    ],
)
def test_kernels_by_what_the_cpu_can_do(flags, kernels):
    assert kernels_for(flags) == kernels


@pytest.mark.parametrize("module", ["metric_sub.search", "metric_sub.evaluate"])  # the second has pytorch-metric-learning first
def test_faiss_has_the_kernels_chosen_and_numpy_its_own(module):
    (of_numpy, _), (loaded, left) = kernels_loaded_by("numpy", AVX2), kernels_loaded_by(module, AVX2)
    assert loaded["faiss_cpu.libs"] == "Haswell" and left is None
    assert loaded.items() >= of_numpy.items()


def test_faiss_has_the_widest_kernels_that_this_cpu_runs():
    loaded, _ = kernels_loaded_by("metric_sub.search", set(cpu_flags()))
    assert loaded["faiss_cpu.libs"] == ("SkylakeX" if cpu_flags() >= AVX512 else "Haswell")


def test_a_choice_that_was_made_is_obeyed():
    loaded, left = kernels_loaded_by("metric_sub.search", AVX2, OPENBLAS_CORETYPE="Nehalem")
    assert loaded["faiss_cpu.libs"] == left == "Nehalem"


def test_the_choice_can_be_left_to_faiss():
    by_itself, _ = kernels_loaded_by("faiss", AVX2)
    assert kernels_loaded_by("metric_sub.search", AVX2, **dict([OWN]))[0]["faiss_cpu.libs"] == by_itself["faiss_cpu.libs"]
