"""An embedder outside of torch, compiled by OpenVINO.

Crops are run one by one, so that a crop's vector never depends on which others came with it.
"""

import numpy as np
import openvino as ov
import torch
from torch import nn

from shared.runtime import Runtime, compile_model, from_torch


def embedder_model(network: nn.Module) -> ov.Model:
    """What OpenVINO runs of a network: all of it, in float32."""
    return from_torch(network, torch.zeros(1, 3, 64, 64))


def model_names(n_networks: int) -> list[str]:
    """Of the INT8 models of an embedder's networks: several are concatenated snapshots."""
    return [f"network{k}" for k in range(n_networks)]


class CompiledEmbedder:
    """Called with crops of one size, uint8 (B, H, W, 3), it gives their unit vectors (B, dimension) float32."""

    def __init__(self, model: ov.Model, dimension: int, runtime: Runtime):
        self.dimension = dimension
        self._model = compile_model(model, runtime)

    def __call__(self, crops_rgb: np.ndarray) -> np.ndarray:
        batches = np.float32(crops_rgb.transpose(0, 3, 1, 2)[:, None] / np.float32(255))  # (B, 1, 3, H, W)
        return np.concatenate([self._model(batch)[0] for batch in batches])
