"""The assignment of items to videos against scipy's dense solver and against hand-worked ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from metric_sub import assign
from metric_sub.assign import MARGIN, optimal_pairs

LARGEST = 1.5


def chosen(pairs, distances, largest=LARGEST):
    """The pairs (item, video) that match."""
    item, video = np.array(pairs, np.int64).reshape(-1, 2).T
    matched = optimal_pairs(item, video, np.array(distances, np.float32), largest)
    return [pair for pair, stays in zip(pairs, matched, strict=True) if stays]


def dense_worth(pairs, distances):
    """The largest sum of worths, by a full table in which a pair that may not match, and an item without a video, is worth 0."""
    worth = np.zeros((1 + max(item for item, _ in pairs), 1 + max(video for _, video in pairs)))
    for pair, distance in zip(pairs, distances, strict=True):
        worth[pair] = LARGEST + MARGIN - distance
    return worth[linear_sum_assignment(worth, maximize=True)].sum()


def random_pairs(seed, n_items, n_videos, density, values):
    rng = np.random.default_rng(seed)
    pairs = [(int(i), int(v)) for i, v in np.argwhere(rng.random((n_items, n_videos)) < density)]
    return pairs, rng.choice(np.float32(values), len(pairs)).tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 12),
    n_videos=st.integers(1, 12),
    density=st.sampled_from([0.05, 0.15, 0.3, 1.0]),
    values=st.sampled_from([[0.5, 1.0, 1.5], np.linspace(0, 1.5, 1000)]),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_assignment_is_worth_more(seed, n_items, n_videos, density, values):
    pairs, distances = random_pairs(seed, n_items, n_videos, density, values)
    found = chosen(pairs, distances)
    assert len({item for item, _ in found}) == len({video for _, video in found}) == len(found)
    if pairs:
        worth = sum(LARGEST + MARGIN - distances[pairs.index(pair)] for pair in found)
        assert worth == pytest.approx(dense_worth(pairs, distances), abs=1e-9)
    order = np.random.default_rng(seed).permutation(len(pairs))
    again = chosen([pairs[k] for k in order], [distances[k] for k in order])
    assert sorted(again) == sorted(found)


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
def test_components_may_be_solved_together_or_one_by_one(monkeypatch, at_once):
    pairs, distances = random_pairs(0, 300, 300, 0.006, np.linspace(0, 1.5, 10**6))
    expected = chosen(pairs, distances)
    monkeypatch.setattr(assign, "PAIRS_AT_ONCE", at_once)
    assert chosen(pairs, distances) == expected and len(expected) > 150


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_what_is_settled_without_the_solver_is_what_the_solver_would_give(monkeypatch, rounds):
    for seed, density in enumerate([0.003, 0.006, 0.012, 0.1]):
        pairs, distances = random_pairs(seed, 200, 200, density, np.linspace(0, 1.5, 10**6))
        pairs += [(200 + k, 200 + k // 2) for k in range(60)] + [(200 + k, 201 + k // 2) for k in range(60)]  # a long chain
        distances += np.linspace(1.4, 0.1, 60).tolist() + np.linspace(1.3, 0.15, 60).tolist()
        expected = chosen(pairs, distances)
        monkeypatch.setattr(assign, "ROUNDS", rounds)
        assert chosen(pairs, distances) == expected
        worth = sum(LARGEST + MARGIN - distance for pair, distance in zip(pairs, distances, strict=True) if pair in expected)
        assert worth == pytest.approx(dense_worth(pairs, distances), abs=1e-5)
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("pairs", "distances", "expected"),
    [
        ([], [], []),
        ([(0, 0)], [0.5], [(0, 0)]),
        ([(0, 0)], [1.5], [(0, 0)]),  # exactly the largest distance stays
        ([(2, 0), (1, 0), (0, 0)], [0.5, 0.5, 1.0], [(1, 0)]),  # one video: the nearest, then the smaller item
        ([(0, 2), (0, 1), (0, 0)], [0.5, 0.5, 1.0], [(0, 1)]),  # one item: the nearest, then the smaller video
        ([(0, 0), (0, 1), (1, 0)], [0.1, 0.2, 0.2], [(0, 1), (1, 0)]),  # 2.6 against 1.4
        (
            [(0, 0), (0, 1), (1, 0)],
            [0.1, 1.4, 1.4],
            [(0, 0)],
        ),  # 1.4 against 0.2: two poor matches for one good one do not pay
        ([(5, 9), (5, 3)], [0.25, 0.5], [(5, 9)]),  # numbers need not be dense
    ],
)
def test_small_cases(pairs, distances, expected):
    assert chosen(pairs, distances) == expected
