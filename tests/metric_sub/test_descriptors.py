"""Descriptors against the written rules, pixel by pixel, and against what mirroring, dimming and moving a picture must do to them."""

import colorsys
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.descriptors import (
    DESCRIPTORS,
    colour_histograms,
    descriptor_weights,
    descriptors_of_boxes,
    fine_colour_histograms,
    gradient_histograms,
)
from shared.config import DescriptorSettings


def noise(n, seed=0):
    """n crops with structure of several sizes."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.integers(0, 200, (n, 8, 8, 3)), rng.integers(0, 56, (n, 64, 64, 3))
    return (coarse.repeat(8, axis=1).repeat(8, axis=2) + fine).astype(np.uint8)


def gradients_by_loops(crop):
    """Dalal and Triggs' histograms as the docstring tells them, one pixel after the other."""
    root = np.sqrt(crop.astype(float))
    cells = np.zeros((8, 8, 9))
    for y in range(64):
        for x in range(64):
            up, down = (1 if y == 0 else y - 1), (62 if y == 63 else y + 1)
            left, right = (1 if x == 0 else x - 1), (62 if x == 63 else x + 1)
            channels = [(root[y, right, c] - root[y, left, c], root[down, x, c] - root[up, x, c]) for c in range(3)]
            across, along = max(channels, key=lambda gradient: math.hypot(*gradient))
            degrees = math.degrees(math.atan2(along, across)) % 180
            for row in range(8):
                for column in range(8):
                    near = max(0, 1 - abs(y + 0.5 - (8 * row + 4)) / 8) * max(0, 1 - abs(x + 0.5 - (8 * column + 4)) / 8)
                    for k in range(9) if near else ():
                        turn = abs(degrees - (k + 0.5) * 20)
                        cells[row, column, k] += math.hypot(across, along) * near * max(0, 1 - min(turn, 180 - turn) / 20)
    energy = (cells**2).sum(axis=2)
    mirrored = [1, *range(8), 6]
    means = np.array(
        [[energy[np.ix_(mirrored[r : r + 3], mirrored[c : c + 3])].mean() for c in range(8)] for r in range(8)]
    )
    cells /= np.sqrt(means + 0.01 * means.max())[..., None]
    return cells.ravel() / np.linalg.norm(cells)


def colours_by_loops(picture, n_bands, n_hues, n_greys, spread):
    """The bands' hue, saturation and value by Python's colorsys, one pixel of (S, S, 3) after the other; spread: of the pixels'
    weight around the centre."""
    side, picture = len(picture), picture.astype(float)
    counts = np.zeros((n_bands, n_hues, n_greys, n_greys))
    for y in range(side):
        for x in range(side):
            hue, saturation, value = colorsys.rgb_to_hsv(*picture[y, x] / 255)
            from_centre = ((2 * y + 1) / side - 1) ** 2 + ((2 * x + 1) / side - 1) ** 2
            for h in range(n_hues):
                apart = abs(hue * n_hues - h)
                of_hue = max(0, 1 - min(apart, n_hues - apart))
                for s in range(n_greys) if of_hue else ():
                    for v in range(n_greys):
                        of_grey = [
                            max(0, 1 - abs(min(max(part * n_greys, 0.5), n_greys - 0.5) - (k + 0.5)))
                            for part, k in ((saturation, s), (value, v))
                        ]
                        weight = math.exp(-from_centre / (2 * spread**2))
                        counts[y * n_bands // side, h, s, v] += weight * of_hue * math.prod(of_grey)
    return np.sqrt(counts.ravel() / counts.sum())


def test_gradients_are_the_written_rule():
    crops = noise(2)
    assert gradient_histograms(crops) == pytest.approx(np.stack([gradients_by_loops(crop) for crop in crops]), abs=1e-5)


def test_colours_are_the_written_rule():
    crops = noise(2)[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)  # halved without rounding
    expected = [colours_by_loops(crop[::2, ::2], 3, 12, 4, spread=0.6) for crop in crops]
    assert colour_histograms(crops) == pytest.approx(np.stack(expected), abs=1e-5)


def test_fine_colours_are_the_written_rule():
    [crop] = noise(1)
    expected = colours_by_loops(crop, 1, 24, 8, spread=math.inf)
    assert fine_colour_histograms(crop[None]) == pytest.approx(expected[None], abs=5e-5)  # roots of rounding


def test_an_upright_edge_lies_in_the_two_orientations_beside_it():
    crop = np.zeros((1, 64, 64, 3), np.uint8)
    crop[:, :, 32:] = 200
    cells = gradient_histograms(crop).reshape(8, 8, 9)
    assert not cells[..., 1:8].any() and cells[..., 0] == pytest.approx(cells[..., 8])
    assert cells[:, 3:5].all(axis=1)[:, 0].all() and not cells[:, [0, 1, 6, 7]].any()
    lying = gradient_histograms(crop.transpose(0, 2, 1, 3)).reshape(8, 8, 9)
    assert lying[..., 4].any() and not lying[..., [0, 1, 2, 6, 7, 8]].any()  # 90 degrees: the middle of the fifth bin


def test_one_colour_is_one_bin_of_each_band():
    crop = np.full((1, 64, 64, 3), [0, 255, 0], np.uint8)  # hue of 120 degrees
    bands = colour_histograms(crop).reshape(3, 12, 4, 4)
    assert np.count_nonzero(bands) == 3 and (bands[:, 4, 3, 3] > 0).all()
    assert (bands**2).sum() == pytest.approx(1) and bands[1].max() > bands[0].max() == pytest.approx(bands[2].max(), rel=0.1)


@given(st.integers(0, 2**32 - 1))
def test_a_mirrored_picture_has_mirrored_cells_and_orientations(seed):
    crop = noise(1, seed)
    cells, mirrored = (gradient_histograms(each).reshape(8, 8, 9) for each in (crop, crop[:, :, ::-1]))
    assert mirrored == pytest.approx(cells[:, ::-1, ::-1], abs=1e-5)
    for colours in (colour_histograms, fine_colour_histograms):
        assert colours(crop[:, :, ::-1]) == pytest.approx(colours(crop), abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 5]))
def test_dimmed_light_leaves_gradients(seed, factor):
    crop = noise(1, seed) // factor
    dim, bright = gradient_histograms(crop), gradient_histograms(crop * factor)
    assert (dim * bright).sum() > 0.9999  # where two channels are equally steep, rounding decides for one of them


def test_a_crop_without_an_edge_has_no_gradients_and_says_so_by_zeros():
    flat = np.full((2, 64, 64, 3), 90, np.uint8)
    assert not gradient_histograms(flat).any()
    assert np.linalg.norm(colour_histograms(flat), axis=1) == pytest.approx(1)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_box_has_the_same_bits_in_any_company(name):
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 70, 90], [10.5, 3, 40, 60], [65, 80, 90, 120], [69.9, 10, 70.4, 20], [80, 95, 99, 99]])
    [together] = descriptors_of_boxes(image, boxes, [name])
    assert together.dtype == np.float32 and together.shape == (5, DESCRIPTORS[name].length)
    assert np.linalg.norm(together[:3], axis=1) == pytest.approx(1, abs=1e-6)
    for k, box in enumerate(boxes):
        assert np.array_equal(descriptors_of_boxes(image, box[None], [name])[0][0], together[k])


def test_no_box_and_no_descriptor():
    image = np.zeros((20, 20, 3), np.uint8)
    none = np.zeros((0, 4), np.float32)
    assert [each.shape for each in descriptors_of_boxes(image, none, list(DESCRIPTORS))] == [(0, 576), (0, 576), (0, 1536)]
    assert descriptors_of_boxes(image, none, []) == []


def test_a_weight_of_0_leaves_a_descriptor_out():
    def weights(gradients, colours, fine):
        settings = {"gradient_histogram": gradients, "colour_histogram": colours, "fine_colour_histogram": fine}
        return descriptor_weights(DescriptorSettings(**settings, whitening=None))

    assert weights(0, 0.5, 0) == {"colour_histogram": 0.5} and weights(0, 0, 0) == {}
    assert list(weights(1, 1, 1)) == list(DESCRIPTORS)
