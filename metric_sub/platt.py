"""Fits the probability that a match is right to matches that are known to be right or wrong.

Platt, Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods, 1999.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

from metric_sub.probability import match_probability
from shared.config import Calibration

BINS = 5


def fit_calibration(distance: np.ndarray, right: np.ndarray) -> Calibration | None:
    """The logistic curve of the highest likelihood, for distances (N,) of matches that are `right` (N,) bool or not.

    Platt's targets take the place of 0 and 1: (n_right + 1) / (n_right + 2) and 1 / (n_wrong + 2), so that the curve is
    finite also where a distance parts right from wrong. None where all are right, all wrong, all at one distance, or where
    the fitted probability does not fall with the distance.
    """
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    if not n_right or not n_wrong or np.ptp(distance) == 0:
        return None
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    column = np.tile(np.asarray(distance, np.float64), 2)[:, None]
    is_right = np.repeat([1, 0], len(distance))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(column, is_right, sample_weight=np.concatenate([target, 1 - target]))
    intercept, slope = float(model.intercept_[0]), float(model.coef_[0, 0])
    return Calibration(intercept=round(intercept, 6), slope=round(slope, 6)) if slope < 0 else None


def reliability(distance: np.ndarray, right: np.ndarray, calibration: Calibration) -> dict:
    """How well the probabilities of distances (N,) tell what is `right` (N,) bool; N of 1 or more.

    brier: the mean square of their difference. bins: fifths of the matches by rising distance, as columns: matches,
    distance and probability (their means) and right (the share of right ones).
    """
    probability = match_probability(distance, calibration)
    fifths = [rows for rows in np.array_split(np.argsort(distance, kind="stable"), BINS) if len(rows)]
    return {
        "brier": float(np.mean((probability - right) ** 2)),
        "bins": {
            "matches": [len(rows) for rows in fifths],
            "distance": [float(distance[rows].mean()) for rows in fifths],
            "probability": [float(probability[rows].mean()) for rows in fifths],
            "right": [float(right[rows].mean()) for rows in fifths],
        },
    }
