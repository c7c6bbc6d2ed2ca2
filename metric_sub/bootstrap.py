"""Bootstrap intervals of the score, over videos (Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentiles).

What a video adds to the score is one of 16 outcomes: declared or not, expected or not, and how many of S1, S2, S3 hold. To
draw n videos with replacement is to draw the outcomes' counts from a multinomial distribution: as quick for 40,000 videos
as for 40.
"""

from dataclasses import dataclass

import numpy as np

LEVELS = ("S1", "S2", "S3")
FIGURES = (*LEVELS, "final")

DECLARED, EXPECTED, HELD = np.divmod(np.arange(16), 8)[0], np.arange(16) // 4 % 2, np.arange(16) % 4  # of each outcome


@dataclass(frozen=True)
class Bootstrap:
    """resamples: how many, 1 or more. confidence (0..1): the share of them that the interval holds, its middle."""

    resamples: int
    confidence: float
    seed: int

    def intervals(self, rows: list[dict], weights: tuple[float, float, float]) -> dict[str, list[float] | None]:
        """The interval [low, high] of S1, S2, S3 and final, of the videos that `rows` (as in `per_video`) are of.

        Resamples without a video that is to be found have no F1 value and are left out; None where all are.
        """
        counts = np.bincount(outcomes(rows), minlength=16)
        return self._percentiles(f1_values(self._draw(counts), weights))

    def differences(
        self, rows_a: list[dict], rows_b: list[dict], weights: tuple[float, float, float]
    ) -> dict[str, list[float] | None]:
        """The intervals of b's figures less a's. Row i of both is of the same video, and videos are drawn in pairs."""
        pairs = np.bincount(16 * outcomes(rows_a) + outcomes(rows_b), minlength=256)
        drawn = self._draw(pairs).reshape(-1, 16, 16)  # (R, a, b)
        return self._percentiles(f1_values(drawn.sum(axis=1), weights) - f1_values(drawn.sum(axis=2), weights))

    def _draw(self, counts: np.ndarray) -> np.ndarray:
        """(R, len(counts)): how often each outcome comes in each resample."""
        n = counts.sum()
        return np.random.default_rng(self.seed).multinomial(n, counts / max(n, 1), self.resamples)

    def _percentiles(self, values: np.ndarray) -> dict[str, list[float] | None]:
        values = values[~np.isnan(values[:, 0])]
        if not len(values):
            return dict.fromkeys(FIGURES)
        low_high = np.quantile(values, [(1 - self.confidence) / 2, (1 + self.confidence) / 2], axis=0)
        return dict(zip(FIGURES, low_high.T.tolist(), strict=True))


def outcomes(rows: list[dict]) -> np.ndarray:
    """The outcome (N,) int64, 0..15, of each row of `per_video`: 8 if declared, and 4 if expected, and the levels that hold."""
    return np.array(
        [
            8 * (row["item_id"] is not None) + 4 * (row["expected"] is not None) + sum(row[name] for name in LEVELS)
            for row in rows
        ],
        np.int64,
    )


def f1_values(counts: np.ndarray, weights: tuple[float, float, float]) -> np.ndarray:
    """S1, S2, S3 and final (..., 4) of the outcomes' counts (..., 16); NaN where nothing is to be found."""
    hits = np.stack([counts @ (HELD > level) for level in range(3)], axis=-1)
    n_labelled = (counts @ EXPECTED)[..., None]
    n_all = n_labelled + (counts @ DECLARED)[..., None]
    f1 = np.where(n_labelled > 0, 2 * hits / np.maximum(n_all, 1), np.nan)
    return np.concatenate([f1, f1 @ np.asarray(weights, np.float64)[:, None]], axis=-1)
