"""The score against hand-worked tables: S1, S2, S3, both frame policies, both rule sets, by kind."""

import json
import re

import pandas as pd
import pytest

from metric_sub.result import check_result
from metric_sub.score import Truth, main, score_result, score_table
from shared.errors import UserError
from shared.tables import LABEL_COLUMNS

SETTINGS = {
    "weights": (0.2, 0.6, 0.2),
    "rules": "product",
    "frame_policy": "nearest",
    "min_iou": 0.5,
    "resamples": 0,
    "confidence": 0.95,
    "seed": 0,
}
BOX = (0, 0, 100, 100)


def truth_of(photos, videos, kinds=None):
    """photos: {(item, name): boxes}; videos: {video: {frame: boxes}}; boxes: a list of (instance_id, product, box)."""
    media, labels, labelled = [], [], []
    for (item, name), boxes in photos.items():
        media.append((f"image/{item}/{name}.jpg", "photo", item, name))
        labelled.append((media[-1][0], 0))
        labels += [(media[-1][0], 0, *box) for box in boxes]
    for video, frames in videos.items():
        media.append((f"video/{video}.mp4", "video", video, video))
        for frame, boxes in frames.items():
            labelled.append((media[-1][0], frame))
            labels += [(media[-1][0], frame, *box) for box in boxes]
    rows = [
        (media_id, frame, "dress", 0, 0, instance, product, *box) for media_id, frame, instance, product, box in labels
    ]
    boxes = pd.DataFrame(rows, columns=LABEL_COLUMNS).astype(dict.fromkeys(["x1", "y1", "x2", "y2"], "float32"))
    return Truth(
        pd.DataFrame(media, columns=["media_id", "kind", "item_id", "name"]),
        boxes,
        pd.DataFrame(labelled, columns=["media_id", "frame_index"]),
        kinds or {},
    )


def shows(item, instance=1, box=BOX):
    return (int(f"2{item[1:]}{instance:02d}"), item, box)


DISTRACTOR = (0, "", BOX)
A, B, C, D, N = "010001", "010002", "010003", "010004", "010009"


def entry(item, frame=0, *listed):
    listed = listed or (("0", BOX),)
    return {
        "item_id": item,
        "frame_index": frame,
        "result": [{"img_name": name, "item_box": list(box), "frame_box": [0, 0, 1, 1]} for name, box in listed],
    }


def score(result, truth, **settings):
    return score_result(check_result(result), truth, **{**SETTINGS, **settings})


def verdict(result, truth, **settings):
    """(S1, S2, S3) of the only declared video, and why."""
    row = next(row for row in score(result, truth, **settings)["per_video"] if row["item_id"] is not None)
    return (row["S1"], row["S2"], row["S3"]), row["why"]


# Three items with their videos, a catalogue-only item and a video without item.
PHOTOS = {(item, name): [shows(item), DISTRACTOR] for item in (A, B, C, D) for name in ("0", "1")}
VIDEOS = {**{video: {0: [shows(video)], 40: [DISTRACTOR], 80: []} for video in (A, B, C)}, N: {0: [DISTRACTOR]}}
KINDS = {A: "P", B: "P", C: "M", D: "D", N: "N", "019999": "elsewhere"}
TRUTH = truth_of(PHOTOS, VIDEOS, KINDS)


def test_hand_worked_totals():
    """A right in all; B in a frame without it; C declared as D; N declared though it shows nothing. N_GT 3, N_P 4."""
    result = {A: entry(A), B: entry(B, 40), C: entry(D), N: entry(C)}
    answer = score(result, TRUTH)
    assert (answer["N_P"], answer["N_GT"], answer["TP"]) == (4, 3, {"S1": 2, "S2": 1, "S3": 1})
    assert answer["S1"] == pytest.approx(4 / 7) and answer["S2"] == answer["S3"] == pytest.approx(2 / 7)
    assert answer["final"] == pytest.approx(0.2 * 4 / 7 + 0.6 * 2 / 7 + 0.2 * 2 / 7)
    assert answer["precision"] == pytest.approx(1 / 2) and answer["recall"] == pytest.approx(2 / 3)
    assert (answer["rules"], answer["frame_policy"], answer["min_iou"], answer["weights"]) == (
        "product",
        "nearest",
        0.5,
        [0.2, 0.6, 0.2],
    )


def test_hand_worked_kinds():
    answer = score({A: entry(A), B: entry(B, 40), C: entry(D), N: entry(C)}, TRUTH)["by_kind"]
    figures = {
        kind: (row["S1"], row["N_P"], row["N_GT"], row["items"], row["items_wrong"]) for kind, row in answer.items()
    }
    assert figures == {"P": (1.0, 2, 2, 2, 0), "M": (0.0, 1, 1, 1, 1), "D": (None, 0, 0, 1, 1), "N": (None, 1, 0, 0, 0)}
    assert answer["P"]["S2"] == 0.5 and answer["P"]["final"] == pytest.approx(0.2 + 0.8 * 0.5)
    assert answer["N"]["precision"] == 0 and answer["N"]["recall"] is None and answer["D"]["precision"] is None


def test_ids_without_a_kind_and_data_without_kinds():
    answer = score({}, truth_of(PHOTOS, VIDEOS, {A: "P"}))
    assert {kind: row["N_GT"] for kind, row in answer["by_kind"].items()} == {"?": 2, "P": 1}
    assert "by_kind" not in score({}, truth_of(PHOTOS, VIDEOS))


def test_per_video_says_why():
    rows = {row["video_id"]: row for row in score({A: entry(A), B: entry(D), "019999": entry(A)}, TRUTH)["per_video"]}
    assert list(rows) == [A, B, C, N, "019999"]
    assert rows[A] == {
        "video_id": A,
        "kind": "P",
        "item_id": A,
        "expected": A,
        "S1": True,
        "S2": True,
        "S3": True,
        "judged_frame": 0,
        "right": True,
        "why": "right",
    }
    assert rows[B]["why"] == "declared item 010004, expected 010002" and not rows[B]["right"]
    assert (
        rows[C]["why"] == "left out, though its item is in the catalogue"
        and rows[C]["expected"] == C
        and not rows[C]["right"]
    )
    assert rows[N]["why"] == "rightly left out" and rows[N]["expected"] is None and rows[N]["right"]
    assert rows["019999"]["why"] == "declared item 010001, but no such video in the data"


def test_nothing_declared_and_nothing_to_find():
    empty = score({}, TRUTH)
    assert (empty["S1"], empty["final"], empty["precision"], empty["recall"]) == (0, 0, None, 0)
    bare = score({N: entry(A)}, truth_of({(A, "0"): [shows(A)]}, {N: {0: []}}))
    assert (bare["S1"], bare["final"], bare["N_P"], bare["N_GT"], bare["precision"]) == (None, None, 1, 0, 0)
    assert score({}, truth_of({}, {}))["per_video"] == []


def test_weights_are_used_as_given():
    result = {A: entry(A), B: entry(B, 40)}  # S1 4/5, S2 and S3 2/5
    assert score(result, TRUTH, weights=(1, 0, 0))["final"] == pytest.approx(0.8)
    assert score(result, TRUTH, weights=(1, 1, 1))["final"] == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("photos", "frames", "counts"),
    [
        ({(A, "0"): [shows(A)]}, {0: [shows(A)]}, 1),
        ({(A, "0"): []}, {0: [shows(A)]}, 1),  # the photo's folder is enough
        ({(A, "0"): [shows(A)]}, {0: [DISTRACTOR], 40: []}, 0),  # its product is labelled nowhere
        ({(A, "0"): [shows(A)]}, {0: [shows(B)]}, 0),  # another product is
        ({(A, "0"): [shows(A)]}, {}, 0),
        ({(B, "0"): [shows(B)]}, {0: [shows(A)]}, 0),  # no photo folder of that name
    ],
)
def test_which_videos_are_to_be_found(photos, frames, counts):
    truth = truth_of(photos, {A: frames})
    answer = score({A: entry(A)}, truth)
    assert (answer["N_GT"], answer["TP"]["S1"]) == (counts, counts)


# Labelled: 0 with the item, 40 without, 80 with.
FRAMES = truth_of({(A, "0"): [shows(A)]}, {A: {0: [shows(A)], 40: [DISTRACTOR], 80: [shows(A)]}})


@pytest.mark.parametrize(
    ("frame", "judged", "nearest", "strict"),
    [
        (0, 0, True, True),
        (40, 40, False, False),
        (80, 80, True, True),
        (19, 0, True, False),
        (20, 0, True, False),
        (21, 40, False, False),  # 20 is as near to 0 as to 40: the earlier
        (60, 40, False, False),
        (61, 80, True, False),
        (399, 80, True, False),
    ],
)
def test_frame_policies(frame, judged, nearest, strict):
    answer = score({A: entry(A, frame)}, FRAMES)["per_video"][0]
    assert answer["judged_frame"] == judged
    assert (answer["S1"], answer["S2"], answer["S3"]) == (True, nearest, nearest)
    (*_, s3), why = verdict({A: entry(A, frame)}, FRAMES, frame_policy="strict")
    assert s3 == strict and (frame % 40 == 0 or why == f"frame {frame} is not labelled")


def test_a_frame_annotated_as_empty_is_labelled():
    truth = truth_of({(A, "0"): [shows(A)]}, {A: {0: [shows(A)], 40: []}})
    assert verdict({A: entry(A, 40)}, truth) == ((True, False, False), "the item is not labelled in frame 40")


@pytest.mark.parametrize(
    ("listed", "right", "why"),
    [
        ([("0", (0, 0, 100, 51))], True, "right"),  # IoU 0.51
        ([("0", (0, 0, 100, 50))], False, "photo 0: item_box has IoU 0.50, expected more than 0.5"),
        ([("0", (200, 200, 300, 300))], False, "IoU 0.00"),
        ([("0", (5, 5, 5, 5))], False, "IoU 0.00"),
        ([("9", BOX)], False, "item 010001 has no photo 9"),
        ([("1", BOX)], False, "photo 1 has no labelled box of the item"),
        ([("0", BOX), ("0", (0, 0, 100, 60))], True, "right"),
        ([("0", BOX), ("0", (0, 0, 100, 40))], False, "IoU 0.40"),  # every listed box must be right
    ],
)
def test_item_boxes(listed, right, why):
    truth = truth_of(
        {(A, "0"): [shows(A), (0, "", (200, 200, 300, 300))], (A, "1"): [DISTRACTOR]}, {A: {0: [shows(A)]}}
    )
    held, reason = verdict({A: entry(A, 0, *listed)}, truth)
    assert held == (True, True, right) and why in reason


def test_the_smallest_iou_is_a_setting():
    half = {A: entry(A, 0, ("0", (0, 0, 100, 50)))}
    assert verdict(half, FRAMES, min_iou=0.49)[0][2] and not verdict(half, FRAMES, min_iou=0.5)[0][2]


TOP, TROUSERS = (0, 0, 100, 100), (0, 100, 100, 200)
# A set of two: photo 0 shows both, photo 1 the trousers; frame 0 shows both, 40 the top, 80 a third instance that no photo has.
SET = truth_of(
    {(A, "0"): [shows(A, 1, TOP), shows(A, 2, TROUSERS)], (A, "1"): [shows(A, 2, TROUSERS)]},
    {A: {0: [shows(A, 1), shows(A, 2)], 40: [shows(A, 1)], 80: [shows(A, 3)]}},
)


@pytest.mark.parametrize(
    ("frame", "listed", "product", "every"),
    [
        (0, [("0", TOP), ("0", TROUSERS)], True, True),
        (0, [("0", TOP), ("1", TROUSERS)], True, True),  # from different photos
        (0, [("0", TOP)], True, False),
        (0, [("1", TROUSERS)], True, False),
        (40, [("0", TOP)], True, True),  # the frame shows only this one
        (40, [("1", TROUSERS)], True, False),
        (80, [("1", TROUSERS)], True, True),  # no instance that photos and frame share: nothing more is asked
        (0, [("0", TOP), ("0", TROUSERS), ("1", TOP)], False, False),  # a wrong box among them
    ],
)
def test_rule_sets(frame, listed, product, every):
    result = {A: entry(A, frame, *listed)}
    assert verdict(result, SET)[0] == (True, True, product)
    held, why = verdict(result, SET, rules="every-instance")
    assert held == (True, True, every)
    if product and not every:
        assert re.fullmatch(rf"frame {frame} shows instances that no listed box covers: 2{A[1:]}0[12]", why)


def test_the_table_has_a_row_per_kind():
    lines = score_table(score({A: entry(A), N: entry(D)}, TRUTH)).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["D", "M", "N", "P", "all"]
    assert lines[4].split() == ["N", "-", "-", "-", "-", "0", "1", "0", "0", "0"]
    assert lines[-1].split() == ["all", "0.400", "0.400", "0.400", "0.400", "3", "2", "1"]  # 2 x 1 / (2 + 3)


def test_figures_have_intervals_overall_and_by_kind():
    result = {A: entry(A), B: entry(B, 40), C: entry(D), N: entry(C)}
    answer = score(result, TRUTH, resamples=300, confidence=0.9)
    assert (answer["confidence"], answer["resamples"]) == (0.9, 300)
    for figures in (answer, *answer["by_kind"].values()):
        for name in ("S1", "S2", "S3", "final"):
            if figures[name] is None:
                assert figures["interval"][name] is None
            else:
                low, high = figures["interval"][name]
                assert low <= figures[name] <= high
    assert answer["by_kind"]["P"]["interval"]["S1"] == [1, 1]  # both of its videos are right
    bare = score(result, TRUTH)
    assert "interval" not in bare and bare["confidence"] is None and "interval" not in bare["by_kind"]["P"]
    assert {**answer, **bare}["S1"] == answer["S1"]


def test_the_table_shows_intervals():
    lines = score_table(score({A: entry(A), N: entry(D)}, TRUTH, resamples=100)).splitlines()
    assert lines[1].split()[:4] == ["kind", "S1", "95%", "S2"] and "100 resamples" in lines[0]
    assert lines[4].split()[:3] == ["N", "-", "-"]
    low, high = map(float, lines[-1].split()[2].split("-"))
    assert 0 <= low < 0.4 < high <= 1


# --- the entry -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """One item with its photo and video: the scorer reads names and annotations, never pixels."""
    root = tmp_path / "data"
    boxes = [{"label": "dress", "viewpoint": 0, "display": 1, "instance_id": 21000101, "box": [0, 0, 100, 100]}]
    for name, content in {
        "image/010001/0.jpg": None,
        "video/010001.mp4": None,
        "image_annotation/010001/0.json": {"item_id": A, "img_name": "0.jpg", "annotations": boxes},
        "video_annotation/010001.json": {"video_id": A, "frames": [{"frame_index": 40, "annotations": boxes}]},
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content) if content else "")
    return root


def run(data, result, *options):
    path = data.parent / "result.json"
    path.write_text(json.dumps(result))
    main(["--data", str(data), "--result", str(path), *map(str, options)])


def test_entry_prints_the_score_alone(data, capsys):
    run(data, {A: entry(A, 50)})
    printed = capsys.readouterr()
    assert json.loads(printed.out)["final"] == pytest.approx(1.0)
    assert printed.err.splitlines()[-1].split()[0] == "all"


def test_entry_writes_to_a_path_and_takes_settings(data, capsys):
    out = data.parent / "score.json"
    run(data, {A: entry(A, 50)}, "--out", out, "score.frame_policy=strict")
    assert capsys.readouterr().out == ""
    answer = json.loads(out.read_text())
    assert (answer["frame_policy"], answer["S1"], answer["S2"]) == ("strict", 1.0, 0.0)


def test_entry_refuses_what_cannot_be_scored(data):
    with pytest.raises(UserError, match="none of its videos"):
        run(data, {"099999": entry(A)})
    with pytest.raises(UserError, match="cannot be written"):
        run(data, {A: entry(A)}, "--out", data / "nowhere" / "score.json")
    for file in [*data.glob("*_annotation/**/*.json")]:
        file.unlink()
    with pytest.raises(UserError, match="no annotations to score against"):
        run(data, {A: entry(A)})
