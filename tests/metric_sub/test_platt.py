"""The probability of a match: the fit against scipy, the curve against its formula, both against how often matches are right."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from metric_sub.platt import fit_calibration, reliability
from metric_sub.probability import match_probability
from shared.config import Calibration


def drawn(n, intercept=6.0, slope=-8.0, seed=0):
    """Distances, and matches that are right as often as the curve says."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0.2, 1.3, n).astype(np.float32)
    return distance, rng.random(n) < expit(intercept + slope * distance)


def test_probabilities_by_the_formula():
    distance = np.float32([0, 0.5, 0.75, 1, 2])
    told = match_probability(distance, Calibration(intercept=6, slope=-8))
    assert told == pytest.approx([1 / (1 + np.exp(-(6 - 8 * d))) for d in distance.tolist()])
    assert told[2] == 0.5 and (np.diff(told) < 0).all() and told.dtype == np.float64
    assert match_probability(np.float32([0, 2]), Calibration(intercept=1e6, slope=-1e6)).tolist() == [1, 0]
    assert np.isnan(match_probability(distance, None)).all() and match_probability(distance[:0], None).shape == (0,)


@pytest.mark.parametrize("n", [12, 60, 500])
def test_the_fit_has_the_highest_likelihood(n):
    """Platt's targets in the cross-entropy, minimised by scipy."""
    distance, right = drawn(n)
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(line):
        log_odds = line[0] + line[1] * distance.astype(np.float64)
        return np.sum(target * np.logaddexp(0, -log_odds) + (1 - target) * np.logaddexp(0, log_odds))

    theirs = minimize(loss, [0, 0], method="BFGS", options={"gtol": 1e-8}).x
    ours = fit_calibration(distance, right)
    assert [ours.intercept, ours.slope] == pytest.approx(theirs, abs=1e-3)


def test_matches_are_right_as_often_as_they_are_said_to_be():
    calibration = fit_calibration(*drawn(4000))
    assert (calibration.intercept, calibration.slope) == pytest.approx((6, -8), abs=0.6)
    bins = reliability(*drawn(4000, seed=1), calibration)["bins"]  # others than it was fitted to
    assert bins["right"] == pytest.approx(bins["probability"], abs=0.04)
    assert bins["matches"] == [800] * 5 and sorted(bins["right"], reverse=True) == bins["right"]


def test_parted_wholly_stays_finite():
    calibration = fit_calibration(np.float32([0.3, 0.4, 0.9, 1.0]), np.array([True, True, False, False]))
    near, far = match_probability(np.float32([0.3, 1.0]), calibration)
    assert 0.6 < near < 1 and 0 < far < 0.4 and abs(calibration.slope) < 50


@pytest.mark.parametrize(
    ("distance", "right"),
    [
        ([0.3, 0.4], [True, True]),
        ([0.3, 0.4], [False, False]),
        ([0.3, 0.3], [True, False]),  # one distance tells nothing
        ([0.3, 0.9], [False, True]),  # the wrong way round
        ([], []),
    ],
)
def test_nothing_to_fit(distance, right):
    assert fit_calibration(np.float32(distance), np.array(right, bool)) is None


def test_reliability_by_hand():
    """Five matches, five bins: 0.5 at distance 0, and its Brier score is a quarter whatever is right."""
    even = Calibration(intercept=0, slope=0)
    told = reliability(np.float32([0.4, 0.2, 0.3]), np.array([True, False, True]), even)
    assert told == {
        "brier": 0.25,
        "bins": {
            "matches": [1, 1, 1],
            "distance": pytest.approx([0.2, 0.3, 0.4]),
            "probability": [0.5] * 3,
            "right": [0, 1, 1],
        },
    }


def test_the_order_of_the_matches_does_not_matter():
    distance, right = drawn(100)
    order = np.random.default_rng(0).permutation(100)
    assert fit_calibration(distance, right) == fit_calibration(distance[order], right[order])
