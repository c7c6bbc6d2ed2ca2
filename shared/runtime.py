"""What inference runs on: the config's section `runtime` with every `auto` resolved, and OpenVINO's models compiled and run.

`choose_runtime` decides once per run and says why; both stages' loaders take what it gives.
"""

import functools
import hashlib
import importlib.metadata
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import openvino as ov
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

from shared.config import RuntimeChoice
from shared.errors import UserError
from shared.files import write_whole
from shared.weights import file_sha256, read_description
from shared.work import fingerprint

log = logging.getLogger("runtime")

MOST_STREAMS = 4  # inputs that are at work at a time: each has memory of its own
INT8_STREAMS = 1  # OpenVINO 2026.4 makes most INT8 models of two streams wrong, and not always the same ones


@dataclass(frozen=True)
class Runtime:
    """An engine, a precision and a device that fit each other, and why they were chosen."""

    engine: Literal["torch", "openvino"]
    precision: Literal["f32", "bf16", "f16", "int8"]
    device: Literal["cpu", "cuda"]
    why: str

    @property
    def settings(self) -> dict[str, str]:
        """What results depend on: for the fingerprint of a step."""
        return {"engine": self.engine, "precision": self.precision, "device": self.device}


# What training, exports and conversions use, and what all others are compared with.
PLAIN = Runtime("torch", "f32", "cpu", "torch in float32")


def choose_runtime(section: RuntimeChoice, *, only_torch: str = "") -> Runtime:
    """The runtime of a config's section, logged with its reason.

    On a CPU `auto` is OpenVINO, in bf16 where the CPU multiplies it; with a GPU torch, in bf16 or, on GPUs before Ampere, f16.
    only_torch: why `engine: auto` must be torch here, if it must.
    Raises UserError where engine, precision and device do not fit each other or this machine.
    """
    why = []
    device = section.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "runtime.device: cuda wants a GPU that torch can use, and there is none here. Set runtime.device=auto or cpu."
        )
    if device == "auto":
        device = "cpu"
        if section.engine == "openvino" or section.precision == "int8":
            why.append(f"runtime.{'engine' if section.engine == 'openvino' else 'precision'} wants the CPU")
        elif torch.cuda.is_available():
            device = "cuda"
            why.append("a GPU is here")
        else:
            why.append("no GPU is here")
    engine = section.engine
    if engine == "auto":
        engine = "torch" if device == "cuda" or (only_torch and section.precision != "int8") else "openvino"
        why.append("GPUs run torch" if device == "cuda" else only_torch or "OpenVINO is the fastest on a CPU")
    if engine == "openvino" and device == "cuda":
        raise UserError(
            "runtime: engine openvino runs on the CPU. Set runtime.device=cpu, or runtime.engine=torch for the GPU."
        )
    precision = section.precision
    if precision == "auto":
        precision, reason = _best_precision(engine, device)
        why.append(reason)
    _refuse_precision(engine, precision, device)
    chosen = Runtime(engine, precision, device, "; ".join(why) or "as the config says")
    log.info("%s, %s, on %s: %s", chosen.engine, chosen.precision, chosen.device, chosen.why)
    return chosen


def _best_precision(engine: str, device: str) -> tuple[str, str]:
    if device == "cuda":
        has_bf16 = torch.cuda.get_device_capability()[0] >= 8
        return ("bf16", "the GPU multiplies bf16") if has_bf16 else ("f16", "the GPU is older than bf16")
    if engine == "torch":
        return "f32", "torch is no faster in bf16 on most CPUs"
    return ("bf16", "the CPU multiplies bf16") if cpu_has_bf16() else ("f32", "the CPU does not multiply bf16")


def _refuse_precision(engine: str, precision: str, device: str) -> None:
    if precision == "int8" and engine == "torch":
        raise UserError(
            "runtime: precision int8 wants engine openvino, found torch. Set runtime.engine=openvino, or another precision."
        )
    if precision == "f16" and device == "cpu":
        raise UserError(
            "runtime: precision f16 wants a GPU, found device cpu. Set runtime.precision=auto, bf16 or f32."
        )
    if precision == "bf16" and device == "cpu" and not cpu_has_bf16():
        raise UserError(
            "runtime.precision: bf16 wants a CPU with avx512_bf16 or amx_bf16, which this one lacks. Set runtime.precision=auto or f32."
        )


@functools.cache
def openvino_core() -> ov.Core:
    """The only one of this process, which keeps it to its end.

    With its first use OpenVINO's CPU plugin changes the stack on which the thread handles signals, and with its end it puts back
    the one before. Of two that do not end in the reverse order, the second puts back what the first has freed already: the next
    signal (Ctrl-C, or a data worker's end) would kill the process.
    """
    return ov.Core()


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 (AVX-512 BF16 or AMX), and does not only emulate it."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def cpu_has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 in tiles (AMX): several times as fast as with AVX-512, so that what is no product weighs more."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def on_device(network: torch.nn.Module, runtime: Runtime) -> torch.nn.Module:
    """A network of torch on the runtime's device, under autocast where the precision is below f32; channels last on a GPU."""
    if runtime.device == "cuda":
        network = network.to("cuda", memory_format=torch.channels_last)
    if runtime.precision != "f32":
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[runtime.precision]
        network.forward = torch.autocast(runtime.device, dtype)(network.forward)
    return network


@dataclass(frozen=True)
class Compiled:
    """A model that OpenVINO has made ready, and how many of its inputs are at work at a time, each on a share of the threads."""

    model: ov.CompiledModel
    streams: int


@dataclass(frozen=True)
class Cache:
    """Where a compiled model is kept and what it depends on, beside the runtime, the versions and this machine."""

    folder: Path
    name: str  # of the model, in the folder
    depends: dict

    @classmethod
    def of(cls, weights: Path, name: str, sources: Iterable[Path]) -> "Cache":
        """Of a model made from a trained model's folder by the code in `sources`: kept in its subfolder `compiled`."""
        description = read_description(weights)
        depends = {key: description.get(key) for key in ("sha256", "architecture", "mean", "std")}
        return cls(weights / "compiled", name, {**depends, "code": [file_sha256(file) for file in (Path(__file__), *sources)]})


def compiled(make: Callable[[], ov.Model], runtime: Runtime, cache: Cache | None) -> Compiled:
    """What `make` gives, compiled for the CPU in the runtime's precision and for torch's number of threads.

    Where there is a cache it is read from there if it fits and else kept there, if that can be written.
    """
    threads = torch.get_num_threads()
    streams = INT8_STREAMS if runtime.precision == "int8" else min(threads, MOST_STREAMS)
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if runtime.precision == "f32" or not cpu_has_bf16() else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
    }
    core = openvino_core()
    if cache is None:
        return Compiled(core.compile_model(make(), "CPU", options), streams)
    machine = [core.get_property("CPU", key) for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    machine.append(cpu_has_amx())
    versions = [ov.__version__, *map(importlib.metadata.version, ("torch", "torchvision", "timm"))]
    mark = fingerprint([cache.depends, runtime.settings, options, machine, versions])
    path = cache.folder / f"{cache.name}.{runtime.precision}.{mark[:16]}.blob"
    if path.is_file():
        try:
            return Compiled(core.import_model(_read_kept(path), "CPU", options), streams)
        except Exception as error:  # OpenVINO raises whatever the bytes made it stumble over
            log.warning("%s: cannot be used and is made anew (%s)", path, str(error).partition("\n")[0])
    model = core.compile_model(make(), "CPU", options)
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        for old in cache.folder.glob(f"{cache.name}.{runtime.precision}.*.blob"):
            old.unlink()
        write_whole(path, lambda beside: _keep(beside, model.export_model().getbuffer()))
    except OSError as error:
        log.info("%s: the compiled model is not kept (%s)", cache.folder, error.strerror)
    return Compiled(model, streams)


def _keep(path: Path, model: memoryview) -> None:
    """Writes a compiled model behind its SHA-256: OpenVINO takes many a damaged one without a word."""
    with open(path, "wb") as file:
        file.write(hashlib.sha256(model).digest())
        file.write(model)


def _read_kept(path: Path) -> bytes:
    """What `_keep` wrote. Raises ValueError where it is damaged."""
    with open(path, "rb") as file:
        digest, model = file.read(hashlib.sha256().digest_size), file.read()
    if hashlib.sha256(model).digest() != digest:
        raise ValueError("it is damaged: its SHA-256 is another")
    return model


class Workers:
    """Threads that each have inference requests of their own to one or more models, and work on one thing at a time."""

    def __init__(self, *models: Compiled):
        self.n = min(model.streams for model in models)
        self._idle: SimpleQueue = SimpleQueue()
        for _ in range(self.n):
            self._idle.put([Request(each.model) for each in models])
        # torch in a worker has the thread that it is called on: OpenVINO has the others
        self._pool = ThreadPoolExecutor(self.n, "infer", initializer=torch.set_num_threads, initargs=(1,))

    def map(self, work: Callable, things: Iterable) -> list:
        """[work(*requests, thing) for each thing], in their order.

        Only a few wait at a time: a process that ends does so when all that wait are done.
        """
        done, waiting = [], deque()
        try:
            for thing in things:
                if len(waiting) == 2 * self.n:
                    done.append(waiting.popleft().result())
                waiting.append(self._pool.submit(self._one, work, thing))
            return done + [each.result() for each in waiting]
        finally:
            for each in waiting:
                each.cancel()

    @torch.inference_mode()
    def _one(self, work: Callable, thing: object) -> object:
        requests = self._idle.get()
        try:
            return work(*requests, thing)
        finally:
            self._idle.put(requests)


class Request:
    """Called with a tensor, it gives the model's outputs, which hold until the next call."""

    def __init__(self, model: ov.CompiledModel):
        self._request = model.create_infer_request()
        self._outputs = range(len(model.outputs))

    def __call__(self, given: torch.Tensor) -> list[torch.Tensor]:
        self._request.set_input_tensor(ov.Tensor(given.contiguous().numpy()))
        self._request.infer()
        return [torch.from_numpy(self._request.get_output_tensor(k).data) for k in self._outputs]


def from_torch(network: torch.nn.Module, *examples: torch.Tensor) -> ov.Model:
    """The network, traced, as an OpenVINO model whose inputs have as many axes as the examples, each of any length."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, and OpenVINO's converter still takes it
        free = [ov.PartialShape([-1] * example.ndim) for example in examples]
        # torch would trace and run it twice more to compare, which takes four times as long
        traced = TorchScriptPythonDecoder(network.eval(), example_input=examples, trace_kwargs={"check_trace": False})
        return ov.convert_model(traced, example_input=examples, input=free)
