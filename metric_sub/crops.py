"""From a picture and its boxes to crops of an embedder's input sizes."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from shared.boxes import clip_boxes, expand_boxes
from shared.config import Embed

SIDE_STEP = 16  # px: crop sides are multiples of it, so that strided layers lose no border
GROWS_BY = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class CropRule:
    """How a box becomes an input: `margin` on each side, then one of the aspect groups, each with about size x size pixels.

    `ratios` are the groups' heights / widths, rising; `interpolation` ('bilinear' or 'bicubic') is for crops that grow.
    """

    size: int
    margin: float
    ratios: tuple[float, ...]
    interpolation: str

    @classmethod
    def of(cls, size: int, aspect_groups: int, shape: Embed, interpolation: str) -> "CropRule":
        """The rule of a config: ratios spaced evenly by factor from 1 / aspect_limit to aspect_limit; one group is square."""
        factors = [2 * k / (aspect_groups - 1) - 1 for k in range(aspect_groups)] if aspect_groups > 1 else [0]
        ratios = tuple(float(shape.aspect_limit**factor) for factor in factors)
        return cls(size, shape.crop_margin, ratios, interpolation)

    def groups_of(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """(N, 4) -> (N,) int64: the group whose ratio is nearest by factor to each box's height / width."""
        sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 1e-6)
        ratio = np.log(sides[:, 1] / sides[:, 0])
        return np.abs(ratio[:, None] - np.log(self.ratios)[None]).argmin(axis=1)

    def size_of(self, group: int, scale: float = 1.0) -> tuple[int, int]:
        """(height, width) in pixels of a group's crops, at `scale` times the size."""
        root = math.sqrt(self.ratios[group])
        height, width = (
            max(SIDE_STEP, round(side / SIDE_STEP) * SIDE_STEP)
            for side in (self.size * scale * root, self.size * scale / root)
        )
        return height, width


def cut_crop(image_rgb: np.ndarray, box_xyxy: np.ndarray, size_hw: tuple[int, int], interpolation: str) -> np.ndarray:
    """The box's pixels (whole pixels that it touches, inside the picture) as uint8 (h, w, 3) of size_hw.

    A box without a pixel inside the picture gives its nearest one. Area averaging where it shrinks, `interpolation`
    ('bilinear' or 'bicubic') where it grows.
    """
    height, width = image_rgb.shape[:2]
    x1, y1, x2, y2 = clip_boxes(box_xyxy, width, height)[0]
    left, top = min(int(x1), width - 1), min(int(y1), height - 1)
    right, bottom = max(left + 1, math.ceil(x2)), max(top + 1, math.ceil(y2))
    crop = image_rgb[top:bottom, left:right]
    shrinks = crop.shape[0] * crop.shape[1] > size_hw[0] * size_hw[1]
    return cv2.resize(crop, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else GROWS_BY[interpolation])


def crops_of_boxes(
    image_rgb: np.ndarray, boxes_xyxy: np.ndarray, rule: CropRule
) -> tuple[list[np.ndarray], np.ndarray]:
    """One crop per box, each of its group's size, and the groups (N,)."""
    boxes = expand_boxes(boxes_xyxy, rule.margin)
    groups = rule.groups_of(boxes)
    crops = [
        cut_crop(image_rgb, box, rule.size_of(group), rule.interpolation)
        for box, group in zip(boxes, groups, strict=True)
    ]
    return crops, groups


def to_input(crops_rgb: list[np.ndarray]) -> torch.Tensor:
    """Crops of one size -> float32 (B, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(crops_rgb)).permute(0, 3, 1, 2).float() / 255
