"""Running a detector over pictures: resize, forward, boxes back in the pixels of the original."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bbox_sub.openvino_engine import CompiledDetector
from bbox_sub.resize import resize_picture, resized_size
from shared.boxes import clip_boxes


class Resized(NamedTuple):
    """A picture as the network is to see it, uint8 (3, h, w), and the size that it had."""

    picture: torch.Tensor
    original_hw: tuple[int, int]


def resized(image_rgb: np.ndarray, short_side: int, max_side: int) -> Resized:
    """A picture, uint8 H x W x 3, resized by the detector's rule."""
    original_hw = image_rgb.shape[:2]
    return Resized(resize_picture(image_rgb, resized_size(*original_hw, short_side, max_side)), original_hw)


def detect_boxes(
    model: nn.Module | CompiledDetector,
    images_rgb: Sequence[np.ndarray],
    *,
    short_side: int,
    max_side: int,
    batch_size: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What `detect_resized` gives for pictures, uint8 H x W x 3, of any sizes."""
    return detect_resized(model, [resized(image, short_side, max_side) for image in images_rgb], batch_size)


@torch.inference_mode()
def detect_resized(
    model: nn.Module | CompiledDetector, pictures: Sequence[Resized], batch_size: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(boxes_xyxy (N, 4) float32, scores (N,) float32, labels (N,) int64) of each picture, best first.

    In torch pictures that were resized to one size share a batch, a compiled detector takes each by itself. Boxes are clipped
    pixels of the original picture; those with no area are left out.
    """
    if isinstance(model, CompiledDetector):
        outputs = model([each.picture for each in pictures])
    else:
        outputs = _by_torch(model, pictures, batch_size)
    return [
        _in_original(output, each.original_hw, tuple(each.picture.shape[1:]))
        for output, each in zip(outputs, pictures, strict=True)
    ]


def _by_torch(model: nn.Module, pictures: Sequence[Resized], batch_size: int) -> list[dict[str, torch.Tensor]]:
    device = next(model.parameters()).device
    sizes = [tuple(each.picture.shape[1:]) for each in pictures]
    outputs: list = [None] * len(pictures)
    for size_hw in sorted(set(sizes)):
        places = [k for k, size in enumerate(sizes) if size == size_hw]
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            inputs = [pictures[k].picture.to(device).float() / 255 for k in batch]  # (3, h, w)
            for k, output in zip(batch, model(inputs), strict=True):
                outputs[k] = output
    return outputs


def _in_original(
    output: dict[str, torch.Tensor], original_hw: tuple[int, int], size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = original_hw
    scale = np.tile(np.float32([width / size_hw[1], height / size_hw[0]]), 2)
    boxes = clip_boxes(output["boxes"].float().cpu().numpy() * scale, width, height)
    scores, labels = output["scores"].float().cpu().numpy(), output["labels"].cpu().numpy()
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-scores[keep], kind="stable")
    return boxes[keep][order], scores[keep][order], labels[keep][order]
