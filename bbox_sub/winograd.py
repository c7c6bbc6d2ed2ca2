"""Convolutions of 3 x 3 with two thirds of the multiplications, written into an OpenVINO model.

Winograd's algorithm F(2, 3) (Lavin & Gray 2016, section 4.1), along each row of a map: two neighbouring outputs of a filter of three are
sums of four products instead of six. On x86 OpenVINO has no kernel for it, and needs none: the even columns of a map are one
map, the odd columns another, and all that is left are convolutions with kernels of 3 x 1, sums and differences. Maps stay split so
from one convolution to the next, since to split them and to put them together takes time too.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset14 as ops

LEAST_CHANNELS = 128  # read and written: with 96 the sums take as long as what is won, with 64 longer

# Four products of two outputs of a filter of three. The last has the other sign, so that both outputs are sums of it.
FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, -1]], np.float32)

POINTWISE = {
    "Relu": ops.relu,
    "Add": ops.add,
    "Multiply": ops.multiply,
    "Concat": lambda *maps: ops.concat(list(maps), 1),
}
CHANNELS_LAST = [0, 2, 3, 1]  # as a transposition


class Columns(NamedTuple):
    """A map (B, C, h, w) as its even and its odd columns, each (B, C, h, w / 2)."""

    even: ov.Output
    odd: ov.Output
    alike: ov.Output  # a map of the model that is not split, as high and as wide


def with_winograd(model: ov.Model, divisor: int, least_channels: int = LEAST_CHANNELS) -> ov.Model:
    """The model, changed in place: where a map's width is sure to be even, its convolutions of 3 x 3 are Winograd's.

    divisor: what the model's Pad makes the pictures' width a multiple of; a model of none, or of several, stays as it is. It gives
    the same numbers, but for their rounding.
    """
    if sum(node.get_type_name() == "Pad" for node in model.get_ops()) == 1:
        _Rewriting(divisor, least_channels).run(model)
        model.validate_nodes_and_infer_types()
    return model


class _Rewriting:
    """What is known of a model while it is gone through from its inputs to its results. Outputs of nodes go by their names."""

    def __init__(self, divisor: int, least_channels: int):
        self._divisor, self._least_channels = divisor, least_channels
        self._now: dict[tuple, ov.Output | Columns] = {}  # what stands for an output
        self._width: dict[tuple, int] = {}  # of which number the width of an output is a multiple, where that is known
        self._wholes: dict[tuple, ov.Output] = {}
        self._columns: dict[tuple, Columns] = {}
        self._kernels: dict[tuple, list[ov.Node]] = {}  # of a convolution's weights, which several may share

    def run(self, model: ov.Model) -> None:
        for node in model.get_ordered_ops():
            inputs, kind = node.input_values(), node.get_type_name()
            self._width.update({_name(output): self._width_of(node, kind, inputs) for output in node.outputs()})
            now = self._split(node, kind, inputs)
            if now is None:
                for place, given in enumerate(inputs):
                    if self._of(given) != given:
                        node.input(place).replace_source_output(self._whole(given))
            self._now.update({_name(output): output for output in node.outputs()})
            if now is not None:
                self._now[_name(node.output(0))] = now

    def _of(self, output: ov.Output) -> ov.Output | Columns:
        return self._now[_name(output)]

    def _is_split(self, output: ov.Output) -> bool:
        return isinstance(self._of(output), Columns)

    def _width_of(self, node: ov.Node, kind: str, inputs: list[ov.Output]) -> int:
        if kind == "Pad":
            return self._divisor
        width = max((self._width[_name(given)] for given in inputs), default=0)
        if kind in POINTWISE:
            return width if node.get_attributes().get("axis", 1) == 1 else 0
        if not width or kind not in ("Convolution", "MaxPool"):
            return 0
        stride = node.get_attributes()["strides"][1]
        return width // stride if width % stride == 0 and _divides_width(node, kind, inputs) else 0

    def _split(self, node: ov.Node, kind: str, inputs: list[ov.Output]) -> Columns | ov.Output | None:
        """What a node gives of maps that are split, or splits; None: it stays as it is."""
        if kind == "Convolution" and self._is_winograds(node, inputs):
            return self._winograd(self._in_columns(inputs[0]), inputs[1])
        if not any(self._is_split(given) for given in inputs):
            return None
        first, options = self._of(inputs[0]), node.get_attributes()
        if kind in POINTWISE and options.get("axis", 1) == 1:
            return self._pointwise(POINTWISE[kind], inputs)
        if kind == "Convolution" and _is_of(node, inputs, kernel=[1, 1], pad=[0, 0]):
            return Columns(*(_convolution(half, inputs[1]) for half in first[:2]), first.alike)
        if kind == "MaxPool" and _halves_with_ceil(options):
            return _pool(first)
        if kind == "ReduceMean" and _constant(inputs[1]) == [2, 3]:
            of_even, of_odd = (ops.reduce_mean(half, inputs[1], options["keep_dims"]) for half in first[:2])
            return ops.multiply(ops.add(of_even, of_odd), np.float32(0.5)).output(0)
        if kind == "ShapeOf":
            return _shape(first, node.get_output_element_type(0))
        if _is_channels_last(node):
            return _channels_last(first)
        return None

    def _is_winograds(self, node: ov.Node, inputs: list[ov.Output]) -> bool:
        """Whether a convolution is one that gains: a large one, of a map of even width, none of whose readers is sure to want it whole."""
        width, channels = self._width[_name(inputs[0])], list(inputs[1].get_partial_shape())[:2]
        return (
            width > 0
            and width % 2 == 0
            and _is_of(node, inputs, kernel=[3, 3], pad=[1, 1])
            and min(side.get_length() for side in channels) >= self._least_channels
            and _is_read_split(node)
        )

    def _in_columns(self, output: ov.Output) -> Columns:
        now, name = self._of(output), _name(output)
        if isinstance(now, Columns):
            return now
        if name not in self._columns:
            even, odd = (ops.slice(now, [first], [np.iinfo(np.int32).max], [2], [-1]).output(0) for first in (0, 1))
            self._columns[name] = Columns(even, odd, now)
        return self._columns[name]

    def _whole(self, output: ov.Output) -> ov.Output:
        now, name = self._of(output), _name(output)
        if not isinstance(now, Columns):
            return now
        if name not in self._wholes:
            self._wholes[name] = ops.transpose(_channels_last(now), [0, 3, 1, 2]).output(0)
        return self._wholes[name]

    def _pointwise(self, make: Callable[..., ov.Node], inputs: list[ov.Output]) -> Columns:
        """Of maps and of what goes for all columns, such as one value for each channel."""
        for_all = [given.get_partial_shape().rank == 0 or given.get_partial_shape()[-1] == 1 for given in inputs]
        parts = [
            (self._of(given),) * 2 if same else self._in_columns(given)
            for given, same in zip(inputs, for_all, strict=True)
        ]
        alike = next(self._of(given).alike for given in inputs if self._is_split(given))
        return Columns(*(make(*(part[half] for part in parts)).output(0) for half in (0, 1)), alike)

    def _winograd(self, map: Columns, weights: ov.Output) -> Columns:
        name, channels = _name(weights), weights.get_shape()[1]
        if name not in self._kernels:
            kernels = np.einsum("tj,ocij->toci", FILTER, weights.get_node().data)[..., None]  # (4, out, in, 3, 1)
            self._kernels[name] = [ops.constant(np.ascontiguousarray(kernel)) for kernel in kernels]
        first, plus, minus, last = self._kernels[name]
        even, odd, alike = map
        # columns -1, 0, 1 and 2 of two outputs at 0 and 1: odd before, even, odd, even after
        of_first = _convolution(_differences(odd, channels, zero_before=1), first, pad=[1, 0])
        of_plus = _convolution(ops.add(even, odd), plus, pad=[1, 0])
        of_minus = _convolution(ops.subtract(odd, even), minus, pad=[1, 0])
        of_last = _convolution(_differences(even, channels, zero_before=0), last, pad=[1, 0])
        return Columns(
            ops.add(of_first, ops.add(of_plus, of_minus)).output(0),
            ops.add(of_last, ops.subtract(of_plus, of_minus)).output(0),
            alike,
        )


def _name(output: ov.Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()


def _constant(output: ov.Output) -> list | None:
    return output.get_node().data.tolist() if output.get_node().get_type_name() == "Constant" else None


def _is_of(node: ov.Node, inputs: list[ov.Output], *, kernel: list[int], pad: list[int]) -> bool:
    """Whether a convolution has this kernel, constant, and this padding, and neither stride nor dilation."""
    options = node.get_attributes()
    return (
        inputs[1].get_node().get_type_name() == "Constant"
        and list(inputs[1].get_shape())[2:] == kernel
        and options["strides"] == options["dilations"] == [1, 1]
        and options["pads_begin"] == options["pads_end"] == pad
        and options["auto_pad"] == "explicit"
    )


def _is_read_split(node: ov.Node) -> bool:
    """Whether all that reads a map, or what is made of each of its values, is of a kind that may take it split, as a GroupNorm is not."""
    return all(
        reader.get_type_name() in ("Convolution", "MaxPool", "ReduceMean")
        or _is_channels_last(reader)
        or (reader.get_type_name() in POINTWISE and _is_read_split(reader))
        for reader in (target.get_node() for target in node.output(0).get_target_inputs())
    )


def _divides_width(node: ov.Node, kind: str, inputs: list[ov.Output]) -> bool:
    """Whether a convolution or a pooling makes w / stride columns of any w that is a multiple of its stride."""
    options, by_ceil = node.get_attributes(), False
    if kind == "MaxPool":
        kernel, by_ceil = options["kernel"][1], options["rounding_type"].startswith("ceil")
    else:
        kernel = inputs[1].get_partial_shape()[3].get_length()
    reach = options.get("dilations", [1, 1])[1] * (kernel - 1) + 1
    missing = options["pads_begin"][1] + options["pads_end"][1] - reach
    steps = missing / options["strides"][1]
    return options["auto_pad"] == "explicit" and (math.ceil(steps) if by_ceil else math.floor(steps)) == -1


def _halves_with_ceil(options: dict) -> bool:
    """Whether a pooling is the one between a VoVNet's stages, which `_pool` does."""
    return (
        (options["kernel"], options["strides"], options.get("dilations", [1, 1])) == ([3, 3], [2, 2], [1, 1])
        and not any([*options["pads_begin"], *options["pads_end"]])
        and options["auto_pad"] == "explicit"
        and options["rounding_type"].startswith("ceil")
    )


def _is_channels_last(node: ov.Node) -> bool:
    return node.get_type_name() == "Transpose" and _constant(node.input_value(1)) == CHANNELS_LAST


def _convolution(
    map: ov.Output | ov.Node, weights: ov.Output | ov.Node, pad: tuple[int, int] | list[int] = (0, 0)
) -> ov.Output:
    return ops.convolution(map, weights, [1, 1], list(pad), list(pad), [1, 1]).output(0)


def _differences(half: ov.Output, channels: int, *, zero_before: int) -> ov.Output:
    """Each column less the next: of (B, C, h, w) and a column of zeros, before the first or behind the last."""
    kernel = np.tile(np.array([1, -1], np.float32), (channels, 1, 1, 1, 1))  # (C, 1, 1, 1, 2): each channel by itself
    return ops.group_convolution(half, kernel, [1, 1], [0, zero_before], [0, 1 - zero_before], [1, 1]).output(0)


def _pool(map: Columns) -> ov.Output:
    """The largest of 3 x 3 values at every second place, from the first, of an even number a part of one at the end: (B, C, floor(h / 2), w / 2)."""

    def largest(half: ov.Output, n_columns: int) -> ov.Node:
        return opset1.max_pool(half, [2, 1], [0, 0], [1, n_columns - 1], [3, n_columns], "floor", "explicit")

    return ops.maximum(largest(map.even, 2), largest(map.odd, 1)).output(0)


def _channels_last(map: Columns) -> ov.Output:
    """The whole map, (B, h, w, C)."""
    channels = map.even.get_partial_shape()[1].get_length()
    halves = (ops.unsqueeze(ops.transpose(half, CHANNELS_LAST), 3) for half in map[:2])  # (B, h, w / 2, 1, C)
    return ops.reshape(ops.concat(list(halves), 3), [0, 0, -1, channels], special_zero=True).output(0)


def _shape(map: Columns, dtype: ov.Type) -> ov.Output:
    """(4,): B, C, h and w of the whole map."""
    alike, channels = ops.shape_of(map.alike, dtype), map.even.get_partial_shape()[1].get_length()
    of_channels = np.array([channels], dtype.to_dtype())
    return ops.concat([ops.gather(alike, [0], 0), of_channels, ops.gather(alike, [2, 3], 0)], 0).output(0)
