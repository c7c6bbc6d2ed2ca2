"""The cut-off between same and different: by hand, and against trying every distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.cut_off import draw_distances, propose_cut_off

DISTANCES = st.lists(st.integers(0, 40), min_size=1, max_size=25)


@pytest.mark.parametrize(
    ("same", "different", "cut_off", "balanced_accuracy"),
    [
        ([0.2, 0.4, 0.9], [0.7, 0.8, 1.0], 0.55, (2 / 3 + 1) / 2),  # at 0.95 it would be (1 + 1/3) / 2
        ([0.1, 0.3], [0.5, 0.9], 0.4, 1),  # parted wholly
        ([0.2, 0.6], [0.4, 0.8], 0.3, 3 / 4),  # 0.7 is as good: the lowest
        ([0.2] * 9 + [0.8], [0.5], 0.35, 0.95),  # counts do not matter, shares do
        ([0.5], [0.5], 0.5, 1 / 2),  # nothing parts them
        ([0.9], [0.1], 0.9, 1 / 2),  # the wrong way round: all is kept
    ],
)
def test_by_hand(same, different, cut_off, balanced_accuracy):
    found = propose_cut_off(np.float32(same), np.float32(different))
    assert found == (pytest.approx(cut_off, abs=1e-6), pytest.approx(balanced_accuracy))


@given(DISTANCES, DISTANCES)
def test_no_other_distance_is_better(same, different):
    same, different = np.float32(same) / 16, np.float32(different) / 16  # exact in float32
    cut_off, balanced_accuracy = propose_cut_off(same, different)

    def balanced(distance):
        return ((same <= distance).mean() + (different > distance).mean()) / 2

    assert balanced(cut_off) == pytest.approx(balanced_accuracy)
    tried = np.arange(-1, 100) / 32  # every distance and every middle of two
    assert (
        max(balanced(distance) for distance in tried if distance >= min(*same, *different)) <= balanced_accuracy + 1e-12
    )


@pytest.mark.parametrize("proposed", [0.7, None])
def test_the_picture_shows_every_crop_and_both_cut_offs(proposed):
    same, different = np.float32([0.2, 0.3, 0.9]), np.float32([0.8, 1.3])
    axes = draw_distances(same, different, 1.12, proposed).axes[0]
    heights = sorted(sum(bar.get_height() for bar in bars) for bars in axes.containers)
    assert heights == [2, 3]
    lines = [line.get_xdata()[0] for line in axes.lines]
    assert lines == [1.12, *([] if proposed is None else [proposed])]


def test_the_picture_of_one_side_alone():
    axes = draw_distances(np.float32([0.2, 0.3]), np.zeros(0, np.float32), 1.12, None).axes[0]
    assert sum(bar.get_height() for bars in axes.containers for bar in bars) == 2
