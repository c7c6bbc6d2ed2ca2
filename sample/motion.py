"""Where a sprite stands in the picture: homographies from sprite to frame."""

import numpy as np

from sample.products import Sprite


def place(sprite: Sprite, centre: np.ndarray, scale: np.ndarray, tilt: np.ndarray, squeeze: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Homographies (n, 3, 3) that bring the middle of the product to `centre` (n, 2), in pixels.

    scale (n,): of the sprite's size. tilt (n,): radians. squeeze (n,): width times this, as of something that turns about its upright axis.
    lean (n, 2): perspective; 0.1 makes one side of the product about a tenth larger than the other.
    """
    x, y, width, height = sprite.own_box
    n = len(centre)
    to_middle = np.array([(1, 0, -(x + width / 2)), (0, 1, -(y + height / 2)), (0, 0, 1)])
    size = np.zeros((n, 3, 3))
    size[:, 0, 0], size[:, 1, 1], size[:, 2, 2] = scale * squeeze, scale, 1
    perspective = np.broadcast_to(np.eye(3), (n, 3, 3)).copy()
    perspective[:, 2, :2] = lean / (np.array([width, height]) * scale[:, None])
    turn = np.zeros((n, 3, 3))
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1], turn[:, 2, 2] = cos, -sin, sin, cos, 1
    move = np.broadcast_to(np.eye(3), (n, 3, 3)).copy()
    move[:, :2, 2] = centre
    return move @ turn @ perspective @ size @ to_middle


def bump(n: int, start: float, length: float, edge: float = 0.25) -> np.ndarray:
    """(n,) 0, then smoothly 1, then 0: over the share `length` of the video from `start`; `edge`: share of it that each slope takes."""
    t = (np.arange(n) / n - start) / length
    rise = np.clip(np.minimum(t, 1 - t) / edge, 0, 1)
    return rise * rise * (3 - 2 * rise)
