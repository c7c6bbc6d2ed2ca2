"""How much a video's frame differs from another: a frame that barely does can reuse the other's boxes."""

import cv2
import numpy as np

CELLS = 16  # on each side


def frame_cells(image_rgb: np.ndarray) -> np.ndarray:
    """The mean colour of each of 16 x 16 cells of a picture, (16, 16, 3) float32 in 0..255."""
    return cv2.resize(image_rgb, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)


def frame_change(cells: np.ndarray, others: np.ndarray) -> float:
    """The largest difference of a cell's colour value between two frames' cells, in 0..255: what moves anywhere shows in its cell."""
    return float(abs(cells - others).max())
