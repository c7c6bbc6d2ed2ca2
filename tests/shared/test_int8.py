"""Post-training quantization of small models: which layers stay in float, and when it is refused."""

import sys

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from shared.config import Quantize
from shared.errors import UserError
from shared.int8 import Source, input_noise, load_nncf, quantize_model, quantize_within, rank_layers, refuse_broken
from shared.runtime import from_torch

pytest.importorskip("nncf")

SETTINGS = Quantize(
    calibration_pictures=4,
    validation_pictures=4,
    preset="mixed",
    max_map_loss=0.1,
    max_recall_loss=0.1,
    float_layers=[0, 1, 2],
)


@pytest.fixture(scope="module")
def source() -> Source:
    """Two convolutions, of which the second is given values as INT8 has them least: one a thousand times the others."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(4)]
    return Source(from_torch(network, torch.zeros(1, 3, 12, 12)), samples, lambda each: each)


def layers_of(model: ov.Model) -> dict[str, bool]:
    """The convolutions by name, and whether their weights are INT8."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution":
            weights = node.input_value(1).get_node()
            while weights.get_type_name() != "Constant":
                weights = weights.input_value(0).get_node()
            found[node.get_friendly_name()] = weights.get_element_type() == ov.Type.i8
    return found


def test_all_layers_but_the_named_become_int8(source):
    assert all(layers_of(quantize_model(source, SETTINGS)).values())
    first, second = layers_of(source.model)
    assert layers_of(quantize_model(source, SETTINGS, [first])) == {first: False, second: True}
    assert not any(layers_of(source.model).values())  # the source is as it was


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What 256 levels from low to high make of the values."""
    step = (high - low) / 255
    return np.clip(np.round((values - low) / step), 0, 255) * step + low


def quantized_products() -> ov.Model:
    """Two matrix products of one input: of it as 256 levels from -1 to 1 have it, and from -4 to 4 after a reshape."""
    given = ops.parameter([-1, 4], np.float32)
    results = []
    for name, limit in (("fine", 1.0), ("coarse", 4.0)):
        low, high = np.float32(-limit), np.float32(limit)
        few = ops.fake_quantize(given, low, high, low, high, 256)
        through = ops.reshape(few, np.int64([-1, 4]), False) if name == "coarse" else few
        product = ops.matmul(through, ops.constant(np.eye(4, dtype=np.float32)), False, False)
        product.set_friendly_name(name)
        results.append(product)
    return ov.Model(results, [given])


def test_noise_is_that_of_the_formula():
    inputs = [np.random.default_rng(k).uniform(-1, 1, (5, 4)).astype(np.float32) for k in range(3)]
    noise = input_noise(quantized_products(), inputs)
    for name, limit in (("fine", 1.0), ("coarse", 4.0)):
        expected = np.mean([((rounded(x, -limit, limit) - x) ** 2).mean() / (x**2).mean() for x in inputs])
        assert noise[name] == pytest.approx(expected, rel=1e-2)
    assert noise["coarse"] > 10 * noise["fine"]


def test_layers_are_ranked_by_noise_over_all_models():
    inputs = [np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)]
    ranked = rank_layers({"a": (quantized_products(), inputs), "b": (quantized_products(), [10 * inputs[0]])})
    # -10..10 is cut off at 1 by b's fine product, and at 4 by its coarse one
    assert ranked == [("b", "fine"), ("b", "coarse"), ("a", "coarse"), ("a", "fine")]


def measured(losses: list[float], seen: list[int]):
    """A measure that gives these losses in turn and notes how many layers are INT8."""

    def measure(models):
        seen.append(sum(layers_of(models["net"]).values()))
        return {"loss": losses[len(seen) - 1]}

    return measure


def test_layers_go_back_to_float_until_the_loss_is_within_its_limit(source):
    seen = []
    made = quantize_within({"net": source}, SETTINGS, measured([0.5, 0.05, 0.0], seen), 0.1, "net, mAP")
    assert seen == [2, 1] and made.figures == {"loss": 0.05}
    assert len(made.float_layers) == 1 and made.float_layers[0].startswith("net: ")
    assert sum(layers_of(made.models["net"]).values()) == 1


def test_the_whole_model_is_taken_where_it_loses_little(source):
    seen = []
    made = quantize_within({"net": source}, SETTINGS, measured([0.1], seen), 0.1, "net, mAP")  # at the limit is within
    assert seen == [2] and made.float_layers == []


def test_past_the_limit_all_figures_are_told(source):
    with pytest.raises(UserError) as error:
        quantize_within({"net": source}, SETTINGS, measured([0.5, 0.4, 0.3], []), 0.1, "net, mAP")
    for words in ("net, mAP", "limit of 0.1", "0.5000 with 0", "0.4000 with 1", "0.3000 with 2", "No INT8 weights"):
        assert words in str(error.value)


def test_nothing_is_measured_where_nothing_is_to_be(source):
    made = quantize_within({"net": source}, SETTINGS, None, None, "net, mAP")
    assert made.figures is None and all(layers_of(made.models["net"]).values())


def test_a_model_that_gives_zeros_is_refused_though_nothing_is_measured(source, monkeypatch):
    zeros = from_torch(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 5, bias=False)), torch.zeros(1, 3, 12, 12))
    for node in zeros.get_ordered_ops():
        if node.get_type_name() == "Constant":
            node.output(0).replace(ops.constant(np.zeros((2, 3, 5, 5), np.float32)).output(0))
    monkeypatch.setattr("shared.int8.quantize_model", lambda *_: zeros)
    with pytest.raises(UserError, match="the INT8 net gives something else.*found 1.00"):
        quantize_within({"net": source}, SETTINGS, None, None, "net, mAP")


def test_an_output_that_is_always_zero_hides_no_other(source):
    class Two(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, values):
            return values * 0.0, values * self.factor

    whole, broken, near = (from_torch(Two(factor), torch.zeros(1, 3, 12, 12)) for factor in (1.0, 0.01, 0.9))
    of_whole = {"net": Source(whole, source.samples, source.prepare)}
    with pytest.raises(UserError, match="the INT8 net gives something else.*found 0.98"):
        refuse_broken(of_whole, {"net": broken}, "net, mAP")
    refuse_broken(of_whole, {"net": near}, "net, mAP")


def test_without_nncf_the_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(UserError, match="not installed.*pip install nncf"):
        load_nncf()
