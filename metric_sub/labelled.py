"""Labelled boxes in the place of detections: what the matching rule makes of them, whatever vectors they get."""

import numpy as np
import pandas as pd

from metric_sub.result import build_result, check_result
from metric_sub.score import Truth, score_result
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from shared.config import FrameList, Match, Score
from shared.tables import Dataset


def labelled_boxes(dataset: Dataset, frames: FrameList) -> pd.DataFrame:
    """Every labelled box, distractors too, of the photos and of the videos' frames in `frames`.

    The labels with their media's columns, rank (0, 1, ... in the picture, as annotated) and score (1), by media_id,
    frame_index, rank.
    """
    boxes = dataset.labels.merge(dataset.media, on="media_id")
    boxes = boxes[(boxes.kind == "photo") | boxes.frame_index.isin(frames.indices)]
    boxes = boxes.assign(rank=boxes.groupby(["media_id", "frame_index"]).cumcount(), score=np.float32(1))
    return boxes.sort_values(["media_id", "frame_index", "rank"], ignore_index=True)


def match_and_score(boxes: pd.DataFrame, vectors: np.ndarray, dataset: Dataset, match: Match, score: Score) -> dict:
    """The score (as `score.score_result` gives it) of the matches that the rule finds by these vectors.

    boxes (N rows) as `labelled_boxes` gives them, row i belonging to row i of vectors (N, D) float32.
    """
    of_photo = (boxes.kind == "photo").to_numpy()
    photos, videos = boxes[of_photo], boxes[~of_photo].rename(columns={"item_id": "video_id"})
    votes = cast_votes(photos, videos, *nearest(vectors[of_photo], vectors[~of_photo]))
    matches, _ = match_items(votes, **match.model_dump())
    truth = Truth(dataset.media, dataset.labels, dataset.labelled, dataset.kinds)
    return score_result(check_result(build_result(matches)), truth, **score.model_dump())
