"""Colour histograms: their distance is Hellinger's, whatever the crop's size."""

import numpy as np
import pytest

from metric_sub.histogram import DIMENSION, histogram, histograms

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 30), (20, 30, 210)


def plain(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def test_distance_is_hellingers():
    """Shares of red 1/2 and 1/4: the vectors' inner product is sqrt(1/2 1/4) + sqrt(1/2 3/4)."""
    half = histogram(np.concatenate([plain(RED), plain(BLUE)]))
    quarter = histogram(np.concatenate([plain(RED), plain(BLUE), plain(BLUE), plain(BLUE)]))
    assert np.linalg.norm(half) == pytest.approx(1, abs=1e-6) and half.dtype == np.float32
    assert half @ quarter == pytest.approx(np.sqrt(1 / 8) + np.sqrt(3 / 8), abs=1e-6)
    assert np.linalg.norm(histogram(plain(RED)) - histogram(plain(BLUE))) == pytest.approx(np.sqrt(2), abs=1e-6)


def test_size_does_not_matter_and_an_empty_crop_is_zero():
    np.testing.assert_allclose(histogram(plain(GREEN)), histogram(plain(GREEN, 7, 5)), atol=1e-6)
    assert not histogram(plain(RED)[:0]).any()


def test_of_boxes_clipped_and_rounded_to_pixels():
    image = np.concatenate([plain(RED), plain(GREEN)])  # 80 high, 60 wide
    boxes = [[-5, -5, 70, 40.4], [0, 39.6, 60, 90], [10, 10, 10, 10], [0, 0, 60, 80]]
    red, green, nothing, both = histograms(image, np.float32(boxes))
    assert red == pytest.approx(histogram(plain(RED))) and green == pytest.approx(histogram(plain(GREEN)))
    assert not nothing.any() and both @ red == pytest.approx(np.sqrt(0.5))
    assert histograms(image, np.zeros((0, 4), np.float32)).shape == (0, DIMENSION)
