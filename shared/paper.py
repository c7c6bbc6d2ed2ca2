"""White paper around a product: what of a catalogue photo is product, and what is the studio's background."""

import cv2
import numpy as np

PAPER = 240  # of 255: a pixel that is brighter in red, green and blue can be paper
LEAST, MOST = 0.05, 0.9  # of the pixels: with less there is no paper to speak of, with more no product to keep
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


def paper_shares(crop_rgb: np.ndarray) -> np.ndarray | None:
    """(H, W, 3) uint8 -> (H, W) float32 in 0..1, how much of each pixel is paper; None where hardly any is, or nearly all.

    The rim of the product, one pixel wide, is mixed with the paper already: it counts with the paper, softly.
    """
    paper = paper_of(crop_rgb)
    if not LEAST <= paper.mean() <= MOST:
        return None
    return cv2.blur(cv2.dilate(paper.astype(np.uint8), AROUND).astype(np.float32), (3, 3))
