"""The search for settings: what is tried, and one pass over it against a plain one."""

import numpy as np
import pandas as pd
import pytest

from metric_sub.cut_off import best_cut_off
from metric_sub.settings import Settings, SettingsSearch, thresholds_from


def test_thresholds_that_are_tried():
    assert thresholds_from(0.9) == [0.9, 0.95] and thresholds_from(0.97) == [0.97] and thresholds_from(1.0) == [1.0]
    assert thresholds_from(0.82) == [0.82, 0.85, 0.9, 0.95] and len(thresholds_from(0.0)) == 20


@pytest.mark.parametrize("precision", [None, 0.8])
def test_one_pass_over_the_settings_against_a_plain_one(precision):
    """Random matches for every setting; the choice is that of trying each setting's values in turn."""
    rng = np.random.default_rng(0)
    tried = {"video_score": [0.3, 0.4, 0.5], "photo_score": [0.6, 0.7], "min_share": [0.2, 0.5, 0.8]}
    expected = frozenset(str(k) for k in range(30))
    known = {}

    def matches_of(settings):
        if settings not in known:
            videos = rng.permutation(40)[:30].astype(str)
            right = (rng.random(30) < 0.7) & np.isin(videos, list(expected))
            distance = np.float32(rng.integers(1, 40, 30) / 32)
            known[settings] = pd.DataFrame({"video_id": videos, "distance": distance, "right": right})
        return known[settings]

    def value(settings, counted):
        matches = matches_of(settings)
        matches = matches[matches.video_id.isin(counted)]
        cut = best_cut_off(matches.distance.to_numpy(), matches.right.to_numpy(), len(expected & counted), precision)
        if cut is None:
            return (-1.0, 0)
        return (cut.f1(len(expected & counted)), 0) if precision is None else (cut.hits, -cut.declared)

    everything = {str(k) for k in range(40)}
    for counted in (everything, {str(k) for k in range(0, 40, 2)}):
        start = best = Settings(0.3, 0.6, 0.5)
        for video_score in (0.3, 0.4, 0.5):
            best = max(best, Settings(video_score, 0.6, 0.5), key=lambda each: value(each, counted))
        for photo_score in (0.6, 0.7):
            best = max(best, Settings(best.video_score, photo_score, 0.5), key=lambda each: value(each, counted))
        for share in (0.5, 0.2, 0.8):
            option = Settings(best.video_score, best.photo_score, share)
            best = max(best, option, key=lambda each: value(each, counted))
        found, cut = SettingsSearch(matches_of, start, tried, expected, precision).choose(counted)
        assert found == best and (cut is None) == (value(best, counted)[0] < 0)


def test_the_highest_precision_of_any_setting():
    """Settings change one at a time: the perfect match of both thresholds raised together is not looked at."""
    right = {(0.3, 0.3): "10", (0.4, 0.3): "011", (0.3, 0.4): "0", (0.4, 0.4): "1"}

    def matches_of(settings):
        held = [digit == "1" for digit in right[settings.video_score, settings.photo_score]]
        distance = np.float32(np.arange(len(held)) + 1)
        return pd.DataFrame({"video_id": map(str, range(len(held))), "distance": distance, "right": held})

    tried = {"video_score": [0.3, 0.4], "photo_score": [0.3, 0.4], "min_share": [0.5]}
    search = SettingsSearch(matches_of, Settings(0.3, 0.3, 0.5), tried, frozenset("012"), 0.9)
    assert search.highest_precision() == (1.0, 1)
    right[0.3, 0.3] = "00"
    assert search.highest_precision() == (2 / 3, 2)
    right[0.4, 0.3] = "0"
    assert search.highest_precision() == (0, 0)
