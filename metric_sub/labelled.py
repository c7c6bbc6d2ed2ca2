"""Labelled boxes in the place of detections: their pictures, and what the matching rule makes of whatever vectors they get."""

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd

from metric_sub.infer import match_boxes, pair_boxes
from metric_sub.result import build_result, check_result
from metric_sub.score import NO_KIND, Truth, score_result
from shared.config import FrameList, Match, Score
from shared.frames import ask_labelled
from shared.media import MediaError
from shared.reader import Reader
from shared.tables import Dataset

log = logging.getLogger("evaluate")


def labelled_boxes(dataset: Dataset, frames: FrameList) -> pd.DataFrame:
    """Every labelled box, distractors too, of the photos and of the videos' frames in `frames`.

    The labels with their media's columns, rank (0, 1, ... in the picture, as annotated), score (1) and item_kind (of the
    product, '' for a distractor), by media_id, frame_index, rank.
    """
    boxes = dataset.labels.merge(dataset.media, on="media_id")
    boxes = boxes[(boxes.kind == "photo") | boxes.frame_index.isin(frames.indices)]
    boxes = boxes.assign(
        rank=boxes.groupby(["media_id", "frame_index"]).cumcount(),
        score=np.float32(1),
        item_kind=boxes.product_id.map({"": "", **dataset.kinds}).fillna(NO_KIND),
    )
    return boxes.sort_values(["media_id", "frame_index", "rank"], ignore_index=True)


def boxed_pictures(boxes: pd.DataFrame, reader: Reader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places, image_rgb) of every photo and frame that the boxes are in; places (n,): of its rows in the table.

    boxes: media_id, kind, path, frame_index. Every file is read once. What cannot be read, and frames that a video does not
    have, are left out and logged.
    """
    of_media = list(boxes.groupby("media_id", sort=False).indices.values())
    media = [boxes.iloc[places[0]] for places in of_media]
    frames = [boxes.frame_index.to_numpy()[places] for places in of_media]
    asked = [ask_labelled(reader, *each) for each in zip(media, frames, strict=True)]  # of all, to be decoded ahead
    for places, medium, indices, images in zip(of_media, media, frames, asked, strict=True):
        left = set(indices.tolist())
        try:
            if medium.kind == "photo":
                yield places, next(images)[1]
                continue
            for index, image_rgb in images:
                left.discard(index)
                yield places[indices == index], image_rgb
        except MediaError as error:
            log.warning("%s: left out: %s", medium.path, error)
            continue
        if left:
            log.warning("%s: left out: it has no frames %s", medium.path, sorted(left))


def match_labelled(boxes: pd.DataFrame, vectors: np.ndarray, match: Match) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(matches, pairs) that the rule finds by these vectors, as `infer.match_boxes` and `infer.pair_boxes` give them.

    boxes (N rows) as `labelled_boxes` gives them, row i belonging to row i of vectors (N, D) float32.
    """
    of_photo = (boxes.kind == "photo").to_numpy()
    sides = boxes[of_photo], vectors[of_photo], boxes[~of_photo], vectors[~of_photo]
    matches, _ = match_boxes(*sides, match)
    return matches, pair_boxes(matches, *sides, match)


def match_and_score(boxes: pd.DataFrame, vectors: np.ndarray, dataset: Dataset, match: Match, score: Score) -> dict:
    """The score (as `score.score_result` gives it) of what `match_labelled` finds."""
    result = build_result(*match_labelled(boxes, vectors, match))
    return score_result(check_result(result), Truth.of(dataset), **score.model_dump())
