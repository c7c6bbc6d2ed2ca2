"""INT8 weights on disk: what inference takes, and what it refuses in words."""

import json

import numpy as np
import openvino as ov
import pandas as pd
import pytest
import torch
from openvino import opset13 as ops

from shared.errors import UserError
from shared.quantized import discard, read_quantized, runtime_settings, save_quantized
from shared.runtime import PLAIN, Runtime, openvino_core
from shared.weights import read_description, save_weights
from shared.work import Step

INT8 = Runtime("openvino", "int8", "cpu", "")


def doubling() -> ov.Model:
    given = ops.parameter([-1, 2], np.float32)
    return ov.Model([ops.multiply(given, np.float32([[2, 2]]))], [given])


@pytest.fixture
def folder(tmp_path):
    """A model's folder with INT8 weights of one network."""
    save_weights(tmp_path / "net", torch.nn.Linear(2, 2), {"architecture": {}})
    write(tmp_path / "net")
    return tmp_path / "net"


def write(folder, finish=True):
    step = Step(folder / "int8", {"weights": read_description(folder)["sha256"]})
    files = save_quantized(step, {"network0": doubling()})
    if finish:
        step.write({"calibration": pd.DataFrame({"media_id": ["a", "b"]})}, facts={"files": files})
    return step


def test_what_was_written_is_read_and_runs(folder):
    model = read_quantized(folder, "network0")
    given = np.float32([[1, 2]])
    assert openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)[0].tolist() == [[2, 4]]
    assert json.loads((folder / "int8" / "manifest.json").read_text())["rows"] == 2


def test_fingerprints_name_the_int8_files(folder):
    assert runtime_settings(PLAIN, folder) == PLAIN.settings
    assert runtime_settings(INT8, folder)["int8"][0].keys() == {"network0.xml", "network0.bin"}


def test_missing_weights_tell_the_command(tmp_path):
    save_weights(tmp_path, torch.nn.Linear(2, 2), {"architecture": {}})
    for refuses in (lambda: read_quantized(tmp_path, "network0"), lambda: runtime_settings(INT8, tmp_path)):
        with pytest.raises(UserError, match="there are none.*run.sh quantize"):
            refuses()


def test_an_interrupted_run_leaves_nothing_that_inference_would_take(tmp_path):
    save_weights(tmp_path, torch.nn.Linear(2, 2), {"architecture": {}})
    write(tmp_path, finish=False)
    with pytest.raises(UserError, match="there are none"):
        read_quantized(tmp_path, "network0")


def test_weights_of_a_model_that_was_trained_again_are_refused(folder):
    save_weights(folder, torch.nn.Linear(2, 2), {"architecture": {}})
    with pytest.raises(UserError, match="made of other float weights"):
        read_quantized(folder, "network0")
    with pytest.raises(UserError, match="made of other float weights"):
        runtime_settings(INT8, folder)


@pytest.mark.parametrize("name", ["network0.bin", "network0.xml"])
def test_a_damaged_or_missing_file_is_refused(folder, name):
    path = folder / "int8" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{name}: expected the file with sha256"):
        read_quantized(folder, "network0")
    path.unlink()
    with pytest.raises(UserError, match=f"{name}: expected the file with sha256"):
        read_quantized(folder, "network0")


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"depends": {}, "files": {}}', '{"depends": []}'])
def test_a_manifest_of_something_else_is_refused(folder, text):
    (folder / "int8" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not the manifest of INT8 weights"):
        read_quantized(folder, "network0")


def test_other_networks_than_the_models_are_refused(folder):
    with pytest.raises(UserError, match="network1.xml: expected among the INT8 weights, found network0.bin, network0.xml"):
        read_quantized(folder, "network1")


def test_nothing_is_left_of_discarded_weights(folder):
    discard(Step(folder / "int8", {"weights": read_description(folder)["sha256"]}))
    assert not (folder / "int8").exists()
