"""The detector's resize rule, detectron2's: the short side to a length, unless the long side would pass a limit."""

import numpy as np
import torch
from torch.nn import functional


def resized_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the aspect ratio kept: the short side becomes `short_side` px, or less where the long side would exceed `max_side`.

    Halves are rounded up, and each factor is applied in turn, as detectron2's ResizeShortestEdge does it.
    """
    scale = short_side / min(height, width)
    new = [short_side if side == min(height, width) else scale * side for side in (height, width)]
    if max(new) > max_side:
        scale = max_side / max(new)
        new = [side * scale for side in new]
    return max(1, int(new[0] + 0.5)), max(1, int(new[1] + 0.5))


def resize_picture(image_rgb: np.ndarray, size_hw: tuple[int, int]) -> torch.Tensor:
    """uint8 (H, W, 3) -> uint8 (3, h, w); bilinear over the area that a pixel stands for, as Pillow does it (within one grey level)."""
    image = torch.from_numpy(np.ascontiguousarray(image_rgb)).permute(2, 0, 1)  # (3, H, W)
    resized = functional.interpolate(image[None], size_hw, mode="bilinear", antialias=True)  # (1, 3, h, w)
    return resized[0].contiguous()  # (3, h, w)
