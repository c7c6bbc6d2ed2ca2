"""Why the right item lost: each step of the rule by a hand-worked table, and the rule itself agrees."""

import numpy as np
import pandas as pd
import pytest

from metric_sub.vote import cast_votes, match_items
from metric_sub.why_lost import why_lost

RULE = {
    "keep_quantile": 0.28,
    "min_share": 0.5,
    "max_distance": 1.12,
    "vote_weight": "count",
    "weight_scale": 0.1,
    "successive_frames": 0,
    "assignment": "nearest",
}
NONE_HERE = "Item r cast 3 votes, 1 kept, none for this video. They went to w (2), x (1). Item r is matched with video w, at 0.300."


def tell(pairs, **rule):
    """Why r lost video v, where `pairs` (item_id, video_id, distance) are the votes; None: it did not."""
    rule = RULE | rule
    items, videos, distances = zip(*pairs, strict=True)
    sides = dict.fromkeys(["x1", "y1", "x2", "y2"], 0.0) | {"score": 0.9, "rank": 0}
    photos = pd.DataFrame({"item_id": items, "media_id": items, "name": "0"}).assign(**sides)
    boxes = pd.DataFrame({"video_id": videos, "media_id": videos, "frame_index": 0}).assign(**sides)
    votes = cast_votes(photos, boxes, np.float32(distances), np.arange(len(pairs)))
    matches, votes = match_items(votes, **rule)
    winner = {match.video_id: (match.item_id, match.distance) for match in matches.itertuples()}.get("v")
    went_to = {match.item_id: (match.video_id, match.distance) for match in matches.itertuples()}.get("r")
    if winner is not None and winner[0] == "r":
        return None
    return why_lost("r", "v", votes[votes.item_id == "r"], winner, went_to, rule)


@pytest.mark.parametrize(
    "pairs, rule, words",
    [
        (
            [("o", "v", 0.5)],
            {},
            "Item r cast no vote: no product was detected in its photos, or none in any video.",
        ),
        ([("o", "v", 0.5), ("r", "w", 0.3), ("r", "w", 0.7), ("r", "x", 0.6)], {}, NONE_HERE),
        (
            [("r", "w", 0.3), ("r", "v", 0.7), ("r", "v", 0.6)],
            {},
            "Item r cast 2 of its 3 votes for this video, but the nearest, 0.600, is not among its nearest 28%. Its kept votes "
            "went to w (1). Item r is matched with video w, at 0.300.",
        ),
        (
            [("r", "v", 0.3), ("r", "w", 0.4), ("r", "w", 0.5), ("r", "x", 0.6)],
            {"keep_quantile": 1.0},
            "Item r has 1 of its 4 kept votes here, 25% of their weight, and a match needs 50%. Others went to w (2), x (1). "
            "Item r is matched with video w, at 0.400.",
        ),
        (
            [("r", "v", 0.3), ("r", "w", 0.4), ("r", "x", 0.5)],
            {"keep_quantile": 1.0},
            "Item r has 1 of its 3 kept votes here, 33% of their weight, and a match needs 50%. Others went to w (1), x (1). "
            "Item r has no match.",
        ),
        (
            [("r", "v", 0.5), ("r", "w", 0.4)],
            {"keep_quantile": 1.0},
            "Item r claimed video w, nearer: 0.400 there, 0.500 here. Item r is matched with video w, at 0.400.",
        ),
        (
            [("r", "v", 0.4), ("r", "a", 0.4), ("o", "a", 0.3)],
            {"keep_quantile": 1.0},
            "Item r claimed video a, as near and the smaller id: 0.400 there, 0.400 here. Item r has no match.",
        ),
        (
            [("r", "v", 0.61), ("o", "v", 0.55)],
            {},
            "Item o was nearer: 0.550 against 0.610. Item r has no match.",
        ),
        (
            [("r", "v", 0.5), ("o", "v", 0.5)],
            {},
            "Items o and r are equally near, 0.500, and the smaller id wins. Item r has no match.",
        ),
        (
            [("r", "v", 1.2)],
            {},
            "Item r claimed this video, at 1.200, farther than the cut-off 1.12. Item r has no match.",
        ),
        (
            [("r", "v", 1.2), ("o", "v", 1.1)],
            {},
            "Item r claimed this video, at 1.200, farther than the cut-off 1.12; and item o was nearer, at 1.100. "
            "Item r has no match.",
        ),
        (
            [("r", "v", 0.6), ("r", "w", 0.61), ("o", "v", 0.5)],
            {"keep_quantile": 1.0, "assignment": "optimal"},
            "Item r was a candidate, at 0.600, but the best assignment gives this video to item o, at 0.500. "
            "Item r is matched with video w, at 0.610.",
        ),
        (
            [("r", "v", 1.2)],
            {"assignment": "optimal"},
            "Item r claimed this video, at 1.200, farther than the cut-off 1.12. Item r has no match.",
        ),
    ],
)
def test_reasons(pairs, rule, words):
    assert tell(pairs, **rule) == words


def test_many_places_are_counted():
    words = tell([("r", f"w{k}", 0.3 + k / 100) for k in range(5)])
    assert "They went to w0 (1), w1 (1), w2 (1) and 2 more." in words


def video_alone(pairs, **rule):
    """The video that r would have if no other item voted; None for none."""
    mine = [pair for pair in pairs if pair[0] == "r"]
    table = pd.DataFrame(mine, columns=["item_id", "video_id", "distance"])
    filled = dict.fromkeys(["x1", "y1", "x2", "y2"], 0.0) | {"score": 0.9, "rank": 0, "name": "0", "frame_index": 0}
    sides = table.assign(media_id="m", **filled)
    votes = cast_votes(sides, sides, table.distance.to_numpy(np.float32), np.arange(len(table)))
    matches, _ = match_items(votes, **{**RULE, **rule})
    return None if matches.empty else matches.video_id[0]


@pytest.mark.parametrize("assignment", ["nearest", "optimal"])
@pytest.mark.parametrize("vote_weight", ["count", "distance"])
def test_the_reason_is_others_where_r_alone_would_have_the_video(assignment, vote_weight):
    """Random votes, with many ties: what would become of r by itself, or without a cut-off, tells which step took v from it."""
    rng = np.random.default_rng(0)
    n_lost = 0
    for _ in range(70):
        n = int(rng.integers(1, 14))
        items = ["r", *rng.choice(list("oprq"), n)]
        pairs = [(item, str(rng.choice(list("uvw"))), float(rng.integers(2, 7)) / 5) for item in items]
        quantile, share = float(rng.choice([0.28, 0.6, 1.0])), float(rng.choice([0.3, 0.5]))
        rule = {"keep_quantile": quantile, "min_share": share, "assignment": assignment, "vote_weight": vote_weight}
        words = tell(pairs, **rule)
        if words is None:
            continue
        n_lost += 1
        assert words.startswith("Item") and words.endswith(".") and "None" not in words
        alone, uncut = video_alone(pairs, **rule), video_alone(pairs, max_distance=3.0, **rule)
        if "farther than the cut-off" in words:
            assert alone != "v" and (uncut == "v" or assignment == "optimal")
        elif "claimed video" in words:
            assert f"claimed video {uncut}," in words
        elif any(reason in words for reason in ("was nearer", "equally near")):
            assert alone == "v"
        elif "best assignment" not in words:  # r has too little for v, whoever else votes
            assert any(reason in words for reason in ("none for this video", "is not among", "a match needs"))
            assert uncut != "v"
    assert n_lost > 20
