"""The matching rule by hand: the worked example of docs/matching.md, every edge, each option."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metric_sub.result import build_result
from metric_sub.vote import FRAME_BOX, ITEM_BOX, cast_votes, match_items

PLAIN = {"vote_weight": "count", "weight_scale": 1.0, "successive_frames": 0, "assignment": "nearest"}
RULE = {"keep_quantile": 0.28, "min_share": 0.5, "max_distance": 1.12, **PLAIN}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "matching.md"
FIELDS = [
    "item_id",
    "img_name",
    "item_rank",
    "item_score",
    "video_id",
    "frame_index",
    "frame_rank",
    "frame_score",
    "distance",
]


def votes_of(rows):
    """Votes from tuples in the order of FIELDS; every box gets corners of its own, so that its choice shows."""
    table = pd.DataFrame(rows, columns=FIELDS)
    text = ["item_id", "img_name", "video_id"]
    table = table.astype(
        {
            **dict.fromkeys(text, "str"),
            "item_score": "float32",
            "frame_score": "float32",
            "distance": "float32",
            "item_rank": "int64",
            "frame_index": "int64",
            "frame_rank": "int64",
        }
    )
    table["item_media_id"] = "image/" + table.item_id + "/" + table.img_name + ".jpg"
    table["video_media_id"] = "video/" + table.video_id + ".mp4"
    item_corner = table.item_rank + 10 * table.img_name.map(len) + 100 * table.img_name.map(lambda name: ord(name[0]))
    frame_corner = table.frame_rank + 10 * table.frame_index
    for side, (item_side, frame_side) in enumerate(zip(ITEM_BOX, FRAME_BOX, strict=True)):
        table[item_side] = (item_corner + side).astype("float32")
        table[frame_side] = (frame_corner + side).astype("float32")
    return table


def vote(item, video, distance, *, img="0", item_rank=0, item_score=0.9, frame=80, frame_rank=0, frame_score=0.9):
    return item, img, item_rank, item_score, video, frame, frame_rank, frame_score, distance


def matched(rows, **rule):
    """{item: (video, distance)} of the matches."""
    matches, _ = match_items(votes_of(rows), **{**RULE, **rule})
    return {row.item_id: (row.video_id, row.distance) for row in matches.itertuples()}


def kept(rows, **rule):
    return match_items(votes_of(rows), **{**RULE, **rule})[1].kept.tolist()


# --- cast_votes ------------------------------------------------------------------------------------------------------


def boxes_table(key, ids):
    n = len(ids)
    table = pd.DataFrame({key: ids, "media_id": [f"m{i}" for i in range(n)], "rank": range(n)})
    table["name" if key == "item_id" else "frame_index"] = ["0"] * n if key == "item_id" else [20 * i for i in range(n)]
    for k, side in enumerate(["x1", "y1", "x2", "y2"]):
        table[side] = np.arange(n, dtype=np.float32) * 10 + k
    return table.assign(score=np.linspace(0.9, 0.8, n, dtype=np.float32), category="product")


def test_cast_votes_joins_each_photo_box_with_its_video_box():
    photos, videos = boxes_table("item_id", ["a", "a", "b"]), boxes_table("video_id", ["v", "w"])
    photos.index = [7, 7, 3]  # an index must not matter
    votes = cast_votes(photos, videos, np.array([0.5, 0.25, 1.0]), np.array([1, 0, 1]))
    assert votes.item_id.tolist() == ["a", "a", "b"] and votes.video_id.tolist() == ["w", "v", "w"]
    assert votes.frame_index.tolist() == [20, 0, 20] and votes.img_name.tolist() == ["0", "0", "0"]
    assert votes.item_media_id.tolist() == ["m0", "m1", "m2"] and votes.video_media_id.tolist() == ["m1", "m0", "m1"]
    assert votes.item_rank.tolist() == [0, 1, 2] and votes.frame_rank.tolist() == [1, 0, 1]
    assert votes[ITEM_BOX].to_numpy().tolist() == [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]
    assert votes[FRAME_BOX].to_numpy().tolist() == [[10, 11, 12, 13], [0, 1, 2, 3], [10, 11, 12, 13]]
    assert votes.distance.dtype == np.float32 and votes.distance.tolist() == [0.5, 0.25, 1.0]
    assert votes.index.tolist() == [0, 1, 2] and "category" not in votes


def test_a_photo_box_casts_a_vote_for_each_of_its_neighbours():
    photos, videos = boxes_table("item_id", ["a", "b"]), boxes_table("video_id", ["v", "w", "x"])
    photos.index = [1, 1]
    votes = cast_votes(photos, videos, np.array([[0.5, 0.6], [0.1, 0.2]]), np.array([[2, 0], [0, 1]]))
    assert votes.item_id.tolist() == ["a", "a", "b", "b"] and votes.video_id.tolist() == ["x", "v", "v", "w"]
    assert votes[ITEM_BOX[0]].tolist() == [0, 0, 10, 10] and votes[FRAME_BOX[0]].tolist() == [20, 0, 0, 10]
    assert votes.distance.tolist() == pytest.approx([0.5, 0.6, 0.1, 0.2]) and votes.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n_photos", "n_videos"), [(0, 0), (0, 2), (2, 0)])
def test_without_photos_or_videos_there_are_no_votes_and_no_matches(n_photos, n_videos):
    photos, videos = boxes_table("item_id", ["a"] * n_photos), boxes_table("video_id", ["v"] * n_videos)
    shape = (n_photos, min(n_videos, 1))  # what search.nearest gives
    votes = cast_votes(photos, videos, np.zeros(shape, np.float32), np.zeros(shape, np.int64))
    matches, with_kept = match_items(votes, **RULE)
    full, _ = match_items(votes_of([vote("a", "v", 0.5)]), **RULE)
    assert len(votes) == len(matches) == len(with_kept) == 0
    assert list(matches) == list(full) and "kept" in with_kept
    assert build_result(matches) == {}


def test_cast_votes_refuses_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="2 photo boxes, but 1 distances"):
        cast_votes(boxes_table("item_id", ["a", "b"]), boxes_table("video_id", ["v"]), np.zeros(1), np.zeros(1, int))


# --- steps 2 and 3: which votes and which videos stay ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distances", "quantile", "expected"),
    [
        ([0.5], 0.28, [1]),  # one vote stays one vote
        ([0.5], 0.0, [1]),
        ([0.5, 0.75], 0.28, [1, 0]),  # threshold 0.57
        ([0.5, 0.5], 0.28, [1, 1]),  # equal distances stay together
        ([0.75, 0.5, 0.5, 0.5], 0.0, [0, 1, 1, 1]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.25, [1, 1, 0, 0, 0]),  # the quantile is the second distance: inclusive
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.2499, [1, 0, 0, 0, 0]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1.0, [1, 1, 1, 1, 1]),
        ([0.1, 0.2, 0.3, 0.3, 0.5], 0.5, [1, 1, 1, 1, 0]),
    ],
)
def test_kept_votes(distances, quantile, expected):
    rows = [vote("a", "v", distance, item_rank=k) for k, distance in enumerate(distances)]
    assert kept(rows, keep_quantile=quantile) == [bool(stays) for stays in expected]


@pytest.mark.parametrize(
    ("n", "percent"), [(26, 28), (101, 28), (2501, 28), (101, 29), (101, 57), (101, 58), (201, 57)]
)
def test_a_quantile_that_is_one_of_the_distances_keeps_it(n, percent):
    """(n - 1) times the quantile is a whole number, though in floating point it can be less (100 x 0.29 = 28.999...)."""
    rows = [vote("a", "v", 0.001 * k, item_rank=k) for k in range(n)]
    assert sum(kept(rows, keep_quantile=percent / 100)) == (n - 1) * percent // 100 + 1


def test_quantiles_are_per_item():
    rows = [vote("a", "v", 0.1), vote("a", "v", 0.2), vote("b", "w", 0.8), vote("b", "w", 0.9)]
    assert kept(rows) == [True, False, True, False]


@pytest.mark.parametrize(
    ("videos", "share", "expected"),
    [
        ("vvw", 0.5, "v"),
        ("vww", 0.5, "w"),
        ("vw", 0.5, "v"),
        ("vwx", 0.5, None),
        ("vwx", 0.33, "v"),
        ("vwx", 0.34, None),
        ("vvvwwwwwww", 0.3, "v"),
        ("wwwwwwwvvv", 0.7, "w"),
        ("vw", 0.51, None),
        ("vw", 0.0, "v"),
        ("vvv", 1.0, "v"),
    ],
)
def test_share_of_the_kept_votes(videos, share, expected):
    """All votes equally near, so that all are kept and the smaller id wins where several videos have enough."""
    found = matched([vote("a", video, 0.5) for video in videos], min_share=share)
    assert found == ({"a": (expected, 0.5)} if expected else {})


def test_shares_count_kept_votes_only():
    rows = [vote("a", "v", 0.1), vote("a", "w", 0.9), vote("a", "w", 0.9)]
    matches, _ = match_items(votes_of(rows), **RULE)
    assert matches[["video_id", "votes", "kept"]].to_numpy().tolist() == [["v", 1, 1]]


# --- step 4: among several videos the nearest vote ---------------------------------------------------------------------


def test_half_each_goes_to_the_nearest_vote():
    rows = [vote("a", "v", 0.5), vote("a", "w", 0.25)]
    assert matched(rows, keep_quantile=1.0) == {"a": ("w", 0.25)}


def test_half_each_and_equally_near_goes_to_the_smaller_id():
    rows = [vote("a", "w", 0.5), vote("a", "v", 0.5)]
    assert matched(rows) == {"a": ("v", 0.5)}


def test_a_near_vote_for_a_video_without_its_share_does_not_count():
    rows = [vote("a", "near", 0.125), vote("a", "v", 0.25), vote("a", "v", 0.5), vote("a", "v", 0.75)]
    assert matched(rows, keep_quantile=1.0) == {"a": ("v", 0.25)}


# --- step 5: the evidence ----------------------------------------------------------------------------------------------


def evidence(rows, **rule):
    matches, _ = match_items(votes_of(rows), **{**RULE, "keep_quantile": 1.0, **rule})
    row = matches.iloc[0]
    return row.img_name, row.ix1 % 10, row.frame_index, row.fx1 % 10  # the ones of a corner are the box's rank


def test_the_most_confident_photo_box_and_video_box_may_come_from_different_votes():
    rows = [
        vote("a", "v", 0.5, img="0", item_rank=1, item_score=0.99, frame=80, frame_score=0.5),
        vote("a", "v", 0.25, img="1", item_score=0.9, frame=120, frame_rank=2, frame_score=0.8),
    ]
    assert evidence(rows) == ("0", 1, 120, 2)


def test_equal_confidence_goes_by_name_then_rank_and_by_frame_then_rank():
    rows = [
        vote("a", "v", 0.25, img="1", item_rank=0, frame=120, frame_rank=0),
        vote("a", "v", 0.5, img="0", item_rank=3, frame=80, frame_rank=4),
        vote("a", "v", 0.5, img="0", item_rank=2, frame=80, frame_rank=1),
    ]
    assert evidence(rows) == ("0", 2, 80, 1)
    assert evidence([vote("a", "v", 0.5, img=img) for img in ("2", "10")])[0] == "10"  # names are text


def test_neither_votes_for_others_nor_dropped_votes_are_evidence():
    rows = [
        vote("a", "v", 0.125, img="0", item_score=0.8, frame=80, frame_score=0.8),
        vote("a", "v", 0.25, img="1", item_score=0.7, frame=100, frame_score=0.7),
        vote("a", "w", 0.25, img="2", item_score=1.0, frame=120, frame_score=1.0),
        vote("a", "v", 0.5, img="3", item_score=1.0, frame=140, frame_score=1.0),
    ]
    assert evidence(rows, keep_quantile=0.5) == ("0", 0, 80, 0)


# --- step 6: claims and the largest distance ---------------------------------------------------------------------------


def test_a_claimed_video_goes_to_the_nearest_item_and_the_others_get_nothing():
    rows = [
        vote("a", "v", 0.5),
        vote("b", "v", 0.25),
        vote("b", "free", 0.3),
        vote("c", "v", 0.75),
        vote("c", "free", 0.8),
    ]
    assert matched(rows) == {"b": ("v", 0.25)}


def test_a_video_claimed_equally_near_goes_to_the_smaller_item_id():
    assert matched([vote("b", "v", 0.5), vote("a", "v", 0.5)]) == {"a": ("v", 0.5)}


@pytest.mark.parametrize(
    ("distance", "largest", "stays"),
    [
        (1.12, 1.12, True),
        (np.nextafter(np.float32(1.12), np.float32(2)), 1.12, False),
        (1.0, 1.0, True),
        (1.25, 1.12, False),
    ],
)
def test_the_largest_distance_is_inclusive(distance, largest, stays):
    assert bool(matched([vote("a", "v", distance)], max_distance=largest)) == stays


def test_votes_come_back_as_they_were_with_two_more_columns():
    votes = votes_of([vote("b", "w", 0.5), vote("a", "v", 0.5), vote("b", "w", 0.75)])
    votes.index = [5, 5, 1]
    _, with_kept = match_items(votes, **RULE)
    pd.testing.assert_frame_equal(with_kept.drop(columns=["kept", "weight"]), votes)
    assert with_kept.kept.dtype == bool and "kept" not in votes
    assert with_kept.weight.tolist() == [1, 1, 0]


# --- the worked example of the documentation ---------------------------------------------------------------------------


def table_after(heading):
    """The first Markdown table after a heading, as a list of dicts of text."""
    lines = DOCS.read_text(encoding="utf-8").split(heading)[1].splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_worked_example_of_the_documentation():
    rows = table_after("### The votes")
    votes = votes_of([tuple(row[name] for name in FIELDS) for row in rows])
    for box, sides in (("item_box", ITEM_BOX), ("frame_box", FRAME_BOX)):
        votes[sides] = np.array([row[box].split() for row in rows], np.float32)
    matches, votes = match_items(votes, **RULE)
    assert votes.kept.tolist() == [row["kept"] == "yes" for row in rows]
    expected = table_after("### The matches")
    assert [
        [row.item_id, row.video_id, f"{row.distance:.2f}", str(row.votes), str(row.kept)]
        for row in matches.itertuples()
    ] == [[row[name] for name in ("item_id", "video_id", "distance", "votes", "kept")] for row in expected]
    shown = re.search(r"### The result.*?```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert build_result(matches) == json.loads(shown[1])


# --- the options -------------------------------------------------------------------------------------------------------


def weights(rows, **rule):
    return match_items(votes_of(rows), **{**RULE, "keep_quantile": 1.0, **rule})[1].weight.tolist()


def test_a_vote_weighs_by_how_much_farther_than_the_nearest_it_is():
    rows = [vote("a", "v", 0.5), vote("a", "w", 0.6), vote("a", "v", 0.75), vote("b", "w", 1.0)]
    found = weights(rows, vote_weight="distance", weight_scale=0.1)
    assert found == pytest.approx([1, math.exp(-1), math.exp(-2.5), 1], rel=1e-5)
    assert weights(rows, vote_weight="distance", weight_scale=0.1, keep_quantile=0.4)[2] == 0


@pytest.mark.parametrize(("scale", "expected"), [(0.1, "v"), (1.0, "w")])
def test_one_near_vote_can_outweigh_two_far_ones(scale, expected):
    """0.1 farther: two votes weigh 2 exp(-1) = 0.74 against 1, or 2 exp(-0.1) = 1.81."""
    rows = [vote("a", "v", 0.5), vote("a", "w", 0.6), vote("a", "w", 0.6)]
    rule = {"keep_quantile": 1.0, "min_share": 0.55, "vote_weight": "distance", "weight_scale": scale}
    assert matched(rows, **rule)["a"][0] == expected


def test_frames_that_agree_count_more():
    found = [
        vote("a", "v", 0.5, frame=80),
        vote("a", "v", 0.5, frame=100),
        vote("a", "v", 0.5, frame=100),  # the same frame once more
        vote("a", "v", 0.5, frame=120),
        vote("a", "v", 0.5, frame=160),
        vote("a", "w", 0.5, frame=140),  # another video
        vote("b", "v", 0.5, frame=140),  # another item
    ]
    assert weights(found, successive_frames=20) == [2, 3, 3, 2, 1, 1, 1]
    assert weights(found, successive_frames=19) == [1] * 7
    assert weights(found, successive_frames=40) == [3, 3, 3, 4, 2, 1, 1]


def test_a_frame_whose_vote_is_not_kept_agrees_with_none():
    rows = [vote("a", "v", 0.5, frame=80), vote("a", "v", 0.5, frame=120), vote("a", "v", 0.75, frame=100)]
    assert weights(rows, successive_frames=20, keep_quantile=0.5) == [1, 1, 0]


def test_successive_frames_win_over_lucky_ones():
    rows = [
        *(vote("a", "lucky", 0.5, frame=frame) for frame in (80, 200, 320)),
        *(vote("a", "steady", 0.6, frame=frame) for frame in (100, 120)),
    ]
    assert matched(rows, keep_quantile=1.0) == {"a": ("lucky", 0.5)}
    assert matched(rows, keep_quantile=1.0, successive_frames=20)["a"][0] == "steady"  # 4 against 3


def test_the_best_assignment_gives_a_loser_its_second_video():
    rows = [vote("a", "v", 0.5), vote("a", "w", 0.6), vote("b", "v", 0.4)]
    both = {"keep_quantile": 1.0}
    assert matched(rows, **both) == {"b": ("v", np.float32(0.4))}
    assert matched(rows, **both, assignment="optimal") == {"a": ("w", np.float32(0.6)), "b": ("v", np.float32(0.4))}


def test_the_best_assignment_keeps_to_share_and_distance():
    rows = [vote("a", "v", 0.5), vote("a", "v", 0.5), vote("a", "w", 0.6), vote("b", "v", 0.4), vote("c", "u", 1.2)]
    assert matched(rows, keep_quantile=1.0, assignment="optimal") == {"b": ("v", np.float32(0.4))}
