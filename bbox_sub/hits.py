"""Which found box finds which labelled box, and the precision and recall that come of it. Functions of tables.

truth: a row per labelled box, found: a row per found box; both with picture (a number), label (the detector's category,
from 1) and x1, y1, x2, y2; found with score.
"""

import numpy as np
import pandas as pd

from bbox_sub.evaluate import SIZES
from shared.boxes import box_areas, pairwise_iou
from shared.tables import BOX

NONE = -1  # the row number of no box


def assign_hits(truth: pd.DataFrame, found: pd.DataFrame, min_iou: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with who finds whom: COCO's rule at one IoU.

    In each picture and category the found boxes choose by falling score (ties: the row above first): each takes the
    labelled box that it overlaps most, among those not yet taken with an IoU of `min_iou` or more. What a box takes depends
    on better-scored boxes alone, so the answer holds for every threshold on the score.

    truth gains found_by (the row number in `found`, or NONE), score (of that box, else NaN), and nearest and nearest_iou: the
    found box of its category with the highest IoU. found gains finds (the row number in `truth`, or NONE), nearest_iou.
    """
    truth, found = truth.reset_index(drop=True), found.reset_index(drop=True)
    found_by, nearest = np.full(len(truth), NONE), np.full(len(truth), NONE)
    finds, iou_of_truth, iou_of_found = np.full(len(found), NONE), np.zeros(len(truth)), np.zeros(len(found))
    found_rows = found.groupby(["picture", "label"]).indices
    for key, expected in truth.groupby(["picture", "label"]).indices.items():
        rows = found_rows.get(key)
        if rows is None:
            continue
        iou = pairwise_iou(found.loc[rows, BOX].to_numpy(), truth.loc[expected, BOX].to_numpy())  # (found, truth)
        iou_of_found[rows], iou_of_truth[expected] = iou.max(axis=1), iou.max(axis=0)
        nearest[expected] = np.where(iou.max(axis=0) > 0, rows[iou.argmax(axis=0)], NONE)
        free = np.ones(len(expected), bool)
        for place in np.argsort(-found.score.to_numpy()[rows], kind="stable"):
            open_iou = np.where(free, iou[place], -1)
            best = len(open_iou) - 1 - int(open_iou[::-1].argmax())  # ties go to the last, as in pycocotools
            if open_iou[best] >= min_iou:
                free[best] = False
                found_by[expected[best]], finds[rows[place]] = rows[place], expected[best]
    scores = np.append(found.score.to_numpy(np.float32), np.float32(np.nan))  # row NONE, the last, is NaN
    return (
        truth.assign(found_by=found_by, score=scores[found_by], nearest=nearest, nearest_iou=iou_of_truth),
        found.assign(finds=finds, nearest_iou=iou_of_found),
    )


def at_thresholds(truth: pd.DataFrame, found: pd.DataFrame, thresholds: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables that `assign_hits` gave, as they are at a threshold per picture (its number -> score): both gain `hit`.

    truth keeps every row, hit where a box scored the threshold or more found it; found keeps the rows that score so.
    """
    least = thresholds.astype("float32")  # as the scores: 0.9 is less than a score of float32(0.9) in float64
    found = found[found.score >= found.picture.map(least)]
    return truth.assign(hit=truth.score >= truth.picture.map(least)), found.assign(hit=found.finds != NONE)


def precision_recall(truth: pd.DataFrame, found: pd.DataFrame) -> dict[str, float | int | None]:
    """{'boxes', 'found', 'hits', 'precision', 'recall'} of rows that `at_thresholds` gave.

    precision is the share of the found boxes that hit, None where nothing was found; recall the share of the labelled
    boxes (`boxes`) that were hit (`hits`), None where there is none.
    """
    return {
        "boxes": len(truth),
        "found": len(found),
        "hits": int(truth.hit.sum()),
        "precision": float(found.hit.mean()) if len(found) else None,
        "recall": float(truth.hit.mean()) if len(truth) else None,
    }


def sizes_of(truth: pd.DataFrame, found: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """COCO's size (a name of SIZES) of every row of whole tables that `assign_hits` gave, by area in pixels of the picture.

    A found box that finds a labelled one has that one's size, so that both count in the same place.
    """
    truth_areas, areas = box_areas(truth[BOX].to_numpy()), box_areas(found[BOX].to_numpy())
    finds = found.finds.to_numpy()
    areas[finds != NONE] = truth_areas[finds[finds != NONE]]
    names, limits = np.array(list(SIZES)), [below for _, below in SIZES.values()]
    return names[np.searchsorted(limits, truth_areas, side="right")], names[
        np.searchsorted(limits, areas, side="right")
    ]
