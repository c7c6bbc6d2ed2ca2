"""An embedder outside of torch: OpenVINO runs its backbone; GeM and the layers behind it, a thousandth of the work, stay in float32."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from shared.runtime import Cache, Request, Runtime, Workers, compiled, from_torch

PIXELS_AT_ONCE = 8 * 128 * 128  # of the crops that a worker takes together; a crop of 456 px comes alone
SOURCES = [Path(__file__).with_name(name) for name in ("openvino_engine.py", "embedder.py")]  # what makes the models


class Front(nn.Module):
    """Crops uint8 (B, H, W, 3) -> the backbone's features (B, h, w, C), channels last, as OpenVINO computes them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.backbone = network.backbone
        self.register_buffer("black", -network.mean / network.std)
        self.register_buffer("step", 1 / (255 * network.std))

    def forward(self, crops: Tensor) -> Tensor:
        images = crops.permute(0, 3, 1, 2).float() * self.step + self.black  # (B, 3, H, W)
        return self.backbone(images).permute(0, 2, 3, 1)


class CompiledEmbedder:
    """Called with crops of one size, uint8 (B, H, W, 3), it gives their unit vectors (B, dimension) float32.

    Several crops are at work at a time, each by itself: a crop's vector never depends on which others came with it.
    """

    def __init__(self, network: nn.Module, make: Callable[[], ov.Model], runtime: Runtime, cache: Cache | None):
        """make: gives the network's `front_model`, or one that does the same in less precision."""
        self.dimension = network.project.out_features
        self._pool, self._project, self._norm = network.pool, network.project, network.norm
        self._workers = Workers(compiled(make, runtime, cache))

    def __call__(self, crops_rgb: np.ndarray) -> np.ndarray:
        n_crops, height, width = crops_rgb.shape[:3]
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        parts = (crops_rgb[part] for part in shares(n_crops, self._workers.n, at_once))
        return torch.cat(self._workers.map(self._embed, parts)).numpy()

    def _embed(self, front: Request, crops_rgb: np.ndarray) -> Tensor:
        """(n, D). First the backbone for each crop, then the layers behind it for each: in turns they would drive each other out of
        the processor's cache, and a resnet10t at 128 px takes a sixth longer so."""
        crops = torch.from_numpy(np.ascontiguousarray(crops_rgb)).split(1)
        features = [front(crop)[0].clone().permute(0, 3, 1, 2) for crop in crops]  # (1, C, h, w) each
        return torch.cat([self._behind(each) for each in features])

    def _behind(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(self._norm(self._project(self._pool(features))), dim=1)  # (1, D)


def shares(n_crops: int, n_workers: int, at_once: int) -> Iterator[slice]:
    """Ever smaller parts of so many crops, at most `at_once` in each: workers that take the next when they have done theirs end together.

    Guided self-scheduling (Polychronopoulos and Kuck 1987).
    """
    start = 0
    while start < n_crops:
        size = min(at_once, math.ceil((n_crops - start) / n_workers))
        yield slice(start, start + size)
        start += size


def front_model(network: nn.Module) -> ov.Model:
    """What OpenVINO runs of an embedder: crops uint8 (1, H, W, 3), of any size, to features (1, h, w, C) float32."""
    model = from_torch(Front(network), torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            _pad_inside(node)
    model.validate_nodes_and_infer_types()
    return model


def _pad_inside(convolution: ov.Node) -> None:
    """Puts TensorFlow's padding, which depends on the picture's size, into the convolution that it stands before.

    timm reckons it by a chain of operations and pads with a copy of the picture. Any other padding (by mirrored pixels, by amounts
    that are fixed, before a convolution that pads itself) stays where it is.
    """
    pad, said = convolution.input_value(0).get_node(), convolution.get_attributes()
    if pad.get_type_name() != "Pad" or pad.get_attributes()["pad_mode"] != "constant":
        return
    if pad.input_value(1).get_node().get_type_name() == "Constant" or any([*said["pads_begin"], *said["pads_end"]]):
        return
    make = ops.convolution if convolution.get_type_name() == "Convolution" else ops.group_convolution
    inside = make(
        pad.input_value(0), convolution.input_value(1), said["strides"], [0, 0], [0, 0], said["dilations"], "same_upper"
    )
    inside.set_friendly_name(convolution.get_friendly_name())
    convolution.output(0).replace(inside.output(0))
