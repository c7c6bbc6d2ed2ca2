"""How much frames differ, by pictures of which one can say it."""

import numpy as np
import pytest

from bbox_sub.still import frame_cells, frame_change


def change(image, other):
    return frame_change(frame_cells(image), frame_cells(other))


def test_equal_frames_do_not_differ_and_a_brighter_one_does_by_its_levels():
    image = np.random.default_rng(0).integers(0, 200, (96, 160, 3), dtype=np.uint8)
    assert change(image, image) == 0
    assert change(image, image + np.uint8(7)) == pytest.approx(7, abs=1)


def test_one_cell_that_changes_shows_undiluted():
    image = np.full((160, 320, 3), 100, np.uint8)
    other = image.copy()
    other[20:30, 40:60, 2] = 160  # one cell of 10 x 20 pixels, in blue
    assert change(image, other) == 60


def test_fine_noise_averages_out():
    rng = np.random.default_rng(1)
    noisy = [rng.normal(120, 8, (480, 640, 3)).clip(0, 255).astype(np.uint8) for _ in range(2)]
    assert change(*noisy) < 1.5
