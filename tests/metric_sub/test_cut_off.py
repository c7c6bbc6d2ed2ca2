"""The cut-offs: by hand, and against trying every distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.cut_off import best_cut_off, cut_off_curve, draw_distances, propose_cut_off

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


# --- the cut-off of matches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "n_expected", "precision", "found"),
    [
        # F1 at each: 2/5, 4/6, 4/7, 6/8, 6/9
        ([(0.2, 1), (0.4, 1), (0.5, 0), (0.7, 1), (0.9, 0)], 4, None, (0.8, 3, 4)),
        # 2/4, 2/5, 4/6, 4/7, 4/8, 6/9: two are best
        ([(0.2, 1), (0.3, 0), (0.4, 1), (0.5, 0), (0.6, 0), (0.7, 1)], 3, None, (0.45, 2, 3)),
        ([(0.2, 1), (0.4, 1), (0.5, 0), (0.7, 1), (0.9, 0)], 4, 0.9, (0.45, 2, 2)),
        ([(0.2, 1), (0.4, 1), (0.5, 0), (0.7, 1), (0.9, 0)], 4, 0.75, (0.8, 3, 4)),  # exactly 0.75 is enough
        ([(0.9, 0), (0.7, 1), (0.2, 1), (0.5, 0), (0.4, 1)], 4, None, (0.8, 3, 4)),  # in any order
        ([(0.2, 1), (0.4, 1)], 2, None, (0.4, 2, 2)),  # all stay: the farthest
        ([(0.2, 1), (0.40039, 1)], 2, None, (0.401, 2, 2)),  # with few decimals
        ([(0.2, 1), (0.4, 1), (0.4, 0)], 2, 1.0, (0.3, 1, 1)),  # equal distances stay or fall together
        ([(0.2, 0), (0.4, 1)], 1, 0.9, None),
        ([(0.2, 0), (0.4, 0)], 1, None, None),  # no cut-off has a hit
        ([], 3, None, None),
        ([], 3, 0.5, None),
        ([(0.0, 1), (0.0, 1)], 2, None, (0.0005, 2, 2)),  # a cut-off is above 0
    ],
)
def test_match_cut_off_by_hand(matches, n_expected, precision, found):
    distance, right = np.float32([d for d, _ in matches]), np.array([r for _, r in matches], bool)
    cut = best_cut_off(distance, right, n_expected, precision)
    assert (cut and (cut.max_distance, cut.hits, cut.declared)) == (found and (pytest.approx(found[0]), *found[1:]))


MATCHES = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=25)


@given(MATCHES, st.integers(0, 5), st.sampled_from([None, 0.3, 0.5, 0.75, 0.9, 1.0]), st.sampled_from([16, 2.0**24]))
def test_no_other_cut_off_is_better(matches, missed, precision, scale):
    """Brute force over all cut-offs; with the second scale neighbouring distances are neighbouring float32 numbers."""
    distance = np.float32([1 + d / scale for d, _ in matches])
    right = np.array([r for _, r in matches], bool)
    n_expected = int(right.sum()) + missed + 1
    tried = {}
    for cut in np.unique(distance):
        stays = distance <= cut
        hits, declared = int(right[stays].sum()), int(stays.sum())
        if hits and (precision is None or hits / declared >= precision):
            tried[2 * hits / (declared + n_expected) if precision is None else hits, -declared] = stays
    found = best_cut_off(distance, right, n_expected, precision)
    if not tried:
        assert found is None
        return
    best = tried[max(tried)]
    assert ((distance <= np.float32(found.max_distance)) == best).all()
    assert (found.hits, found.declared) == (right[best].sum(), best.sum())
    assert found.f1(n_expected) == 2 * found.hits / (found.declared + n_expected)
    assert precision is None or found.hits / found.declared >= precision


def test_the_cut_off_has_few_decimals():
    right = np.array([True, False])
    assert best_cut_off(np.float32([0.12345678, 0.2]), right, 1).max_distance == 0.162
    assert best_cut_off(np.float32([0.12344, 0.12346]), right, 1).max_distance == 0.12345


def test_the_curve_by_hand():
    curve = cut_off_curve(np.float32([0.5, 0.25, 0.5, 0.75]), np.array([True, True, False, False]), 4)
    assert curve == {
        "max_distance": [0.25, 0.5, 0.75],
        "hits": [1, 2, 2],
        "declared": [1, 3, 4],
        "precision": [1, pytest.approx(2 / 3), 0.5],
        "recall": [0.25, 0.5, 0.5],
        "F1": [pytest.approx(2 / 5), pytest.approx(4 / 7), 0.5],
    }
