"""The figures of a detector: COCO's average precision, and precision and recall at the working thresholds, cut every way."""

import numpy as np
import pandas as pd

from bbox_sub.evaluate import SIZES, Found, Truth, average_precision_by
from bbox_sub.hits import at_thresholds, precision_recall, sizes_of
from shared.decimals import three_decimals
from shared.tables import BOX

KINDS = ("photos", "frames")
COLUMNS = ("mAP", "AP50", "AR", "boxes", "found", "hits", "precision", "recall")


def figures_of(
    pictures: pd.DataFrame,
    truth: pd.DataFrame,
    found: pd.DataFrame,
    thresholds: dict[str, float],
    categories: list[str],
    names: list[str],
) -> dict[str, dict]:
    """The figures of 'all' pictures and, where there are any, of the 'photos' and of the 'frames'.

    pictures: a row per labelled picture: kind, width, height; its place is the tables' `picture`. truth, found: of
    `hits.assign_hits`; truth with `name`, the place in `names` from 1. thresholds: kind -> score.
    Each: pictures, mAP, AP50, AR, boxes, found, hits, precision, recall; all but the first again by_size and by_class, and
    where the detector has one category and the data several names, boxes, hits and recall by_label.
    """
    truth_sizes, found_sizes = sizes_of(truth, found)
    truth, all_found = truth.assign(size=truth_sizes), found.assign(size=found_sizes)
    truth, found = at_thresholds(truth, all_found, pictures.kind.map(thresholds))
    figures = {}
    for kind in ("all", *(kind for kind in KINDS if (pictures.kind == kind).any())):
        chosen = pictures if kind == "all" else pictures[pictures.kind == kind]
        expected, given = truth[truth.picture.isin(chosen.index)], found[found.picture.isin(chosen.index)]
        coco = average_precision_by(
            _truth_by_picture(expected, chosen), _found_by_picture(all_found, chosen), categories
        )
        by_size, by_class = coco.pop("by_size"), coco.pop("by_class")
        figures[kind] = {
            "pictures": len(chosen),
            **coco,
            **precision_recall(expected, given),
            "by_size": {
                size: {
                    **by_size[size],
                    **precision_recall(expected[expected["size"] == size], given[given["size"] == size]),
                }
                for size in SIZES
            },
            "by_class": {
                name: {**by_class[name], **precision_recall(expected[expected.label == k], given[given.label == k])}
                for k, name in enumerate(categories, 1)
            },
        }
        if len(categories) == 1 and len(names) > 1:
            figures[kind]["by_label"] = {name: _recall(expected[expected.name == k]) for k, name in enumerate(names, 1)}
    return figures


def figures_table(figures: dict[str, dict]) -> str:
    """What `figures_of` gave as lines of text: what a person reads."""
    lines = [f"{'':<30}" + "".join(f"{column:>10}" for column in COLUMNS)]
    for kind in (kind for kind in ("all", *KINDS) if kind in figures):
        rows = figures[kind]
        lines.append(_line(f"{kind} ({rows['pictures']})", rows))
        for cut in ("by_size", "by_class", "by_label"):
            lines += [_line(f"  {cut.removeprefix('by_')} {name}", row) for name, row in rows.get(cut, {}).items()]
    return "\n".join(lines)


def _line(name: str, row: dict) -> str:
    values = (row.get(column, "") for column in COLUMNS)
    texts = (value if isinstance(value, int | str) else three_decimals(value) for value in values)
    return (f"{name:<30}" + "".join(f"{text:>10}" for text in texts)).rstrip()


def _recall(truth: pd.DataFrame) -> dict:
    return {
        "boxes": len(truth),
        "hits": int(truth.hit.sum()),
        "recall": float(truth.hit.mean()) if len(truth) else None,
    }


def _truth_by_picture(truth: pd.DataFrame, pictures: pd.DataFrame) -> list[Truth]:
    return [
        (boxes, labels, (picture.height, picture.width))
        for picture, (boxes, labels) in zip(pictures.itertuples(), _by_picture(truth, pictures, ["label"]), strict=True)
    ]


def _found_by_picture(found: pd.DataFrame, pictures: pd.DataFrame) -> list[Found]:
    return list(_by_picture(found, pictures, ["score", "label"]))


def _by_picture(table: pd.DataFrame, pictures: pd.DataFrame, columns: list[str]) -> list[tuple[np.ndarray, ...]]:
    """For each picture the boxes (N, 4) of its rows, and their values in the columns."""
    rows_of, boxes = table.groupby("picture").indices, table[BOX].to_numpy()
    values = [table[column].to_numpy() for column in columns]
    none = np.zeros(0, np.int64)
    rows = [rows_of.get(picture, none) for picture in pictures.index]
    return [(boxes[of_picture], *(value[of_picture] for value in values)) for of_picture in rows]
