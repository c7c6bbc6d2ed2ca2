"""Cut-offs: between same and different products by labelled crops, and of matches by what is known to be right."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from metric_sub.probability import match_probability
from shared.config import Calibration

BINS = 50


def propose_cut_off(same: np.ndarray, different: np.ndarray) -> tuple[float, float]:
    """The distance that best parts `same` (N,) from `different` (M,), and its balanced accuracy, 0..1.

    Balanced accuracy: the mean of the share of `same` at the cut-off or under it and of the share of `different` over it.
    Candidates lie midway between neighbouring distances; of equally good ones it is the lowest. Neither side may be empty.
    """
    distances = np.unique(np.concatenate([same, different]).astype(np.float64))
    candidates = np.concatenate([(distances[:-1] + distances[1:]) / 2, distances[-1:]])
    kept = np.searchsorted(np.sort(same), candidates, side="right") / len(same)
    dropped = 1 - np.searchsorted(np.sort(different), candidates, side="right") / len(different)
    balanced = (kept + dropped) / 2
    best = int(np.argmax(balanced > balanced.max() - 1e-12))  # sums of two shares round differently
    return float(candidates[best]), float(balanced[best])


def draw_distances(same: np.ndarray, different: np.ndarray, now: float, proposed: float | None) -> Figure:
    """A histogram of both (N,), (M,), with the cut-off of the config and the proposed one, if there is one."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        title="Distance of a video crop to the nearest photo crop of ...",
        xlabel="Euclidean distance between unit vectors",
        ylabel="video crops",
    )
    farthest = max(same.max(), different.max(initial=0), now)
    edges = np.linspace(0, farthest * 1.02, BINS + 1)
    axes.hist(different, edges, color="tab:red", alpha=0.55, label="any other product")
    axes.hist(same, edges, color="tab:green", alpha=0.55, label="its own product")
    axes.axvline(now, color="black", linewidth=1, label=f"match.max_distance now {now:g}")
    if proposed is not None:
        axes.axvline(proposed, color="tab:blue", linestyle="--", label=f"proposed {proposed:.3f}")
    axes.set_xlim(0, edges[-1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    return figure


@dataclass(frozen=True)
class CutOff:
    """max_distance, and how many matches at it or nearer are right (hits) and are there at all (declared)."""

    max_distance: float
    hits: int
    declared: int

    def f1(self, n_expected: int) -> float:
        return 2 * self.hits / (self.declared + n_expected)


def best_cut_off(
    distance: np.ndarray, right: np.ndarray, n_expected: int, precision: float | None = None
) -> CutOff | None:
    """The cut-off of matches with the highest F1 = 2 hits / (declared + n_expected), or with the most hits at `precision`
    (0..1) or more; of equally good ones the one with the fewest declared. None: none has a hit, or the precision.

    distance (N,) float32, right (N,) bool, of all the matches without a cut-off. n_expected: what is to be found, found or
    not. The cut-off lies about midway between two neighbouring distances, rounded to as few decimals (3 or more) as keep it
    between them; where all matches stay it is at most 0.001 over the farthest distance.
    """
    seen, hits, declared = _counts(distance, right)
    value = 2 * hits / (declared + n_expected) if precision is None else np.where(hits / declared >= precision, hits, 0)
    if not hits[value > 0].any():
        return None
    best = int(np.argmax(value))  # the first of equals: the nearest
    above = seen[best + 1] if best + 1 < len(seen) else seen[best] + np.float32(0.001)
    return CutOff(_between(seen[best], above), int(hits[best]), int(declared[best]))


def cut_off_curve(distance: np.ndarray, right: np.ndarray, n_expected: int) -> dict[str, list]:
    """Columns max_distance (each distance that some match has, rising), hits, declared, precision, recall, F1."""
    seen, hits, declared = _counts(distance, right)
    return {
        "max_distance": seen.tolist(),
        "hits": hits.tolist(),
        "declared": declared.tolist(),
        "precision": (hits / declared).tolist(),
        "recall": (hits / n_expected).tolist(),
        "F1": (2 * hits / (declared + n_expected)).tolist(),
    }


def _counts(distance: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different distances, rising, and how many matches at each or nearer are right, and are there."""
    order = np.argsort(distance, kind="stable")
    ordered = np.asarray(distance, np.float32)[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])  # of equal distances
    return ordered[last], np.cumsum(right[order])[last], last + 1


def _between(below: np.float32, above: np.float32) -> float:
    """A number with few decimals, `below` or over it and under `above`."""
    middle = (float(below) + float(above)) / 2
    for decimals in range(3, 50):
        short = round(middle, decimals)
        if short > 0 and below <= np.float32(short) < above:
            return short
    return float(below)  # they are neighbouring float32 numbers


def draw_calibration(answer: dict) -> Figure:
    """Precision against recall over the cut-offs, and the probability against the distance; answer: of `calibrate`."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.add_subplot(
        1, 2, 1, title="Matches at every cut-off", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02)
    )
    curve = answer["curve"]
    axes.plot(curve["recall"], curve["precision"], drawstyle="steps-pre", label="with the proposed settings")
    for name, colour, marker in (("now", "black", "o"), ("proposed", "tab:red", "*")):
        row = answer[name]
        if row["precision"] is not None:
            label = f"{name}: max_distance {row['settings']['max_distance']:g}, S1 {row['S1']:.3f}"
            axes.plot(row["recall"], row["precision"], marker, color=colour, markersize=10, label=label)
    if answer["aim"] != "F1":
        wanted = answer["aim"]["precision"]
        axes.axhline(wanted, color="tab:red", linestyle=":", label=f"wanted precision {wanted:g}")
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)
    axes = figure.add_subplot(
        1,
        2,
        2,
        title="How probable it is that a match is right",
        xlabel="distance of the match",
        ylabel="probability",
        ylim=(-0.02, 1.02),
    )
    axes.axvline(answer["proposed"]["settings"]["max_distance"], color="tab:red", linestyle="--", label="max_distance")
    probability = answer["probability"]
    if probability:
        bins = probability["bins"]
        distances = np.linspace(curve["max_distance"][0], curve["max_distance"][-1], 200)
        calibration = Calibration(intercept=probability["intercept"], slope=probability["slope"])
        axes.plot(distances, match_probability(distances, calibration), label="fitted")
        label = f"share of right ones, fifths of {probability['matches']} matches"
        axes.plot(bins["distance"], bins["right"], "o", label=label)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)
    return figure
