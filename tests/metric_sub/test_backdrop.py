"""White paper behind a product gives way to a scene, and the product stays."""

import numpy as np
import pytest

from metric_sub.backdrop import replace_paper
from tests.drawing import tiles

RED, SCENE = (200, 30, 30), (10, 120, 60)


def crop_of(rows: str) -> np.ndarray:
    """W is white paper, R red."""
    return tiles(rows, {"W": (255, 255, 255), "R": RED})


def scene_like(crop):
    return np.full_like(crop, SCENE)


def test_the_scene_is_seen_beyond_the_product_and_its_rim():
    crop = crop_of("WWWWW WRRRW WRWRW WRRRW WWWWW")
    made = replace_paper(crop, lambda: scene_like(crop))
    assert made.dtype == np.uint8 and made.shape == crop.shape
    assert (made[:4] == SCENE).all() and (made[:, :4] == SCENE).all()
    assert np.array_equal(made[6:-6, 6:-6], crop[6:-6, 6:-6])  # two pixels within the product, its white heart too
    # Away from the corners: the outermost pixel of the product was paper in part, and is 2/3 scene; the next one 1/3.
    for depth, share in ((4, 2 / 3), (5, 1 / 3)):
        mixed = share * np.array(SCENE) + (1 - share) * np.array(RED)
        assert np.abs(made[depth, 8:12] - mixed).max() <= 0.5


@pytest.mark.parametrize(
    "rows",
    ["RRRR RRRR RRRR RRRR", "WWWW WWWW WWWW WWWW", "RRRRRR RWWWWR RWWWWR RWWWWR RRRRRR"],
    ids=["no paper", "paper alone", "white within"],
)
def test_without_paper_or_product_a_crop_stays_as_it_was(rows):
    crop = crop_of(rows)
    assert np.array_equal(replace_paper(crop, lambda: pytest.fail("no scene is wanted")), crop)
