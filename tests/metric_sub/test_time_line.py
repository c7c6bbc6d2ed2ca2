"""The time line: which votes make which marks, and where they stand, by a hand-worked table."""

import pandas as pd
import pytest

from metric_sub.time_line import count_votes, draw_time_line, nearest_marks

VOTES = pd.DataFrame(
    [
        ("m", 40, 0.5, True),
        ("m", 40, 0.4, True),  # the nearer of the two
        ("m", 40, 0.9, False),  # another kind, at the same frame
        ("m", 80, 0.8, False),
        ("r", 80, 0.7, True),
        ("o", 20, 0.6, True),
        ("p", 20, 0.6, False),
    ],
    columns=["item_id", "frame_index", "distance", "kept"],
)


def test_marks_are_the_nearest_vote_of_each_kind_and_frame():
    assert nearest_marks(VOTES, "m", "r") == {
        "other": {20: 0.6},
        "right": {80: 0.7},
        "unkept": {40: 0.9, 80: 0.8},
        "kept": {40: 0.4},
    }
    assert count_votes(VOTES, "m", "r") == {"other": 2, "right": 1, "unkept": 2, "kept": 2}


def test_where_the_match_is_right_its_votes_are_its_own():
    assert nearest_marks(VOTES, "m", "m")["right"] == {}
    assert count_votes(VOTES, "", "") == {"other": 7, "right": 0, "unkept": 0, "kept": 0}
    assert count_votes(VOTES[:0], "m", "r") == {"other": 0, "right": 0, "unkept": 0, "kept": 0}


def drawn(votes=VOTES, **settings):
    plain = {"n_frames": 100, "at": 40, "shown": [40], "labelled": [0, 40], "near_far": (0.4, 0.9), "cut_off": 0.9}
    return draw_time_line(votes, "m", "r", **plain | settings)


def test_paths_stand_at_their_frames_the_nearer_the_taller():
    line = drawn()
    # x is the middle of the frame, of 1000; strokes are 34 high at 0.4 and 7 high at 0.9, from y = 36 upwards.
    assert line.marks["kept"] == "M405 36V2"
    assert line.marks["unkept"] == "M405 36V29M805 36V23.6"
    assert list(line.marks) == ["other", "right", "unkept", "kept"]  # one's own are drawn over the others
    assert line.shown == "M405 39v7" and line.labelled == "M5 39v7"
    assert line.at == pytest.approx(40.5)
    assert line.cut == 29
    assert line.words == (
        "Votes for this video: 2 kept, of item m, 2 not kept, of item m, 1 of the right item r, 2 of other items."
    )


def test_a_video_without_votes_has_an_empty_line():
    line = drawn(VOTES[:0], at=None, shown=[], labelled=[], cut_off=1.12)
    assert line.marks == {} and line.shown == line.labelled == "" and line.at is None
    assert line.cut is None  # beyond the distances of the run
    assert line.words == "Votes for this video: none."


def test_a_run_with_one_distance_and_a_frame_beyond_the_count():
    line = drawn(VOTES[:1], near_far=(0.5, 0.5), n_frames=20, cut_off=0.5)
    assert line.marks == {"kept": "M975 36V29"}
