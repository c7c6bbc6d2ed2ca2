"""An embedder outside of torch: OpenVINO runs its backbone; GeM and the layers behind it, a thousandth of the work, stay in float32."""

from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor, nn

from shared.runtime import Runtime, Workers, compiled, from_torch


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
    """Called with crops of any sizes, uint8 (H, W, 3) each, it gives their unit vectors (B, dimension) float32.

    Several crops are at work at a time, each by itself: a crop's vector never depends on which others came with it.
    """

    def __init__(self, network: nn.Module, runtime: Runtime, folder: Path, name: str):
        self.dimension = network.project.out_features
        self._tail = network.embed_features
        self._workers = Workers(compiled(partial(_convert, network), runtime, folder, name, __file__))

    def __call__(self, crops_rgb: list[np.ndarray], *, flip: bool) -> np.ndarray:
        """With `flip` each is the mean of the crop's vector and the mirrored one's, of unit length."""
        vectors = self._workers.map(partial(self._embed, flip), crops_rgb)
        return torch.cat(vectors).numpy() if vectors else np.zeros((0, self.dimension), np.float32)

    def _embed(self, flip: bool, front, crop_rgb: np.ndarray) -> Tensor:
        crop = torch.from_numpy(crop_rgb)[None]  # (1, H, W, 3)
        vector = self._tail(front(crop)[0].permute(0, 3, 1, 2))  # (1, D)
        if flip:
            vector = nn.functional.normalize(vector + self._tail(front(crop.flip(2))[0].permute(0, 3, 1, 2)), dim=1)
        return vector


def _convert(network: nn.Module) -> ov.Model:
    model = from_torch(Front(network), torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            _pad_inside(node)
    model.validate_nodes_and_infer_types()
    return model


def _pad_inside(convolution: ov.Node) -> None:
    """Puts TensorFlow's padding, which depends on the picture's size, into the convolution that it stands before.

    timm reckons it by a chain of operations and pads with a copy of the picture.
    """
    pad = convolution.input_value(0).get_node()
    if pad.get_type_name() != "Pad":
        return
    make = ops.convolution if convolution.get_type_name() == "Convolution" else ops.group_convolution
    said = convolution.get_attributes()
    inside = make(
        pad.input_value(0), convolution.input_value(1), said["strides"], [0, 0], [0, 0], said["dilations"], "same_upper"
    )
    inside.set_friendly_name(convolution.get_friendly_name())
    convolution.output(0).replace(inside.output(0))
