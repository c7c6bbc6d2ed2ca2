"""What this machine can do: cores, CPU flags, versions, and how fast it multiplies matrices. And the harness of the other benchmarks.

    bash run.sh bench side_by_side [--threads 0] [--json FILE]

A benchmark gives `measure` its sides: for each name a function without arguments that prepares it (loads the model) and gives
the function to time. All are called in turns, A B A B, so that whatever else the machine does falls on each alike; medians and
ratios come from these turns of one run. `in_children` gives each side a process of its own, which tells its peak memory; its
function must then be picklable (of a module's top level, or a functools.partial of one). `report_of` makes of it what
`publish` prints as a table and writes as JSON.
"""

import argparse
import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shared.cli import use_threads
from shared.errors import UserError
from shared.machine import cpu_flags, cpu_name
from shared.runtime import cpu_has_bf16, openvino_core

FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)  # what decides how fast a CPU multiplies
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "openvino",
    "nncf",
    "numpy",
    "opencv-python-headless",
    "av",
    "faiss-cpu",
    "detectron2",
)
SIDE = 1024  # rows and columns of the matrices that are multiplied
BY_RUN_SH = ("GLIBC_TUNABLES", "OMP_WAIT_POLICY")  # what run.sh sets: huge pages, and threads that sleep while they wait
AS_IT_COMES = {"VID2SHOP_FAISS_KERNELS": "own"}  # what keeps metric_sub from choosing FAISS's kernels
MULTIPLICATIONS = 100  # of which the fastest counts: a limit, not a habit

Prepare = Callable[[], Callable[[], object]]


@dataclass
class Measured:
    """One side's calls: seconds of the wall and of the processors, in order; its process's peak memory; what its last call gave."""

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None  # None where all sides share a process
    gave: object = None


def measure(
    sides: dict[str, Prepare],
    *,
    rounds: int,
    warm_up: int = 1,
    in_children: bool = False,
    threads: int = 0,
    as_they_come: Collection[str] = (),
) -> dict[str, Measured]:
    """Each side called `warm_up` times untimed and then once in each of the rounds, the sides in turns.

    In children each side has `threads` threads (0: every core), and what its calls give must be picklable; those that are to run
    `as_they_come` have memory, threads and FAISS's kernels as any program has them, the others as run.sh and metric_sub set them.
    """
    measured = {name: Measured() for name in sides}
    runners: dict[str, Child | _Here] = {}
    try:
        for name, prepare in sides.items():
            runners[name] = Child(prepare, threads, as_it_comes=name in as_they_come) if in_children else _Here(prepare)
        for number in range(warm_up + rounds):
            for name, runner in runners.items():
                wall, processor, gave = runner.call()
                measured[name].gave = gave
                if number >= warm_up:
                    measured[name].seconds.append(wall)
                    measured[name].processor_seconds.append(processor)
        for name, runner in runners.items():
            measured[name].peak_bytes = runner.peak_bytes()
    finally:
        for runner in runners.values():
            runner.close()
    return measured


def add_sides(parser: argparse.ArgumentParser, base: str, names: Iterable[str]) -> None:
    """The option --side: the names but the base, and of those bf16 only where this CPU multiplies it."""
    choices = [name for name in names if name != base and (name != "bf16" or cpu_has_bf16())]
    words = f"beside {base}: {', '.join(choices)}; again for more (default: all that run here)"
    parser.add_argument("--side", action="append", choices=choices, metavar="NAME", help=words)


class _Here:
    """A side that runs in this process."""

    def __init__(self, prepare: Prepare):
        self._function = prepare()

    def call(self) -> tuple[float, float, object]:
        return _timed(self._function)

    def peak_bytes(self) -> None:
        return None

    def close(self) -> None:
        pass


class Child:
    """A side in a process of its own, which answers one call at a time: seconds, seconds of the processors, what it gave.

    Raises the UserError that the side raises.
    """

    def __init__(self, prepare: Prepare, threads: int, *, as_it_comes: bool = False):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(prepare, threads, theirs), daemon=True)
        ours = dict(os.environ)
        if as_it_comes:
            for name in BY_RUN_SH:
                os.environ.pop(name, None)
            os.environ.update(AS_IT_COMES)
        try:
            self._process.start()
        finally:
            for name in AS_IT_COMES.keys() - ours.keys():
                os.environ.pop(name, None)
            os.environ.update(ours)
        theirs.close()
        self._answer()

    def call(self) -> tuple[float, float, object]:
        self._pipe.send("call")
        return self._answer()

    def peak_bytes(self) -> int:
        """The most memory that it has held, what it gave included, but not the copy of that for us."""
        self._pipe.send("peak")
        return self._answer()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> object:
        try:
            answer = self._pipe.recv()
            if isinstance(answer, UserError):
                raise answer
            return answer
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"a side's process ended with exit code {self._process.exitcode}; its words are above"
            ) from None


def _serve(prepare: Prepare, threads: int, pipe) -> None:
    use_threads(threads)
    peak = 0
    try:
        function = prepare()
        use_threads(threads)  # also of the libraries that prepare has imported
        pipe.send("ready")
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                return
            if asked == "peak":
                pipe.send(peak)
                continue
            answer = _timed(function)
            peak = max(peak, peak_of_process())
            pipe.send(answer)
            del answer  # so that the next call does not find it
            forget_peak()
    except UserError as error:
        pipe.send(error)


def _timed(function: Callable[[], object]) -> tuple[float, float, object]:
    wall, processor = time.perf_counter(), time.process_time()
    gave = function()
    return time.perf_counter() - wall, time.process_time() - processor, gave


def peak_of_process() -> int:
    """The most memory that this process has held, in bytes (Linux's VmHWM: getrusage would count what the parent held)."""
    return told_bytes("/proc/self/status", "VmHWM")


def told_bytes(path: str, *keys: str) -> int:
    """The sum, in bytes, of what a file of /proc tells in kB under these keys; a process that is ending tells of none: 0."""
    told = Path(path).read_text(encoding="ascii").split()
    return 1024 * sum(int(told[told.index(f"{key}:") + 1]) for key in keys if f"{key}:" in told)


def report_of(
    name: str,
    measured: dict[str, Measured],
    *,
    base: str,
    unit: str,
    per_call: float,
    flop: float = 0.0,
    limits: dict[str, float] | None = None,
    limit_of: dict[str, str] | None = None,
    beside: dict[str, dict[str, object]] | None = None,
) -> dict:
    """The benchmark's figures, ready for JSON: the machine, and of each side its times, ratios to `base` and memory.

    unit: what `per_call` of are done in one call (picture, frame). flop: floating-point operations of one unit; with limits
    (GFLOP/s, of `matrix_limits`) and limit_of (side -> the limit that it could reach) the share of the limit is told.
    beside: more figures of a side (agreement with another), by their names. A ratio of 2 is twice as fast as the base.
    """
    limits, limit_of, beside = limits or {}, limit_of or {}, beside or {}
    median = {side: statistics.median(of_side.seconds) / per_call for side, of_side in measured.items()}
    rows = {}
    for side, of_side in measured.items():
        row = {
            "seconds": median[side],
            "ratio": median[base] / median[side],
            "processor_seconds": statistics.median(of_side.processor_seconds) / per_call,
            "all_seconds": [value / per_call for value in of_side.seconds],
        }
        if of_side.peak_bytes is not None:
            row["peak_bytes"] = of_side.peak_bytes
        if flop:
            row["gflop_per_s"] = flop / median[side] / 1e9
            if limit := limits.get(limit_of.get(side)):
                row["share_of_limit"] = row["gflop_per_s"] / limit
        rows[side] = row | beside.get(side, {})
    return {
        "name": name,
        "unit": unit,
        "per_call": per_call,
        "base": base,
        "flop_per_unit": flop,
        "limits_gflop_per_s": limits,
        "sides": rows,
        "machine": machine_facts(),
    }


HEADINGS = {  # a row's key: heading, how a value is written
    "seconds": ("ms per {unit}", lambda value: _three_digits(value * 1e3)),
    "ratio": ("x {base}", lambda value: f"{value:.2f}"),
    "processor_seconds": ("CPU ms", lambda value: _three_digits(value * 1e3)),
    "peak_bytes": ("peak MB", lambda value: f"{value / 1e6:.0f}"),
    "gflop_per_s": ("GFLOP/s", lambda value: f"{value:.0f}"),
    "share_of_limit": ("of limit", lambda value: f"{value:.0%}"),
}


def table_of(report: dict) -> str:
    """The report in lines of text: the sides' rows, and what the machine is."""
    rows = report["sides"]
    keys = [key for key in dict.fromkeys(key for row in rows.values() for key in row) if key != "all_seconds"]
    heads = ["side", *(HEADINGS.get(key, (key, None))[0].format(**report) for key in keys)]
    lines = [heads]
    for side, row in rows.items():
        lines.append([side, *(_written(key, row[key]) if key in row else "" for key in keys)])
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    text = [f"{report['name']}: medians of {len(next(iter(rows.values()))['all_seconds'])} turns"]
    text += [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if report["limits_gflop_per_s"]:
        text.append(
            "matrix-multiply limit, GFLOP/s: "
            + ", ".join(f"{key} {value:.0f}" for key, value in report["limits_gflop_per_s"].items())
        )
    machine = report["machine"]
    text.append(
        f"{machine['cpu']}, {machine['cores']} cores ({' '.join(machine['flags'])}), load {machine['load']:.1f} before"
    )
    text.append(", ".join(f"{key} {value}" for key, value in machine["versions"].items()))
    return "\n".join(text)


def _three_digits(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _written(key: str, value: object) -> str:
    write = HEADINGS.get(key, (key, None))[1]
    if write:
        return write(value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def publish(reports: Iterable[dict], path: Path | None) -> None:
    """Prints the reports' tables on stdout and writes them as JSON, {name: report}, where a path is given."""
    reports = list(reports)
    print("\n\n".join(table_of(report) for report in reports))
    if path:
        path.write_text(json.dumps({report["name"]: report for report in reports}, indent=2) + "\n", encoding="utf-8")


def machine_facts() -> dict:
    """CPU, cores that this process may use, flags, memory (bytes), load of the last minute, versions of libraries."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def forget_peak() -> None:
    """From now on `peak_of_process` tells of what comes, and of what the process holds now."""
    with contextlib.suppress(OSError):  # a kernel may be made without it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def flop_of(function: Callable[[], object]) -> int:
    """Floating-point operations of torch's convolutions and matrix products in a call (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def matrix_limits(threads: int) -> dict[str, float]:
    """GFLOP/s of products of two square matrices of SIDE, the fastest of several: `torch f32`, `torch bf16`, `openvino f32`, and
    `openvino bf16` and `openvino int8` where OpenVINO has them here. threads: 0 is every core."""
    import openvino as ov
    import torch

    threads = use_threads(threads)
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((SIDE, SIDE)).astype(np.float32) for _ in range(2))
    limits = {}
    for name, dtype in (("torch f32", torch.float32), ("torch bf16", torch.bfloat16)):
        a, b = (torch.from_numpy(each).to(dtype) for each in (left, right))
        limits[name] = _fastest(lambda a=a, b=b: a @ b)
    core = openvino_core()
    can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for name, capability in (("f32", "FP32"), ("bf16", "BF16"), ("int8", "INT8")):
        if capability in can:
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if name == "bf16" else "f32",
                "INFERENCE_NUM_THREADS": threads,
            }
            request = core.compile_model(_product(right, name == "int8"), "CPU", options).create_infer_request()
            request.set_input_tensor(ov.Tensor(left))
            limits[f"openvino {name}"] = _fastest(request.infer)
    return limits


def _product(right: np.ndarray, int8: bool):
    """An OpenVINO model of `left @ right`, in int8 as NNCF would write it."""
    import openvino as ov
    from openvino import opset13 as ops

    left = ops.parameter([SIDE, SIDE], np.float32)
    if not int8:
        return ov.Model([ops.matmul(left, ops.constant(right), False, False)], [left])
    step = np.float32(4 / 127)
    low, high = np.float32(-4 - step), np.float32(4)
    quantized = ops.fake_quantize(left, low, high, low, high, 256)
    weights = ops.convert(ops.constant(np.clip(np.round(right / step), -127, 127).astype(np.int8)), np.float32)
    return ov.Model([ops.matmul(quantized, ops.multiply(weights, step), False, False)], [left])


def _fastest(function: Callable[[], object]) -> float:
    function()
    seconds = min(_timed(function)[0] for _ in range(MULTIPLICATIONS))
    return 2 * SIDE**3 / seconds / 1e9


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench side_by_side", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="(default: every core)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    facts = machine_facts() | {"limits_gflop_per_s": matrix_limits(options.threads)}
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
