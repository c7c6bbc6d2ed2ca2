"""The threshold on a detector's score: how precision and recall change with it, and which one gives a wanted precision."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STEP = 0.005
KEYS = {"photos": "photo_score", "frames": "video_score"}  # of the config's section `detect`


def sweep_thresholds(scores: np.ndarray, hits: np.ndarray, n_boxes: int, least: float) -> pd.DataFrame:
    """A row per multiple of STEP from `least` to 1: score, found, precision, recall, f1 of the boxes scored that or more.

    scores (N,) float32 and hits (N,) bool: of the found boxes, which are all that score `least` or more; n_boxes: labelled
    ones. Where nothing is found, precision is NaN; where nothing is labelled, recall and f1 are.
    """
    thresholds = np.linspace(0, 1, round(1 / STEP) + 1).round(3)
    thresholds = thresholds[thresholds >= least]
    order = np.argsort(-scores, kind="stable")
    n_hits_of_best = np.concatenate([[0], np.cumsum(hits[order])])  # (N + 1,)
    found = np.searchsorted(-scores[order], -thresholds.astype(scores.dtype), side="right")
    n_hits = n_hits_of_best[found]
    with np.errstate(invalid="ignore", divide="ignore"):
        table = pd.DataFrame(
            {
                "score": thresholds,
                "found": found,
                "precision": n_hits / found,
                "recall": n_hits / n_boxes if n_boxes else np.nan,
                "f1": 2 * n_hits / (found + n_boxes) if n_boxes else np.nan,
            }
        )
    return table


def propose_threshold(table: pd.DataFrame, precision: float) -> float | None:
    """The lowest threshold with the wanted precision, which among those with it has the highest recall; None: there is none."""
    good = table[(table.precision >= precision) & (table.recall > 0)]
    return float(good.score.iloc[0]) if len(good) else None


def threshold_in_words(name: str, table: pd.DataFrame, precision: float) -> str:
    """What `propose_threshold` finds and what it costs, or why it finds none. name: photos or frames."""
    proposed = propose_threshold(table, precision)
    if proposed is not None:
        row = table[table.score == proposed].iloc[0]
        return f"{name}: {KEYS[name]} {proposed:g} gives precision {row.precision:.3f}, recall {row.recall:.3f}"
    cannot = f"{name}: precision {precision:g} cannot be reached"
    if not table.recall.max() > 0:
        return f"{cannot}: no labelled box was found at any threshold"
    best = table.loc[table.precision.idxmax()]
    return (
        f"{cannot}; the highest is {best.precision:.3f}, with {KEYS[name]} {best.score:g} at recall {best.recall:.3f}"
    )


def proposal_as_yaml(proposed: dict[str, float | None]) -> str:
    """The proposals as lines for the config, '' where there is none. proposed: 'photos' or 'frames' -> threshold or None."""
    lines = [f"  {KEYS[name]}: {score:g}" for name, score in proposed.items() if score is not None]
    return "\n".join(["detect:", *lines]) + "\n" if lines else ""


def draw_sweep(
    tables: dict[str, pd.DataFrame], current: dict[str, float], proposed: dict[str, float | None], precision: float
) -> Figure:
    """Precision, recall and F1 against the threshold, a panel for photos and one for frames."""
    figure = Figure(figsize=(6.5 * len(tables), 4.5), layout="constrained")
    for place, (name, table) in enumerate(tables.items(), 1):
        axes = figure.add_subplot(1, len(tables), place, title=name, xlabel=f"detect.{KEYS[name]}")
        for column, colour in (("precision", "tab:blue"), ("recall", "tab:orange"), ("f1", "tab:green")):
            axes.plot(table.score, table[column], color=colour, label="F1" if column == "f1" else column)
        axes.axhline(precision, color="tab:blue", linewidth=0.8, linestyle=":", label=f"wanted precision {precision:g}")
        axes.axvline(current[name], color="black", linewidth=1, label=f"now {current[name]:g}")
        if proposed[name] is not None:
            axes.axvline(proposed[name], color="tab:red", linestyle="--", label=f"proposed {proposed[name]:g}")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
