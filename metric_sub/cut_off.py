"""The cut-off between same and different products, from the distances of labelled crops."""

import numpy as np
from matplotlib.figure import Figure

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
