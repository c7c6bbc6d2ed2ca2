"""The thresholds, share and cut-off with which most matches are right: tried one after the other on matches known beforehand."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from metric_sub.cut_off import CutOff, best_cut_off, cut_off_curve

SCORE_STEP = 0.05  # between thresholds of the detector that are tried
SHARES = [k / 10 for k in range(11)]  # min_share that are tried
FOLDS = 5  # of the videos, for the figures on videos that the cut-offs were not fitted on


@dataclass(frozen=True)
class Settings:
    """What is tried, beside the cut-off, in this order, one after the other."""

    video_score: float
    photo_score: float
    min_share: float


def thresholds_from(least: float) -> list[float]:
    """The present threshold and the multiples of 0.05 over it, below 1. What lies under it was not kept by infer."""
    multiples = [round(k * SCORE_STEP, 2) for k in range(round(1 / SCORE_STEP))]
    return [least, *(score for score in multiples if score > least)]


def values_to_try(start: Settings) -> dict[str, list[float]]:
    """The values of each setting, `start`'s own among them."""
    return {
        "video_score": thresholds_from(start.video_score),
        "photo_score": thresholds_from(start.photo_score),
        "min_share": sorted({*SHARES, start.min_share}),
    }


@dataclass(frozen=True)
class SettingsSearch:
    """Searches the settings, from `start` on, that with the best cut-off reach the highest F1, or `precision` (0..1).

    matches_of: the matches with some settings and without a cut-off: video_id, distance (float32), right (bool). It is asked
    for the same settings again and again. expected: the videos that are to be found. tried: the values of each setting.
    """

    matches_of: Callable[[Settings], pd.DataFrame]
    start: Settings
    tried: dict[str, list[float]]
    expected: frozenset[str]
    precision: float | None  # None: the highest F1

    def choose(self, counted: set[str] | None = None) -> tuple[Settings, CutOff | None]:
        """One pass over the settings, each at its best value with the others held; and the cut-off, None: none will do.

        counted: the videos that count, None for all. Of equally good values it is the one nearest to the start's.
        """
        n_expected = len(self.expected if counted is None else self.expected & counted)

        def cut_off_at(settings: Settings) -> CutOff | None:
            matches = self.matches_of(settings)
            if counted is not None:
                matches = matches[matches.video_id.isin(counted)]
            return best_cut_off(matches.distance.to_numpy(), matches.right.to_numpy(), n_expected, self.precision)

        def merit(cut: CutOff | None) -> tuple[float, float]:
            if cut is None:
                return (-1, 0)
            return (cut.f1(n_expected), 0) if self.precision is None else (cut.hits, -cut.declared)

        best, best_cut = self.start, cut_off_at(self.start)
        for name, values in self.tried.items():
            nearest_first = sorted(values, key=lambda value: abs(value - getattr(self.start, name)))
            for settings in [replace(best, **{name: value}) for value in nearest_first]:
                cut = cut_off_at(settings)
                if merit(cut) > merit(best_cut):
                    best, best_cut = settings, cut
        return best, best_cut

    def held_out(self, videos: np.ndarray, seed: int) -> dict:
        """{folds, S1, precision, recall} by cross-validation: each fifth of the videos with what the other four propose.

        videos: all ids, of which the folds are drawn with the seed. precision: None where no match is declared.
        """
        fold = np.random.default_rng(seed).permutation(len(videos)) % FOLDS
        hits = declared = 0
        for number in range(FOLDS):
            others = set(videos[fold != number])
            settings, cut = self.choose(others)
            matches = self.matches_of(settings)
            matches = matches[~matches.video_id.isin(others)]
            matches = matches[matches.distance <= np.float32(cut.max_distance)] if cut else matches[:0]
            hits, declared = hits + int(matches.right.sum()), declared + len(matches)
        return {
            "folds": FOLDS,
            "S1": 2 * hits / (declared + len(self.expected)),
            "precision": hits / declared if declared else None,
            "recall": hits / len(self.expected),
        }

    def highest_precision(self) -> tuple[float, int]:
        """The highest precision of any cut-off, each setting changed by itself, and the most right matches with it.

        (0, 0) where no match is right.
        """
        singly = [replace(self.start, **{name: value}) for name, values in self.tried.items() for value in values]
        best = (0.0, 0)
        for settings in [self.start, *singly]:
            matches = self.matches_of(settings)
            curve = cut_off_curve(matches.distance.to_numpy(), matches.right.to_numpy(), len(self.expected))
            best = max([best, *zip(curve["precision"], curve["hits"], strict=True)])
        return best
