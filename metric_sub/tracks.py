"""Distractors of videos as further products to learn from: the boxes of one thing, followed from frame to frame."""

import numpy as np
import pandas as pd

from shared.boxes import pairwise_iou
from shared.tables import BOX

LEAST_IOU = 0.3  # of a box with the one before it on its track


def longest_tracks(boxes: pd.DataFrame) -> np.ndarray:
    """(N,) int64: 1, 2, ... for the boxes of each video's longest track of each label, 0 for all others.

    boxes: media_id, frame_index, label, x1, y1, x2, y2, in any order. A track goes on from one frame that has boxes of the
    label to the next such frame: by the pair of boxes that overlap most, then by the next such pair, while their IoU is
    LEAST_IOU or more. It counts if it has two boxes or more; of equally long ones the one that begins first. A video has one
    for a label, since two might show one thing that was lost from sight between.
    """
    numbers, n_found = np.zeros(len(boxes), np.int64), 0
    xyxy, frames = boxes[BOX].to_numpy(), boxes.frame_index.to_numpy()
    for _, places in sorted(boxes.groupby(["media_id", "label"]).indices.items()):
        tracks: list[list[int]] = []
        open_tracks: list[list[int]] = []  # those that the frame before had a box of
        for frame in np.unique(frames[places]):
            here = places[frames[places] == frame].tolist()
            going_on = _continued(open_tracks, here, xyxy)
            begun = [[place] for place in here if all(place != track[-1] for track in going_on)]
            tracks += begun
            open_tracks = going_on + begun
        longest = max(tracks, key=len)
        if len(longest) > 1:
            n_found += 1
            numbers[longest] = n_found
    return numbers


def _continued(tracks: list[list[int]], places: list[int], xyxy: np.ndarray) -> list[list[int]]:
    """The tracks that one of the boxes at `places` goes on from, with it as their last."""
    if not tracks:
        return []
    iou = pairwise_iou(xyxy[[track[-1] for track in tracks]], xyxy[places])  # (tracks, places)
    going_on = []
    while iou.max() >= LEAST_IOU:
        track, place = np.unravel_index(iou.argmax(), iou.shape)
        tracks[track].append(places[place])
        going_on.append(tracks[track])
        iou[track], iou[:, place] = -1, -1
    return going_on
