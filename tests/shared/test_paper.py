"""White paper: what is bright and reaches the border; what is white within the product, or lies around no product, is none."""

import numpy as np
import pytest

from shared.paper import paper_of, paper_shares
from tests.drawing import tiles

WHITE, RED = (255, 255, 255), (200, 30, 30)


def crop_of(rows: str) -> np.ndarray:
    """W is white paper, R red."""
    return tiles(rows, {"W": (255, 255, 255), "R": RED})


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


def test_shares_are_soft_over_the_rim_alone():
    shares = paper_shares(crop_of("WWWWW WRRRW WRWRW WRRRW WWWWW"))
    assert shares.shape == (20, 20) and shares.dtype == np.float32
    assert (shares[:4] == 1).all() and (shares[:, :4] == 1).all()
    assert (shares[6:-6, 6:-6] == 0).all()  # two pixels within the product, its white heart too
    # Away from the corners: the product's outermost pixel counts as paper, and a third of the 3 x 3 around the next one does.
    assert shares[4, 8:12] == pytest.approx(2 / 3) and shares[5, 8:12] == pytest.approx(1 / 3)


@pytest.mark.parametrize("n_rows, any_paper", [(4, False), (5, True), (90, True), (91, False)])
def test_the_shares_of_paper_that_count(n_rows, any_paper):
    crop = np.full((100, 20, 3), RED, np.uint8)
    crop[:n_rows] = WHITE
    assert (paper_shares(crop) is not None) == any_paper


@pytest.mark.parametrize(
    "rows", ["RRRR RRRR", "WWWW WWWW", "RRRRRR RWWWWR RWWWWR RRRRRR"], ids=["none", "alone", "within"]
)
def test_without_paper_or_product_there_are_none(rows):
    assert paper_shares(crop_of(rows)) is None
