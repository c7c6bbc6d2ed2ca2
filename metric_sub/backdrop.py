"""White paper behind a product gives way to a scene of a video: catalogue photos have paper where videos have a room or a street."""

from collections.abc import Callable

import numpy as np

from shared.paper import paper_shares


def replace_paper(crop_rgb: np.ndarray, scene: Callable[[], np.ndarray]) -> np.ndarray:
    """The crop (H, W, 3) uint8 with the scene's pixels for its paper; as it was where it has hardly any, or little else.

    scene() gives the scene, (H, W, 3) uint8, and is asked only where there is paper.
    """
    shares = paper_shares(crop_rgb)
    if shares is None:
        return crop_rgb
    of_scene = shares[..., None]
    return (of_scene * scene() + (1 - of_scene) * crop_rgb).round().astype(np.uint8)
