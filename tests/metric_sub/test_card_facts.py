"""What a card says of its match: shares, rivals and doubts, by hand-worked tables."""

import numpy as np
import pandas as pd

from metric_sub.card_facts import Rival, rivals, shares, unsure


def votes_of(*rows):
    """(item_id, video_id, distance, kept, weight) each."""
    table = pd.DataFrame(rows, columns=["item_id", "video_id", "distance", "kept", "weight"])
    return table.astype({"distance": "float32", "kept": bool, "weight": "float64"})


VOTES = votes_of(
    ("a", "v", 0.50, True, 1.0),
    ("a", "v", 0.55, True, 0.5),
    ("a", "w", 0.56, True, 0.5),
    ("a", "v", 0.90, False, 0.0),
    ("b", "w", 0.70, True, 1.0),
    ("c", "v", 0.62, True, 1.0),
    ("c", "w", 0.40, False, 0.0),
    ("b", "v", 0.62, True, 1.0),
)
MATCHES = pd.DataFrame({"item_id": ["b", "a"], "video_id": ["w", "v"], "distance": np.float32([0.7, 0.5])})


def test_shares_count_the_items_votes():
    told = shares(MATCHES, VOTES)
    assert told.item_votes.tolist() == [2, 4] and told.item_kept.tolist() == [2, 3]
    assert told.share.tolist() == [0.5, 0.75]


def test_rival_is_the_nearest_kept_vote_of_another_item():
    nearer, equal = rivals(MATCHES, VOTES)
    assert nearer.item_id == "a" and round(nearer.distance, 3) == 0.56  # c's vote for w is nearer, but not kept
    assert equal.item_id == "b"  # b and c are equally near to v
    assert rivals(MATCHES[1:], VOTES[:4]) == [None]


def test_unsure_with_probabilities_is_below_080():
    matches = pd.DataFrame({"distance": [0.5, 0.6, 0.7], "probability": [0.9, 0.8, 0.79]})
    assert unsure(matches, [Rival("x", 0.5)] * 3).tolist() == [False, False, True]


def test_unsure_without_is_the_farthest_tenth_or_has_a_close_rival():
    distance = np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.3, 0.2, 0.1, 0.1])
    matches = pd.DataFrame({"distance": distance, "probability": np.nan})
    others = [None, Rival("x", 0.24), Rival("x", 0.36), Rival("x", 0.1), *[None] * 6]
    # 0.24 is 0.04 farther than 0.2, 0.36 is 0.06 farther than 0.3, 0.1 is nearer than 0.4; both at 0.5 are the farthest.
    assert unsure(matches, others).tolist() == [False, True, False, True, True, True, False, False, False, False]


def test_a_tenth_of_few_matches_is_none():
    assert not unsure(pd.DataFrame({"distance": [0.1, 0.2], "probability": np.nan}), [None, None]).any()
    assert unsure(pd.DataFrame({"distance": [], "probability": []}), []).shape == (0,)
