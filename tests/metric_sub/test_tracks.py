"""Tracks of distractors: hand-worked cases, and what holds of any boxes."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from metric_sub.tracks import LEAST_IOU, longest_tracks

COLUMNS = ["media_id", "frame_index", "label", "x1", "y1", "x2", "y2"]


def box(place, frame, label="bag", video="a", side=10.0):
    """A box of `side` px at (place, 0)."""
    return (video, frame, label, place, 0.0, place + side, side)


def tracks_of(*rows):
    return longest_tracks(pd.DataFrame(rows, columns=COLUMNS)).tolist()


def test_a_thing_is_followed_while_its_boxes_overlap():
    # a shift of 5 of 10 px: IoU 5 / 15 = 0.33; of 6: 4 / 16 = 0.25
    assert tracks_of(box(0, 0), box(5, 40), box(10, 80), box(16, 120)) == [1, 1, 1, 0]


def test_the_longest_track_counts_and_of_equals_the_first():
    assert tracks_of(box(0, 0), box(100, 0), box(100, 40), box(0, 40), box(100, 80)) == [0, 1, 1, 0, 1]
    assert tracks_of(box(0, 0), box(0, 40), box(50, 80), box(50, 120)) == [1, 1, 0, 0]


def test_a_single_box_is_no_track():
    assert tracks_of(box(0, 0)) == [0]
    assert tracks_of(box(0, 0), box(50, 40), box(0, 0, video="b")) == [0, 0, 0]


def test_labels_and_videos_have_tracks_of_their_own():
    rows = [box(0, frame, label, video) for video in "ba" for label in ("hat", "bag") for frame in (0, 40)]
    assert tracks_of(*rows) == [4, 4, 3, 3, 2, 2, 1, 1]


def test_the_pair_that_overlaps_most_goes_first():
    # From 0 both boxes of the next frame could go on; the box at 4 could only from there, but the one at 1 is nearer.
    assert tracks_of(box(0, 0), box(4, 40), box(1, 40), box(1, 80)) == [1, 0, 1, 1]
    # Each of two things goes on as itself.
    assert tracks_of(box(0, 0), box(6, 0), box(2, 40), box(7, 40), box(1, 80)) == [1, 0, 1, 0, 1]


def test_a_frame_without_the_label_ends_no_track():
    assert tracks_of(box(0, 0), box(0, 40, "hat"), box(0, 80)) == [1, 0, 1]


places = st.sampled_from([0.0, 2.0, 4.0, 7.0, 11.0, 40.0])
rows = st.lists(
    st.builds(box, places, st.sampled_from([0, 40, 80, 120]), st.sampled_from(["bag", "hat"]), st.sampled_from("ab")),
    max_size=25,
)


@given(rows)
@settings(deadline=None)
def test_what_holds_of_every_track(rows):
    boxes = pd.DataFrame(rows, columns=COLUMNS)
    boxes["track"] = longest_tracks(boxes)
    assert sorted(set(boxes.track) - {0}) == list(range(1, boxes.track.max() + 1 if rows else 1))
    found = boxes[boxes.track > 0]
    assert (found.groupby(["media_id", "label"]).track.nunique() == 1).all()
    for _, track in found.groupby("track"):
        assert track[["media_id", "label"]].drop_duplicates().shape[0] == 1 and len(track) >= 2
        track = track.sort_values("frame_index")
        assert track.frame_index.is_unique
        of_label = boxes[(boxes.media_id == track.media_id.iloc[0]) & (boxes.label == track.label.iloc[0])]
        frames = sorted(set(of_label.frame_index))
        first, last = frames.index(track.frame_index.iloc[0]), frames.index(track.frame_index.iloc[-1])
        assert frames[first : last + 1] == track.frame_index.tolist()  # no frame is left out
        sides = np.array(track[["x1", "y1", "x2", "y2"]], np.float64)
        iou = box_iou(torch.from_numpy(sides[:-1]), torch.from_numpy(sides[1:])).diagonal()
        assert (iou >= LEAST_IOU - 1e-9).all()


def test_no_boxes_have_no_tracks():
    assert longest_tracks(pd.DataFrame(columns=COLUMNS)).shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed):
    boxes = pd.DataFrame([box(3.0 * k, 40 * k) for k in range(4)] + [box(90.0, 0), box(90.0, 40)], columns=COLUMNS)
    order = np.random.default_rng(seed).permutation(len(boxes))
    assert longest_tracks(boxes.iloc[order]).tolist() == longest_tracks(boxes)[order].tolist()
