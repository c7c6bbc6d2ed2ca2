"""Running a detector over pictures: resize, forward, boxes back in the pixels of the original."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bbox_sub.openvino_engine import CompiledDetector
from bbox_sub.resize import resize_picture, resized_size
from shared.boxes import clip_boxes


@torch.inference_mode()
def detect_boxes(
    model: nn.Module | CompiledDetector,
    images_rgb: Sequence[np.ndarray],
    *,
    short_side: int,
    max_side: int,
    batch_size: int,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(boxes_xyxy (N, 4) float32, scores (N,) float32, labels (N,) int64) of each picture, best first.

    Pictures are uint8 H x W x 3 of any sizes; those that are resized to one size share a batch. Boxes are clipped pixels
    of the original picture; those with no area are left out.
    """
    device = next(model.parameters()).device if isinstance(model, nn.Module) else None
    sizes = [resized_size(*image.shape[:2], short_side, max_side) for image in images_rgb]
    found: list = [None] * len(images_rgb)
    for size_hw in sorted(set(sizes)):
        places = [k for k, size in enumerate(sizes) if size == size_hw]
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            inputs = [resize_picture(images_rgb[k], size_hw) for k in batch]  # (3, h, w)
            if device is not None:
                inputs = [each.to(device).float() / 255 for each in inputs]
            for k, output in zip(batch, model(inputs), strict=True):
                found[k] = _in_original(output, images_rgb[k].shape[:2], size_hw)
    return found


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
