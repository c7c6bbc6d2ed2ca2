"""What inference runs on: every combination's answer, OpenVINO against torch, workers, and compiled models kept on disk."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch import nn

import shared.runtime
from shared.config import RuntimeChoice
from shared.errors import UserError
from shared.runtime import (
    PLAIN,
    Cache,
    Request,
    Runtime,
    Workers,
    choose_runtime,
    compiled,
    cpu_has_amx,
    from_torch,
    on_device,
    openvino_core,
)
from tests.conftest import PROJECT

F32 = Runtime("openvino", "f32", "cpu", "")
CPUINFO = Path("/proc/cpuinfo")

HEARS_SIGNALS = """
import gc, os, signal
import torch
from shared.runtime import Runtime, compiled, from_torch

signal.signal(signal.SIGTERM, lambda *_: print("heard"))
net = torch.nn.Linear(2, 2)
models = [compiled(lambda: from_torch(net, torch.zeros(1, 2)), Runtime("openvino", "f32", "cpu", ""), None) for _ in range(2)]
while models:
    models.pop(0)
    gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""


@pytest.fixture
def machine(monkeypatch):
    """machine(gpu, bf16) makes this one seem so: gpu None or the generation of its compute capability."""

    def seems(gpu=None, bf16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (gpu, 0))
        monkeypatch.setattr(shared.runtime, "cpu_has_bf16", lambda: bf16)

    return seems


def choose(engine="auto", precision="auto", device="auto", **more):
    return choose_runtime(RuntimeChoice(engine=engine, precision=precision, device=device), **more)


@pytest.mark.parametrize(
    "asked, gpu, bf16, expected",
    [
        ((), None, True, ("openvino", "bf16", "cpu")),
        ((), None, False, ("openvino", "f32", "cpu")),
        ((), 8, True, ("torch", "bf16", "cuda")),
        ((), 7, True, ("torch", "f16", "cuda")),
        (("torch",), None, True, ("torch", "f32", "cpu")),
        (("torch", "bf16"), None, True, ("torch", "bf16", "cpu")),
        (("openvino",), 9, True, ("openvino", "bf16", "cpu")),
        (("openvino", "f32"), None, True, ("openvino", "f32", "cpu")),
        (("auto", "int8"), None, True, ("openvino", "int8", "cpu")),
        (("auto", "int8"), 9, False, ("openvino", "int8", "cpu")),
        (("auto", "auto", "cpu"), 9, True, ("openvino", "bf16", "cpu")),
        (("auto", "f32", "cuda"), 9, False, ("torch", "f32", "cuda")),
        (("torch", "f16", "cuda"), 7, False, ("torch", "f16", "cuda")),
        (("auto", "bf16", "cuda"), 9, False, ("torch", "bf16", "cuda")),
    ],
)
def test_what_is_chosen(machine, asked, gpu, bf16, expected):
    machine(gpu, bf16)
    chosen = choose(*asked)
    assert (chosen.engine, chosen.precision, chosen.device) == expected
    assert chosen.settings == dict(zip(("engine", "precision", "device"), expected, strict=True))


@pytest.mark.parametrize(
    "asked, gpu, bf16, words",
    [
        (("auto", "auto", "cuda"), None, True, r"runtime.device: cuda wants a GPU .* none here"),
        (("torch", "int8"), None, True, "precision int8 wants engine openvino, found torch"),
        (("auto", "int8", "cuda"), 9, True, "precision int8 wants engine openvino, found torch"),
        (("auto", "f16"), None, True, "precision f16 wants a GPU, found device cpu"),
        (("openvino", "f16"), 9, True, "precision f16 wants a GPU, found device cpu"),
        (("openvino", "auto", "cuda"), 9, True, "openvino runs on the CPU"),
        (("auto", "bf16"), None, False, "avx512_bf16 or amx_bf16, which this one lacks"),
        (("torch", "bf16", "cpu"), 9, False, "avx512_bf16 or amx_bf16, which this one lacks"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(machine, asked, gpu, bf16, words):
    machine(gpu, bf16)
    with pytest.raises(UserError, match=words):
        choose(*asked)


def test_the_choice_and_its_reason_are_in_the_log(machine, caplog):
    machine(bf16=False)
    with caplog.at_level(logging.INFO, "runtime"):
        choose()
    assert "openvino, f32, on cpu" in caplog.text and "the CPU does not multiply bf16" in caplog.text


def test_what_must_be_torch_is_torch_unless_the_config_says_otherwise(machine):
    machine()
    left_open = choose(only_torch="a reason")
    assert (left_open.engine, left_open.precision) == ("torch", "f32") and "a reason" in left_open.why
    assert choose("openvino", only_torch="a reason").engine == "openvino"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))

    def forward(self, images):
        return self.layers(images)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@torch.inference_mode()
def test_a_traced_network_takes_any_size(net):
    model = compiled(lambda: from_torch(net, torch.zeros(1, 3, 32, 32)), F32, None)
    request = Request(model.model)
    for shape in ((1, 3, 32, 32), (1, 3, 17, 40), (1, 3, 64, 9)):
        images = torch.rand(shape)
        assert torch.allclose(request(images)[0], net(images), atol=1e-5)


def test_workers_keep_the_order_and_no_request_serves_two_at_a_time(net):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = Workers(compiled(lambda: from_torch(net, torch.zeros(1, 3, 32, 32)), F32, None))
        busy, lock = set(), threading.Lock()

        def work(request, size):
            with lock:
                assert request not in busy
                busy.add(request)
            found = request(torch.full((1, 3, size, size), size / 100))[0].clone()
            with lock:
                busy.discard(request)
            return size, found

        sizes = [9, 33, 20, 9, 60, 17, 9] * 3
        found = workers.map(work, sizes)
        assert [size for size, _ in found] == sizes
        with torch.inference_mode():
            for size, features in found:
                assert torch.allclose(features, net(torch.full((1, 3, size, size), size / 100)), atol=1e-5)
        assert torch.get_num_threads() == 2  # a worker's own number is its own
    finally:
        torch.set_num_threads(before)


def test_what_fails_in_a_worker_fails_the_call_and_the_next_one_works(net):
    workers = Workers(compiled(lambda: from_torch(net, torch.zeros(1, 3, 32, 32)), F32, None))

    def work(request, size):
        if size < 0:
            raise ValueError(f"size {size}")
        return tuple(request(torch.zeros(1, 3, size, size))[0].shape)

    for _ in range(5):  # more often than there are requests
        with pytest.raises(ValueError, match="size -1"):
            workers.map(work, [8, -1])
    assert workers.map(work, [9]) == [(1, 4, 4, 4)]
    assert workers.map(work, []) == []


@pytest.fixture
def made():
    """(make, calls): `make` gives a model that doubles, and each call of it is counted."""
    calls = []

    def make():
        calls.append(1)
        given = ops.parameter([-1], np.float32)
        return ov.Model([ops.multiply(given, np.float32(2))], [given])

    return make, calls


def doubled(model):
    return Request(model.model)(torch.tensor([1.5, 3.0]))[0].tolist()


@pytest.mark.parametrize(("precision", "streams"), [("f32", 2), ("int8", 1)])
def test_int8_runs_in_one_stream(precision, streams, made, monkeypatch):
    """Of an INT8 model in two streams OpenVINO gives something else each time that it is compiled."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model = compiled(made[0], Runtime("openvino", precision, "cpu", ""), None)
    assert model.streams == model.model.get_property("NUM_STREAMS") == streams


def test_a_compiled_model_is_read_from_its_cache(made, tmp_path):
    make, calls = made
    cache = Cache(tmp_path / "compiled", "front", {"weights": "a"})
    assert doubled(compiled(make, F32, cache)) == doubled(compiled(make, F32, cache)) == [3, 6]
    assert len(calls) == 1
    other = Cache(tmp_path / "compiled", "front", {"weights": "b"})
    assert doubled(compiled(make, F32, other)) == [3, 6] and len(calls) == 2
    [kept] = (tmp_path / "compiled").iterdir()  # the old one made room
    kept.write_bytes(b"half a mod")
    assert doubled(compiled(make, F32, other)) == [3, 6] and len(calls) == 3
    assert doubled(compiled(make, F32, other)) == [3, 6] and len(calls) == 3


@pytest.mark.parametrize("change", [{"mean": [0.1] * 3}, {"std": [2.0] * 3}, {"architecture": {"a": 2}}, {"sha256": "0" * 64}, {}])
def test_a_model_is_made_anew_where_its_description_is_another(change, made, tmp_path):
    make, calls = made
    description = {"sha256": "1" * 64, "architecture": {"a": 1}, "mean": [0.5] * 3, "std": [1.0] * 3, "metrics": {"mAP": 0.1}}
    for told in (description, {**description, **change, "metrics": {"mAP": 0.2}}):
        (tmp_path / "model.json").write_text(json.dumps(told))
        compiled(make, F32, Cache.of(tmp_path, "front", [Path(__file__)]))
    assert len(calls) == (2 if change else 1)


def test_a_model_is_made_anew_where_the_cpu_multiplies_otherwise(made, tmp_path, monkeypatch):
    make, calls = made
    for amx in (True, True, False):
        monkeypatch.setattr(shared.runtime, "cpu_has_amx", lambda amx=amx: amx)
        compiled(make, F32, Cache(tmp_path, "front", {}))
    assert len(calls) == 2


@pytest.mark.skipif(not CPUINFO.is_file() or "flags" not in CPUINFO.read_text(), reason="no list of an x86 CPU's flags is here")
def test_amx_is_found_where_the_kernel_names_it():
    [flags, *_] = [line.split() for line in CPUINFO.read_text().splitlines() if line.startswith("flags")]
    assert cpu_has_amx() == ("amx_bf16" in flags)


def test_few_things_wait_for_the_workers_and_none_after_an_error(made, two_threads):
    """So an interrupted run does not work off all that was to come."""
    make, _ = made
    workers = Workers(compiled(make, F32, None))
    n, given, begun, released = workers.n, [], [], threading.Event()

    def things():
        for number in range(50):
            given.append(number)
            yield number

    def work(_, number):
        begun.append(number)
        if number == 0:
            raise ValueError("not this one")
        released.wait(60)
        return number

    with pytest.raises(ValueError, match="not this one"):
        workers.map(work, things())
    released.set()
    assert workers.map(lambda _, number: -number, range(50)) == [-number for number in range(50)]
    assert len(given) == 2 * n + 1 and len(begun) <= n + 1  # one failed, and a worker each was at another


def flipped(data: bytes, place: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [*(lambda data, k=k: flipped(data, k) for k in (0, 31, 32, 100, -1)), lambda data: data[:-1], lambda data: b""],
    ids=["first bit", "last of the hash", "first of the model", "in the middle", "last bit", "cut off", "empty"],
)
def test_a_damaged_compiled_model_is_not_imported_and_made_anew(damage, made, tmp_path, monkeypatch, caplog):
    make, calls = made
    cache = Cache(tmp_path / "compiled", "front", {})
    compiled(make, F32, cache)
    [kept] = (tmp_path / "compiled").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    with monkeypatch.context() as patched:
        patched.setattr(shared.runtime, "openvino_core", lambda: Importer(AssertionError("it was imported")))
        assert doubled(compiled(make, F32, cache)) == [3, 6] and len(calls) == 2
    assert f"{kept}: cannot be used and is made anew (it is damaged" in caplog.text
    assert doubled(compiled(make, F32, cache)) == [3, 6] and len(calls) == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), RuntimeError()]
)
def test_whatever_openvino_raises_of_a_compiled_model_it_is_made_anew(error, made, tmp_path, monkeypatch, caplog):
    make, calls = made
    cache = Cache(tmp_path / "compiled", "front", {})
    compiled(make, F32, cache)
    monkeypatch.setattr(shared.runtime, "openvino_core", lambda: Importer(error))
    assert doubled(compiled(make, F32, cache)) == [3, 6] and len(calls) == 2
    assert "cannot be used and is made anew" in caplog.text


class Importer:
    """The process's OpenVINO core, but for importing, which raises."""

    def __init__(self, error):
        self.error, self.core = error, openvino_core()

    def __getattr__(self, name):
        return getattr(self.core, name)

    def import_model(self, *_):
        raise self.error


def test_models_of_other_names_and_precisions_stay(made, tmp_path):
    make, calls = made
    for name, precision in (("front", "f32"), ("front", "int8"), ("box_head", "f32")) * 2:
        compiled(make, Runtime("openvino", precision, "cpu", ""), Cache(tmp_path, name, {}))
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3


def test_where_nothing_can_be_kept_it_is_compiled_each_time(made, tmp_path, caplog):
    make, calls = made
    (tmp_path / "compiled").write_text("a file where the folder would be")
    cache = Cache(tmp_path / "compiled", "front", {})
    with caplog.at_level(logging.INFO, "runtime"):
        assert doubled(compiled(make, F32, cache)) == doubled(compiled(make, F32, cache)) == [3, 6]
    assert len(calls) == 2 and "is not kept" in caplog.text


@torch.inference_mode()
def test_torch_below_float32_runs_under_autocast(net):
    images = torch.rand(1, 3, 16, 16)
    plain = net(images)
    assert torch.equal(on_device(net, PLAIN)(images), plain)
    low = on_device(net, Runtime("torch", "bf16", "cpu", ""))(images)
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), plain, atol=0.05)


def test_signals_are_heard_after_models_are_gone_in_any_order():
    """OpenVINO's plugins leave a thread with a stack for signals that is freed, where several end in the order of their making."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    ended = subprocess.run([sys.executable, "-c", HEARS_SIGNALS], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "heard\ngoes on\n"), ended.stderr
