"""The resize rule against hand-worked sizes and pixel means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bbox_sub.resize import resize_picture, resized_size

side = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("height", "width", "short_side", "max_side", "expected"),
    [
        (960, 540, 608, 1333, (1081, 608)),  # 960 * 608 / 540 = 1080.9
        (540, 960, 608, 1333, (608, 1081)),
        (600, 600, 800, 1333, (800, 800)),
        (500, 2000, 800, 1333, (333, 1333)),  # the long side's limit: 1333 / 2000
        (608, 1000, 608, 1000, (608, 1000)),
        (100, 50, 100, 120, (120, 60)),  # twice would pass the limit
        (1, 10_000, 800, 1333, (1, 1333)),  # never under one pixel
    ],
)
def test_sizes_by_hand(height, width, short_side, max_side, expected):
    assert resized_size(height, width, short_side, max_side) == expected


@given(side, side, st.integers(8, 1000), st.integers(8, 1500))
def test_one_limit_is_met_and_the_other_kept(height, width, short_side, max_side):
    new = resized_size(height, width, short_side, max_side)
    assert min(new) <= short_side and max(new) <= max_side and min(new) >= 1
    assert min(new) == short_side or max(new) == max_side
    scale = min(short_side / min(height, width), max_side / max(height, width))
    assert abs(new[0] - height * scale) <= 1 and abs(new[1] - width * scale) <= 1


@given(side, side, st.integers(8, 1000), st.integers(8, 1500))
def test_sizes_are_those_of_detectron2(height, width, short_side, max_side):
    """ResizeShortestEdge as its documentation has it: shortest edge, then longest edge, each side rounded half up."""
    if height < width:
        new = [float(short_side), short_side / height * width]
    else:
        new = [short_side / width * height, float(short_side)]
    if max(new) > max_side:
        new = [each * (max_side / max(new)) for each in new]
    expected = tuple(max(1, int(each + 0.5)) for each in new)
    got = resized_size(height, width, short_side, max_side)
    assert np.abs(np.subtract(got, expected)).max() <= (0 if max(new) % 0.5 > 1e-6 and min(new) % 0.5 > 1e-6 else 1)


@pytest.mark.parametrize(("size", "new"), [((76, 43), (31, 17)), ((40, 60), (90, 135)), ((33, 50), (33, 50))])
def test_pixels_are_pillows(size, new):
    smooth = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(smooth).resize(new[::-1], Image.Resampling.BILINEAR))
    resized = resize_picture(smooth, new)
    assert resized.shape == (3, *new) and str(resized.dtype) == "torch.uint8" and resized.is_contiguous()
    assert np.abs(resized.numpy().transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_growing_stays_between_its_neighbours():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = (240, 120, 60)
    resized = resize_picture(image, (8, 8)).numpy()
    assert (np.diff(resized.astype(int), axis=2) >= 0).all()  # from dark at the left to bright at the right
    assert resized[:, 0, 0].tolist() == [0, 0, 0] and resized[:, 0, 7].tolist() == [240, 120, 60]


def test_an_equal_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize_picture(image, (5, 7)).numpy(), image.transpose(2, 0, 1))
