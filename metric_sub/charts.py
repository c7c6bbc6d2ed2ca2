"""The charts of the report: distances, precision and recall, probability; points in the pixels of an SVG."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator

from metric_sub.cut_off import cut_off_curve
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.platt import reliability
from metric_sub.probability import match_probability
from shared.config import Calibration

WIDTH, HEIGHT = 360, 210  # px, of the whole chart
LEFT, RIGHT, TOP, BOTTOM = 40, 350, 12, 168  # px, the edges of what is plotted
PLOT = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM, "middle": (LEFT + RIGHT) / 2}
BINS = 24
N_POINTS = 60  # of the fitted curve


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    kind: str
    words: str


@dataclass
class Chart:
    """What the template draws. Ticks: (place in px, label). line: an SVG path. dots: (x, y, words). cut: x of the cut-off.
    legend: (kind, words)."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bars: list[Bar] = field(default_factory=list)
    line: str = ""
    dots: list[tuple[float, float, str]] = field(default_factory=list)
    cut: tuple[float, str] | None = None
    legend: list[tuple[str, str]] = field(default_factory=list)


def count_bins(distance: np.ndarray, right: np.ndarray | None, edges: np.ndarray) -> dict[str, np.ndarray]:
    """How many matches lie between neighbouring edges (the last bin holds its upper edge too): kind -> (bins,).

    Kinds: 'right' and 'wrong', or 'match' where no truth is known (right is None).
    """
    if right is None:
        return {"match": np.histogram(distance, edges)[0]}
    return {"right": np.histogram(distance[right], edges)[0], "wrong": np.histogram(distance[~right], edges)[0]}


def distance_chart(distance: np.ndarray, right: np.ndarray | None, cut_off: float) -> Chart:
    """A histogram of the matches' distances (N,), N > 0, stacked where `right` (N,) bool is known, with the cut-off."""
    low, high = _span(distance, cut_off)
    margin = 0.02 * (high - low) or 0.1
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    counts = count_bins(distance, right, edges)
    highest = max(int(sum(counts.values()).max()), 1)
    x, y = _scale(edges[0], edges[-1], LEFT, RIGHT), _scale(0, highest, BOTTOM, TOP)
    bars, under = [], np.zeros(BINS, int)
    for kind, of_kind in counts.items():
        for k in np.flatnonzero(of_kind):
            top, bottom = y(under[k] + of_kind[k]), y(under[k])
            words = f"{of_kind[k]} {kind}, {edges[k]:.3f} to {edges[k + 1]:.3f}"
            bars.append(
                Bar(x(edges[k]), top, round(x(edges[k + 1]) - x(edges[k]) - 1, 1), round(bottom - top, 1), kind, words)
            )
        under += of_kind
    names = {"match": "matches", "right": "right item", "wrong": "wrong item"}
    return Chart(
        "Distances",
        "distance of the match",
        "videos",
        _ticks(edges[0], edges[-1], x),
        _ticks(0, highest, y, integer=True),
        bars,
        cut=_cut(x, cut_off),
        legend=[(kind, f"{names[kind]}, {of_kind.sum()}") for kind, of_kind in counts.items()],
    )


def precision_recall(
    distance: np.ndarray, right: np.ndarray, n_expected: int, cut_off: float
) -> tuple[list[tuple[float, float]], tuple[float, float] | None]:
    """(recall, precision) at each distance that a match has, the nearest first, and at the cut-off (None: none is as near).

    distance (N,) float32, right (N,) bool: of all matches, also those beyond the cut-off. n_expected > 0: videos that are
    to be found, found or not.
    """
    curve = cut_off_curve(distance, right, n_expected)
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    n_kept = int(np.searchsorted(np.array(curve["max_distance"], np.float32), np.float32(cut_off), side="right"))
    return points, points[n_kept - 1] if n_kept else None


def precision_recall_chart(distance: np.ndarray, right: np.ndarray, n_expected: int, cut_off: float) -> Chart:
    """Precision against recall over the cut-offs; the dot is the present one. See `precision_recall`."""
    points, now = precision_recall(distance, right, n_expected, cut_off)
    x, y = _scale(0, 1, LEFT, RIGHT), _scale(0, 1, BOTTOM, TOP)
    dots = [(x(now[0]), y(now[1]), f"cut-off {cut_off:g}: precision {now[1]:.2f}, recall {now[0]:.2f}")] if now else []
    legend = [("dot", words) for *_, words in dots]
    return Chart(
        "Precision and recall",
        "recall",
        "precision",
        _ticks(0, 1, x),
        _ticks(0, 1, y),
        line=_path([(x(recall), y(precision)) for recall, precision in points]),
        dots=dots,
        legend=legend,
    )


def probability_chart(
    distance: np.ndarray, right: np.ndarray | None, calibration: Calibration, cut_off: float
) -> Chart:
    """The fitted probability over the distance, and, where `right` is known, the share of right ones in fifths of the matches."""
    low, high = _span(distance, cut_off)
    x, y = _scale(low, high, LEFT, RIGHT), _scale(0, 1, BOTTOM, TOP)
    at = np.linspace(low, high, N_POINTS)
    dots = []
    if right is not None:
        bins = reliability(distance, right, calibration)["bins"]
        dots = [
            (x(d), y(share), f"{share:.0%} of {n} matches around {d:.3f} are right")
            for d, share, n in zip(bins["distance"], bins["right"], bins["matches"], strict=True)
        ]
    return Chart(
        "Probability",
        "distance of the match",
        "probability",
        _ticks(low, high, x),
        _ticks(0, 1, y),
        line=_path([(x(d), y(p)) for d, p in zip(at, match_probability(at, calibration), strict=True)]),
        dots=dots,
        cut=_cut(x, cut_off),
        legend=[("line", "as calibrated")] + ([("dot", "share of right ones, in fifths")] if dots else []),
    )


def _span(distance: np.ndarray, cut_off: float) -> tuple[float, float]:
    """The lowest and highest of the distances and the cut-off, which is left out where no distance can be as far."""
    low, high = float(distance.min()), float(distance.max())
    return (min(low, cut_off), max(high, cut_off)) if cut_off <= NO_CUT_OFF else (low, high)


def _cut(x: Callable[[float], float], cut_off: float) -> tuple[float, str] | None:
    return (x(cut_off), f"cut-off {cut_off:g}") if cut_off <= NO_CUT_OFF else None


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (end - start) * float((value - low) / ((high - low) or 1)), 1)


def _ticks(low: float, high: float, scale: Callable[[float], float], integer: bool = False) -> list[tuple[float, str]]:
    places = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=integer).tick_values(low, high)
    return [(scale(place), f"{place:g}") for place in places.round(6) if low <= place <= high]


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) if points else ""
