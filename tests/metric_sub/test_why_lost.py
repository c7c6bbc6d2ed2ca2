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


@pytest.mark.parametrize("assignment", ["nearest", "optimal"])
def test_every_lost_video_has_a_reason(assignment):
    """Random votes, with many ties: however r lost, there is a reason."""
    rng = np.random.default_rng(0)
    n_lost = 0
    for _ in range(150):
        n = int(rng.integers(1, 14))
        items = ["r", *rng.choice(list("oprq"), n)]
        pairs = [(item, str(rng.choice(list("uvw"))), float(rng.integers(2, 7)) / 5) for item in items]
        quantile, share = float(rng.choice([0.28, 0.6, 1.0])), float(rng.choice([0.3, 0.5]))
        words = tell(pairs, keep_quantile=quantile, min_share=share, assignment=assignment)
        if words is None:
            continue
        n_lost += 1
        assert words.startswith("Item") and words.endswith(".") and "None" not in words
    assert n_lost > 50
