"""How probable it is that a match is right, by its distance (Platt 1999; `calibrate` fits it on validation data)."""

import numpy as np

from shared.config import Calibration


def match_probability(distance: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """1 / (1 + exp(-(intercept + slope x distance))) of each distance (N,): float64, 0..1; NaN without a calibration."""
    if calibration is None:
        return np.full(len(distance), np.nan)
    log_odds = calibration.intercept + calibration.slope * np.asarray(distance, np.float64)
    return np.exp(-np.logaddexp(0, -log_odds))  # no overflow, however long the odds
