"""Products on white paper are cut out and pasted over other pictures: pixels by the mix's formula, boxes where the product is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bbox_sub.paste import CutOut, cut_out, paste
from tests.drawing import tiles

COLOURS = {"W": (255, 255, 255), "R": (200, 30, 30), "B": (20, 40, 220)}
NO_BOXES, NO_LABELS = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def photo_of(box, height=200, width=160):
    """White paper with a red product that fills the box."""
    image = np.full((height, width, 3), COLOURS["W"], np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = COLOURS["R"]
    return image


def drawn():
    return np.random.default_rng(1)


def square(side, colour=(200, 30, 30)):
    """A product of solid pixels alone."""
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, side, side)
    return CutOut(image, torch.ones(side, side))


def test_what_is_cut_out_is_the_product_in_a_size_that_fits():
    box, size_hw, fits = (160, 200, 400, 680), (176, 313), []
    for seed in range(200):
        product = cut_out(photo_of(box, 800, 640), np.float32(box), size_hw, np.random.default_rng(seed))
        solid = product.solid.numpy()
        rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
        height, width = len(rows), len(columns)
        fits.append(max(solid.shape[0] / size_hw[0], solid.shape[1] / size_hw[1]))
        scale = solid.shape[0] / (1.1 * 480)  # the box and a twentieth of its sides around it
        assert height == pytest.approx(scale * 480, abs=3)  # but for its rim
        assert width == pytest.approx(scale * 240, abs=3)
        assert solid[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]].all()  # the blur rounds corners
        middle = product.image[:, solid.shape[0] // 2, solid.shape[1] // 2]
        assert middle.tolist() == list(COLOURS["R"])
    assert 0.28 < min(fits) < 0.33 and 0.85 < max(fits) < 0.92
    assert np.median(fits) == pytest.approx(np.sqrt(0.3 * 0.9), rel=0.1)  # even in the logarithm


def test_white_within_the_product_stays_product():
    product = cut_out(tiles("WWWWW WRRRW WRWRW WRRRW WWWWW", COLOURS), np.float32([4, 4, 16, 16]), (400, 400), drawn())
    middle = product.shares.shape[0] // 2
    assert product.shares[middle, middle] == 1 and (product.image[:, middle, middle] > 250).all()


def test_a_product_is_never_enlarged():
    product = cut_out(photo_of((40, 50, 100, 110)), np.float32([40, 50, 100, 110]), (900, 900), drawn())
    assert product.shares.shape == (66, 66)  # 60 px and 3 on each side


def test_a_scene_with_a_bright_strip_is_no_paper():
    scene = np.random.default_rng(0).integers(0, 200, (100, 80, 3), dtype=np.uint8)
    scene[:10] = 255
    assert cut_out(scene, np.float32([0, 0, 80, 100]), (200, 200), drawn()) is None


def test_of_a_white_product_the_print_alone_is_no_product():
    shirt = photo_of((50, 60, 110, 140))
    assert cut_out(shirt, np.float32([50, 60, 110, 140]), (200, 200), drawn()) is not None
    assert cut_out(shirt, np.float32([20, 20, 140, 180]), (200, 200), drawn()) is None


@pytest.mark.parametrize("rows", ["RBRB BRBR RBRB BRBR", "WWWW WWWW WWWW WWWW", "BBBBB BWWWB BWRWB BWWWB BBBBB"])
def test_without_paper_around_it_nothing_is_cut_out(rows):
    photo = tiles(rows, COLOURS)
    assert cut_out(photo, np.float32([0, 0, *photo.shape[1::-1]]), (200, 200), drawn()) is None


@pytest.mark.parametrize("box", [(300, 300, 340, 340), (160, 0, 170, 50), (5, 5, 5, 5)])
def test_a_box_that_holds_nothing_of_the_photo_gives_nothing(box):
    assert cut_out(photo_of((40, 50, 100, 170)), np.float32(box), (200, 200), drawn()) is None


def test_a_pasted_product_covers_what_is_below_by_its_shares():
    image = torch.full((3, 6, 8), 100, dtype=torch.uint8)
    shares = torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.75, 1.0]])
    product = CutOut(torch.full((3, 2, 3), 200, dtype=torch.uint8), shares)
    pasted, boxes, labels = paste(image, NO_BOXES, NO_LABELS, product, 7, top=3, left=4)
    expected = np.full((6, 8), 100)
    expected[3, 4:7], expected[4, 4:7] = (100, 125, 200), (100, 175, 200)
    assert (pasted.numpy() == expected).all() and pasted.dtype == torch.uint8
    assert boxes.tolist() == [[5, 3, 7, 5]] and labels.tolist() == [7]  # the pixels that are product rather than not
    assert boxes.dtype == np.float32 and labels.dtype == np.int64
    assert (image == 100).all()


@pytest.mark.parametrize(
    "box, stays",
    [
        ((20, 20, 30, 40), False),  # the product hides its upper half
        ((20, 20, 30, 41), True),
        ((22, 22, 28, 28), False),  # all of it
        ((0, 0, 64, 48), True),  # it is within
        ((30, 20, 40, 30), True),  # beside it
        ((29.2, 20, 40, 30), True),  # by a column of pixels
    ],
)
def test_boxes_that_are_hidden_by_half_are_left_out(box, stays):
    other = (50, 2, 60, 10)
    _, boxes, labels = paste(
        torch.zeros(3, 48, 64, dtype=torch.uint8), np.float32([other, box]), np.array([1, 2]), square(10), 3, 20, 20
    )
    own = [20, 20, 30, 30]
    assert labels.tolist() == ([1, 2, 3] if stays else [1, 3])
    assert boxes.tolist() == ([list(other), pytest.approx(box), own] if stays else [list(other), own])


def test_what_shows_through_a_product_is_not_hidden():
    """A ring hides what its solid pixels lie on, not what its box encloses."""
    shares = torch.ones(20, 20)
    shares[3:17, 3:17] = 0
    ring = CutOut(torch.zeros(3, 20, 20, dtype=torch.uint8), shares)
    _, boxes, _ = paste(
        torch.zeros(3, 40, 40, dtype=torch.uint8), np.float32([[8, 8, 18, 18]]), np.array([1]), ring, 1, 3, 3
    )
    assert boxes.tolist() == [[8, 8, 18, 18], [3, 3, 23, 23]]


@settings(max_examples=60)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 8), st.integers(0, 10**6))
def test_nothing_changes_outside_of_the_product(height, width, side, seed):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    pasted, boxes, _ = paste(image, NO_BOXES, NO_LABELS, square(side), 1, top, left)
    assert boxes.tolist() == [[left, top, left + side, top + side]]
    elsewhere = torch.ones(height, width, dtype=torch.bool)
    elsewhere[top : top + side, left : left + side] = False
    assert torch.equal(pasted[:, elsewhere], image[:, elsewhere])
    assert torch.equal(pasted[:, ~elsewhere], square(side).image.reshape(3, -1))


def test_mirroring_a_product_is_mirroring():
    photo = photo_of((40, 50, 100, 170))
    photo[60:170, 70:100] = COLOURS["W"]
    product = cut_out(photo, np.float32([40, 50, 100, 170]), (90, 90), drawn())
    mirrored = product.mirrored()
    assert torch.equal(mirrored.image, product.image.flip(2)) and torch.equal(mirrored.shares, product.shares.flip(1))
    assert not torch.equal(mirrored.shares, product.shares)
