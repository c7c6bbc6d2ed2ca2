"""Colour histograms of boxes, the trivial baseline: an embedder that does not beat them has learnt nothing."""

import cv2
import numpy as np

from shared.boxes import clip_boxes

BINS = (24, 8, 8)  # hue, saturation, value
RANGES = (0, 180, 0, 256, 0, 256)  # of OpenCV's 8-bit HSV
DIMENSION = int(np.prod(BINS))
NO_CUT_OFF = 2.0  # the largest distance between unit vectors: match.max_distance is meant for embeddings alone


def histogram(crop_rgb: np.ndarray) -> np.ndarray:
    """A crop's joint HSV histogram as a vector (DIMENSION,) float32 of unit length; an empty crop gives zeros.

    Its entries are the roots of the bins' shares, so that the Euclidean distance between two of them is sqrt(2) times
    the Hellinger distance between the distributions: 0 for equal ones, sqrt(2) for disjoint ones.
    """
    if crop_rgb.size == 0:
        return np.zeros(DIMENSION, np.float32)
    hsv = cv2.cvtColor(np.ascontiguousarray(crop_rgb), cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(BINS), list(RANGES)).ravel()
    return np.sqrt(counts / counts.sum())


def histograms(image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """The histogram of each box of a picture: (N, 4) -> (N, DIMENSION) float32. Boxes are clipped and rounded to pixels."""
    corners = np.rint(clip_boxes(boxes_xyxy, image_rgb.shape[1], image_rgb.shape[0])).astype(int)
    found = [histogram(image_rgb[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners]
    return np.stack(found) if found else np.zeros((0, DIMENSION), np.float32)
