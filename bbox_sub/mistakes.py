"""The worst mistakes of a detector as tiles of a contact sheet: what it missed, and its most confident false alarms."""

import numpy as np
import pandas as pd

from bbox_sub.hits import NONE
from bbox_sub.sheet import Tile
from shared.boxes import box_areas
from shared.tables import BOX

PER_MEDIUM = 2  # tiles of one photo or video, at most: the next frame shows much the same


def worst_misses(
    pictures: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, names: list[str], n: int
) -> tuple[list[Tile], int]:
    """The n largest labelled boxes (px2; ties: the first) that no box over the threshold finds, and how many there are in all.

    Of one photo or video PER_MEDIUM at most. pictures: media_id, title, picture (its file), threshold; its place is the
    tables' `picture`. truth, found: of `hits.assign_hits`; truth with `name`, the place in `names` from 1.
    """
    missed = truth[~(truth.score >= truth.picture.map(pictures.threshold).astype("float32"))]
    worst = _spread(missed.iloc[np.argsort(-box_areas(missed[BOX].to_numpy()), kind="stable")], pictures, n)
    tiles = []
    for row in worst.itertuples():
        if row.found_by != NONE:
            why = f"found at {row.score:.2f}, threshold {pictures.threshold[row.picture]:g}"
        elif row.nearest != NONE:
            taken = "" if found.finds[row.nearest] == NONE else ", another's"
            why = f"IoU {row.nearest_iou:.2f}, score {found.score[row.nearest]:.2f}{taken}"
        else:
            why = "no box of its class"
        tiles.append(_tile(pictures, truth, found, row, f"{names[row.name - 1]}: {why}"))
    return tiles, len(missed)


def worst_false_alarms(
    pictures: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, categories: list[str], n: int
) -> tuple[list[Tile], int]:
    """The n best-scored boxes over the threshold (ties: the first) that find no labelled box, and how many there are in all.

    Tables as in `worst_misses`.
    """
    wrong = found[(found.finds == NONE) & (found.score >= found.picture.map(pictures.threshold).astype("float32"))]
    worst = _spread(wrong.sort_values("score", ascending=False, kind="stable"), pictures, n)
    tiles = [
        _tile(
            pictures,
            truth,
            found,
            row,
            f"{categories[row.label - 1]} {row.score:.2f}: "
            + (f"IoU {row.nearest_iou:.2f} with a label" if row.nearest_iou > 0 else "no label under it"),
        )
        for row in worst.itertuples()
    ]
    return tiles, len(wrong)


def _spread(rows: pd.DataFrame, pictures: pd.DataFrame, n: int) -> pd.DataFrame:
    """The first n rows, without those that come after PER_MEDIUM of their photo or video."""
    return rows[rows.groupby(rows.picture.map(pictures.media_id)).cumcount() < PER_MEDIUM].head(n)


def _tile(pictures: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, row, caption: str) -> Tile:
    here = found[found.picture == row.picture]
    picture = pictures.loc[row.picture]
    return Tile(
        picture.picture,
        np.float32([row.x1, row.y1, row.x2, row.y2]),
        truth[truth.picture == row.picture][BOX].to_numpy(),
        here[BOX].to_numpy(),
        here.score.to_numpy(),
        picture.threshold,
        (caption, picture.title),
    )
