"""The categories of products and the function that draws each one's form."""

from collections.abc import Callable

import numpy as np

from sample.garments import draw_dress, draw_hat, draw_skirt, draw_top, draw_trousers
from sample.goods import draw_bag, draw_bottle, draw_carton, draw_mug, draw_shoe
from sample.outlines import Shape

CATEGORIES: dict[str, Callable[[np.random.Generator, str, bool], Shape]] = {
    "T-shirt": draw_top, "long-sleeve": draw_top, "vest": draw_top, "jacket": draw_top, "dress": draw_dress, "skirt": draw_skirt,
    "trousers": draw_trousers, "shorts": draw_trousers, "hat": draw_hat, "bag": draw_bag, "bottle": draw_bottle, "carton": draw_carton,
    "shoe": draw_shoe, "mug": draw_mug,
}


def build_shape(category: str, seed: int, back: bool) -> Shape:
    """The shape of a category; the same seed gives the front and the back of the same product."""
    return CATEGORIES[category](np.random.default_rng(seed), category, back)
