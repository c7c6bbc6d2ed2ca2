"""From float models to INT8 by NNCF's post-training quantization, as much of them as a limit on the loss allows.

NNCF is an extra: only the quantizing entries import this module.
"""

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from shared.config import Quantize
from shared.errors import UserError
from shared.runtime import openvino_core

log = logging.getLogger("quantize")

BROKEN = 0.95  # square error over power: 1 is what zeros have
NOISE_SAMPLES = 8  # that the layers are ranked by
LAYERS = {"Convolution", "GroupConvolution", "MatMul", "Add", "Multiply"}  # what computes in INT8; all others pass it on


@dataclass(frozen=True)
class Source:
    """A float model, and things that `prepare` makes its inputs of."""

    model: ov.Model
    samples: Sequence
    prepare: Callable[[object], np.ndarray]


@dataclass(frozen=True)
class Quantized:
    """INT8 models by name, what `measure` said of them (None: nothing was measured), and the layers that stayed in float."""

    models: dict[str, ov.Model]
    figures: dict | None
    float_layers: list[str]


def load_nncf() -> ModuleType:
    """NNCF, quiet. Raises UserError where it is not installed."""
    try:
        import nncf
    except ImportError:
        raise UserError("quantize wants NNCF, which is not installed here. Run `bash run.sh setup`, or .venv/bin/python -m pip install nncf.") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def versions() -> dict[str, str]:
    """Of the libraries that INT8 weights depend on."""
    return {name: importlib.metadata.version(name) for name in ("nncf", "openvino")}


def quantize_within(
    sources: dict[str, Source],
    settings: Quantize,
    measure: Callable[[dict[str, ov.Model]], dict] | None,
    limit: float | None,
    title: str,
) -> Quantized:
    """The sources in INT8 with the first number of `settings.float_layers` in float that keeps `measure`'s "loss" within the limit.

    measure: of the INT8 models, gives figures with "loss", in the unit of the limit, and "of", whose it is, where that must be
    said; None: nothing is measured, and the first number is taken. Raises UserError with the figures where no number keeps to the limit.
    """
    ranked, told = None, []
    for n_float in settings.float_layers:
        if n_float and ranked is None:
            whole = {name: quantize_model(source, settings) for name, source in sources.items()}
            ranked = rank_layers({name: (model, some_inputs(sources[name])) for name, model in whole.items() if sources[name].samples})
        kept = (ranked or [])[:n_float]
        models = {
            name: quantize_model(source, settings, [layer for model, layer in kept if model == name])
            for name, source in sources.items()
        }
        layers = [f"{model}: {layer}" for model, layer in kept]
        if measure is None:
            refuse_broken(sources, models, title)
            return Quantized(models, None, layers)
        figures = measure(models)
        loss = f"{figures['loss']:.4f}" + (f" ({figures['of']})" if "of" in figures else "")
        log.info("%s: with %d layers in float INT8 loses %s", title, len(kept), loss)
        if figures["loss"] <= limit:
            return Quantized(models, figures, layers)
        told.append(f"{loss} with {len(kept)} layers in float")
    raise UserError(
        f"{title}: INT8 costs more than the limit of {limit:g}: {'; '.join(told)}. No INT8 weights are kept. Try more calibration "
        "pictures (quantize.calibration_pictures), more layers in float (quantize.float_layers), the other quantize.preset, or "
        "a higher limit; or run in runtime.precision bf16."
    )


def quantize_model(source: Source, settings: Quantize, float_names: Iterable[str] = ()) -> ov.Model:
    """The source's model with INT8 convolutions and matrix products, but for the layers named. Without samples it stays as it is."""
    nncf = load_nncf()
    if not source.samples:
        return source.model
    return nncf.quantize(
        source.model.clone(),
        nncf.Dataset(source.samples, source.prepare),
        preset=nncf.QuantizationPreset(settings.preset),
        subset_size=len(source.samples),
        ignored_scope=nncf.IgnoredScope(names=sorted(float_names), validate=False),
    )


def refuse_broken(sources: dict[str, Source], models: dict[str, ov.Model], title: str) -> None:
    """Raises UserError where an output of an INT8 model has nothing of the float one's, on the inputs that layers are ranked by.

    For INT8 weights whose loss is not measured: OpenVINO runs some INT8 convolutions without biases wrongly, and gives zeros.
    """
    for name, source in sources.items():
        in_float, in_int8 = (
            openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            for model in (source.model, models[name])
        )
        errors, powers = np.zeros((2, len(source.model.outputs)))
        for given in some_inputs(source):
            for place, (true, found) in enumerate(zip(in_float(given).values(), in_int8(given).values(), strict=True)):
                errors[place] += np.square(found - true).sum()
                powers[place] += np.square(true).sum()
        errors, powers = errors[powers > 0], powers[powers > 0]  # an output of zeros says nothing of the others
        if (errors >= BROKEN * powers).any():
            raise UserError(
                f"{title}: the INT8 {name} gives something else than the float one: expected a relative square error under {BROKEN:g}, "
                f"found {(errors / powers).max():.2f}. No INT8 weights are kept. Try the other quantize.preset, or layers in float "
                "(quantize.float_layers); or run in runtime.precision bf16."
            )


def some_inputs(source: Source) -> list[np.ndarray]:
    """The inputs that the layers are ranked by: of NOISE_SAMPLES samples, spread evenly."""
    n_all = len(source.samples)
    places = np.unique(np.linspace(0, n_all - 1, min(n_all, NOISE_SAMPLES)).round().astype(int))
    return [source.prepare(source.samples[place]) for place in places]


def rank_layers(models: dict[str, tuple[ov.Model, list[np.ndarray]]]) -> list[tuple[str, str]]:
    """(model, layer) of INT8 models, {model: (it, inputs)}, the one whose input INT8 changes most first; ties by name.

    The change of an input is the mean square of what quantization does to it, over the mean square of itself: the inverse of
    the ratio of signal to quantization noise.
    """
    noise = {}
    for name, (model, inputs) in models.items():
        for layer, value in input_noise(model, inputs).items():
            noise[name, layer] = value
    return sorted(noise, key=lambda key: (-noise[key], key))


def input_noise(model: ov.Model, inputs: list[np.ndarray]) -> dict[str, float]:
    """Layer -> the relative noise of its INT8 inputs (see `rank_layers`), the worst of them, the mean over `inputs`."""
    model = model.clone()
    quantizers = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() != "Constant"
    ]
    layers = [_consumers(node) for node in quantizers]
    first = len(model.outputs)
    model.add_outputs([_noise_of(node).output(0) for node in quantizers])
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    values = []
    for each in inputs:
        given = compiled(each)
        values.append([float(given[first + k]) for k in range(len(quantizers))])
    noise = {}
    for names, value in zip(layers, np.mean(values, axis=0), strict=True):
        for layer in names:
            noise[layer] = max(float(value), noise.get(layer, 0.0))
    return noise


def _noise_of(quantizer: ov.Node) -> ov.Node:
    true, rounded = quantizer.input_value(0), quantizer.output(0)
    axes = np.arange(true.get_partial_shape().rank.get_length())
    error = ops.subtract(rounded, true)
    powers = [ops.reduce_mean(ops.multiply(each, each), axes) for each in (error, true)]
    return ops.divide(powers[0], ops.maximum(powers[1], np.float32(1e-20)))


def _consumers(node: ov.Node) -> list[str]:
    """The layers that a node's output comes to, through those that only pass it on."""
    found = []
    for port in node.output(0).get_target_inputs():
        consumer = port.get_node()
        if consumer.get_type_name() in LAYERS:
            found.append(consumer.get_friendly_name())
        elif consumer.get_type_name() not in ("FakeQuantize", "Result"):
            found += _consumers(consumer)
    return found
