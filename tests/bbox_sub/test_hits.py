"""Who finds whom, and precision and recall: by hand on three pictures, and against pycocotools' own matching."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bbox_sub.figures import figures_of, figures_table
from bbox_sub.hits import NONE, assign_hits, at_thresholds, precision_recall, sizes_of

BOX = ["x1", "y1", "x2", "y2"]


def truth_table(*rows):
    """Rows (picture, label, box)."""
    rows = [(picture, label, *box, label) for picture, label, box in rows]
    table = pd.DataFrame(rows, columns=["picture", "label", *BOX, "name"])
    return table.astype({"picture": "int64", "label": "int64", "name": "int64", **dict.fromkeys(BOX, "float32")})


def found_table(*rows):
    """Rows (picture, label, box, score)."""
    rows = [(picture, label, *box, score) for picture, label, box, score in rows]
    table = pd.DataFrame(rows, columns=["picture", "label", *BOX, "score"])
    return table.astype({"picture": "int64", "label": "int64", "score": "float32", **dict.fromkeys(BOX, "float32")})


# Three pictures of 200 x 200: two photos and a frame. Areas: 900 is small, 8100 medium, 10000 large.
LARGE, MEDIUM, SMALL = (0, 0, 100, 100), (110, 110, 200, 200), (0, 150, 30, 180)
TRUTH = truth_table((0, 1, LARGE), (0, 2, MEDIUM), (1, 1, LARGE), (1, 1, SMALL), (2, 1, MEDIUM))
FOUND = found_table(
    (0, 1, (0, 0, 100, 80), 0.9),  # IoU 0.8 with LARGE: a hit
    (0, 1, LARGE, 0.8),  # LARGE is taken: a false alarm
    (0, 1, MEDIUM, 0.95),  # of the other category: a false alarm
    (0, 2, MEDIUM, 0.4),  # a hit, below 0.5
    (1, 1, (0, 0, 100, 40), 0.7),  # IoU 0.4: a false alarm
    (1, 1, SMALL, 0.6),  # a hit
    (2, 1, MEDIUM, 0.6),  # a hit, below the frames' threshold
)
PICTURES = pd.DataFrame({"kind": ["photos", "photos", "frames"], "width": 200, "height": 200})
THRESHOLDS = {"photos": 0.5, "frames": 0.7}


def test_who_finds_whom_by_hand():
    truth, found = assign_hits(TRUTH, FOUND, 0.5)
    assert found.finds.tolist() == [0, NONE, NONE, 1, NONE, 3, 4]
    assert found.nearest_iou.tolist() == pytest.approx([0.8, 1, 0, 1, 0.4, 1, 1])
    assert truth.found_by.tolist() == [0, 3, NONE, 5, 6]
    assert truth.score.tolist() == pytest.approx([0.9, 0.4, np.nan, 0.6, 0.6], nan_ok=True)
    assert truth.nearest.tolist() == [1, 3, 4, 5, 6]
    assert truth.nearest_iou.tolist() == pytest.approx([1, 1, 0.4, 1, 1])


def test_precision_and_recall_by_hand():
    truth, found = assign_hits(TRUTH, FOUND, 0.5)
    truth, found = at_thresholds(truth, found, PICTURES.kind.map(THRESHOLDS))
    assert truth.hit.tolist() == [True, False, False, True, False]
    figures = precision_recall(truth, found)
    assert figures == {"boxes": 5, "found": 5, "hits": 2, "precision": 2 / 5, "recall": 2 / 5}


def test_figures_by_hand():
    figures = figures_of(PICTURES, *assign_hits(TRUTH, FOUND, 0.5), THRESHOLDS, ["top", "bag"], ["top", "bag"])
    assert list(figures) == ["all", "photos", "frames"]
    everything, photos, frames = figures.values()
    assert everything["pictures"] == 3 and "by_label" not in everything

    def short(row):
        return row["boxes"], row["found"], row["hits"], row["precision"], row["recall"]

    assert short(everything) == (5, 5, 2, 2 / 5, 2 / 5)
    assert short(photos) == (4, 5, 2, 2 / 5, 2 / 4) and short(frames) == (1, 0, 0, None, 0)
    # The hit of IoU 0.8 has an area of 8000, but counts with the large box that it finds.
    assert short(photos["by_size"]["large"]) == (2, 2, 1, 1 / 2, 1 / 2)
    assert short(photos["by_size"]["medium"]) == (1, 2, 0, 0, 0)
    assert short(photos["by_size"]["small"]) == (1, 1, 1, 1, 1)
    assert short(photos["by_class"]["top"]) == (3, 5, 2, 2 / 5, 2 / 3)
    assert short(photos["by_class"]["bag"]) == (1, 0, 0, None, 0)
    # Average precision knows no threshold: the bag is found, at whatever score.
    assert photos["by_class"]["bag"]["mAP"] == pytest.approx(1) and frames["mAP"] == pytest.approx(1)
    assert frames["by_class"]["bag"]["mAP"] is None and frames["by_size"]["large"]["AR"] is None
    table = figures_table(figures).splitlines()
    assert len(table) == 1 + 3 * (1 + 3 + 2) and table[1].split() == ["all", "(3)", *table[1].split()[2:]]
    assert table[1].split()[-2:] == ["0.400", "0.400"]


def test_recall_by_label_for_a_detector_of_one_category():
    truth = TRUTH.assign(label=1)
    figures = figures_of(
        PICTURES, *assign_hits(truth, FOUND.assign(label=1), 0.5), THRESHOLDS, ["product"], ["top", "bag"]
    )
    assert figures["all"]["by_label"] == {
        "top": {"boxes": 4, "hits": 2, "recall": 0.5},
        "bag": {"boxes": 1, "hits": 1, "recall": 1.0},  # by the box that was taken for a top
    }


@pytest.mark.parametrize("truth", [TRUTH, TRUTH.iloc[:0]])
@pytest.mark.parametrize("found", [FOUND, FOUND.iloc[:0]])
def test_nothing_found_and_nothing_labelled(truth, found):
    figures = figures_of(PICTURES, *assign_hits(truth, found, 0.5), THRESHOLDS, ["top", "bag"], ["top", "bag"])["all"]
    assert (figures["precision"] is None) == found.empty and (figures["recall"] is None) == truth.empty
    assert (figures["mAP"] is None) == truth.empty


def test_a_score_of_the_threshold_itself_counts():
    truth, found = assign_hits(truth_table((0, 1, LARGE)), found_table((0, 1, LARGE, 0.9)), 0.5)
    truth, found = at_thresholds(truth, found, pd.Series([0.9]))
    assert len(found) == 1 and truth.hit.all()


def test_sizes_have_cocos_limits():
    boxes = [(0, 0, 32, 31.9), (0, 0, 32, 32), (0, 0, 96, 95.9), (0, 0, 96, 96)]
    tables = assign_hits(
        truth_table(*((k, 1, box) for k, box in enumerate(boxes))),
        found_table(*((9, 1, box, 0.5) for box in boxes)),
        0.5,
    )
    for names in sizes_of(*tables):
        assert names.tolist() == ["small", "medium", "medium", "large"]


SIDES = st.integers(0, 6)
BOXES = st.builds(lambda x, y, w, h: (x, y, x + w + 1, y + h + 1), SIDES, SIDES, SIDES, SIDES)
PLACES = st.tuples(st.integers(0, 2), st.integers(1, 2), BOXES)


@given(st.lists(PLACES, min_size=1, max_size=10), st.lists(PLACES, min_size=1, max_size=12), st.randoms())
def test_the_hits_are_those_of_pycocotools(labelled, boxes, rng):
    scores = rng.sample(range(1, 100), len(boxes))
    found = [(*box, score / 100) for box, score in zip(boxes, scores, strict=True)]
    truth, found = assign_hits(truth_table(*labelled), found_table(*found), 0.5)
    judge = COCOeval(as_coco(truth), as_coco(found), "bbox")
    judge.evaluate()
    hits = {
        number
        for entry in judge.evalImgs
        if entry is not None and entry["aRng"] == judge.params.areaRng[0]
        for number, match in zip(entry["dtIds"], entry["dtMatches"][0], strict=True)
        if match > 0
    }
    assert set(found.index[found.finds != NONE] + 1) == hits
    taken = truth.found_by[truth.found_by != NONE]
    assert taken.is_unique and (found.finds[taken].to_numpy() == taken.index).all()


@given(st.lists(PLACES, max_size=10), st.lists(PLACES, max_size=12), st.integers(1, 99), st.randoms())
def test_a_threshold_before_or_after_gives_the_same_hits(labelled, boxes, threshold, rng):
    """What lets one assignment serve the whole sweep."""
    found = found_table(*((*box, rng.randrange(1, 100) / 100) for box in boxes))
    after = at_thresholds(*assign_hits(truth_table(*labelled), found, 0.5), pd.Series([threshold / 100] * 3))[1]
    before = assign_hits(truth_table(*labelled), found[found.score >= np.float32(threshold / 100)], 0.5)[1]
    assert after.finds.tolist() == before.finds.tolist()


def as_coco(table):
    coco = COCO()
    boxes = table[BOX].to_numpy(float)
    coco.dataset = {
        "images": [{"id": k} for k in range(3)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {
                "id": k + 1,
                "image_id": int(table.picture[k]),
                "category_id": int(table.label[k]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": float(table.score[k]),
            }
            for k, (x1, y1, x2, y2) in enumerate(boxes)
        ],
    }
    coco.createIndex()
    return coco
