"""The detector's resize rule: the short side to a length, unless the long side would pass a limit."""

import cv2
import numpy as np
import torch


def resized_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the aspect ratio kept: the short side becomes `short_side` px, or less where the long side would exceed `max_side`."""
    scale = min(short_side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_picture(image_rgb: np.ndarray, size_hw: tuple[int, int]) -> torch.Tensor:
    """uint8 (H, W, 3) -> uint8 (3, h, w); area averaging where it shrinks, bilinear where it grows."""
    shrinks = size_hw[0] * size_hw[1] < image_rgb.shape[0] * image_rgb.shape[1]
    resized = cv2.resize(
        image_rgb, size_hw[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )  # (h, w, 3)
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()  # (3, h, w)
