"""White paper behind a product gives way to a scene of a video: catalogue photos have paper where videos have a room or a street."""

from collections.abc import Callable

import cv2
import numpy as np

PAPER = 240  # of 255: a pixel that is brighter in red, green and blue can be paper
LEAST, MOST = 0.05, 0.9  # of a crop's pixels: with less there is no paper to speak of, with more no product to keep
AROUND = np.ones((3, 3), np.uint8)


def paper_of(crop_rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) bool: bright pixels that bright neighbours connect with the crop's border.

    White within the product is none; a white product on white paper is.
    """
    bright = (crop_rgb > PAPER).all(axis=2)
    _, labels = cv2.connectedComponents(bright.astype(np.uint8), connectivity=4)  # 0: not bright
    at_border = np.zeros(labels.max() + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_border[edge] = True
    at_border[0] = False
    return at_border[labels]


def replace_paper(crop_rgb: np.ndarray, scene: Callable[[], np.ndarray]) -> np.ndarray:
    """The crop (H, W, 3) uint8 with the scene's pixels for its paper; as it was where it has hardly any, or little else.

    scene() gives the scene, (H, W, 3) uint8, and is asked only where there is paper. The rim of the product, one pixel wide, is
    mixed with the paper already: it goes too, softly.
    """
    paper = paper_of(crop_rgb)
    if not LEAST <= paper.mean() <= MOST:
        return crop_rgb
    wide = cv2.dilate(paper.astype(np.uint8), AROUND)
    share = cv2.blur(wide.astype(np.float32), (3, 3))[..., None]  # of the scene
    return (share * scene() + (1 - share) * crop_rgb).round().astype(np.uint8)
