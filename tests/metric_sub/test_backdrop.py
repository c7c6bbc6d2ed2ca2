"""White paper behind a product gives way to a scene; what is white within the product, or lies around no product, does not."""

import numpy as np
import pytest

from metric_sub.backdrop import paper_of, replace_paper

WHITE, RED, SCENE = (255, 255, 255), (200, 30, 30), (10, 120, 60)


def crop_of(rows: str) -> np.ndarray:
    """A crop of 4 x 4 px tiles: W white paper, R red."""
    tiles = np.array([[WHITE if tile == "W" else RED for tile in row] for row in rows.split()], np.uint8)
    return tiles.repeat(4, axis=0).repeat(4, axis=1)


def scene_like(crop):
    return np.full_like(crop, SCENE)


def test_paper_is_what_is_bright_and_reaches_the_border():
    crop = crop_of("WWWWW WRRRW WRWRW WRRRW WWWWW")  # a hole in the product is not paper
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    assert np.array_equal(paper_of(crop), expected.repeat(4, axis=0).repeat(4, axis=1))


def test_bright_pixels_that_touch_at_a_corner_alone_are_not_connected():
    paper = paper_of(crop_of("WRR RWR RRR"))
    assert paper[:4, :4].all() and paper.sum() == 16


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_what_is_coloured_is_no_paper(channel):
    crop = np.full((12, 12, 3), 255, np.uint8)
    crop[..., channel] = 240
    assert not paper_of(crop).any()
    crop[..., channel] = 241
    assert paper_of(crop).all()


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


def test_the_shares_of_paper_that_count():
    for n_rows, changes in ((4, False), (5, True), (90, True), (91, False)):  # of 100 rows
        crop = np.full((100, 20, 3), RED, np.uint8)
        crop[:n_rows] = WHITE
        scene = scene_like(crop)
        assert (replace_paper(crop, scene.copy) != crop).any() == changes
