"""The trivial baseline: colour histograms of the labelled boxes, matched and scored as embeddings are.

    python -m benchmarks.histogram_baseline --config C --data D > score.json

It knows every true box (no detector can do better) and nothing but colour. An embedder that does not beat it has learnt
nothing. Needs annotated data.
"""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from metric_sub.result import build_result, check_result
from metric_sub.score import Truth, score_result, score_table
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from shared.boxes import clip_boxes
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.media import MediaError, read_frames, read_photo
from shared.progress import progress_bar
from shared.tables import Dataset

log = logging.getLogger("histogram")

BINS = (24, 8, 8)  # hue, saturation, value
RANGES = (0, 180, 0, 256, 0, 256)  # of OpenCV's 8-bit HSV


def histogram(crop_rgb: np.ndarray) -> np.ndarray:
    """A crop's joint HSV histogram as a vector (1536,) float32 of unit length; an empty crop gives zeros.

    Its entries are the roots of the bins' shares, so that the Euclidean distance between two of them is sqrt(2) times
    the Hellinger distance between the distributions: 0 for equal ones, sqrt(2) for disjoint ones.
    """
    if crop_rgb.size == 0:
        return np.zeros(int(np.prod(BINS)), np.float32)
    hsv = cv2.cvtColor(np.ascontiguousarray(crop_rgb), cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(BINS), list(RANGES)).ravel()
    return np.sqrt(counts / counts.sum())


def describe_boxes(dataset: Dataset, config: Config) -> tuple[pd.DataFrame, np.ndarray]:
    """Every labelled box, distractors too, of the photos and of the videos' frames at config.frames, and its histogram.

    Gives (boxes, vectors): the labels with their media's columns, rank (0, 1, ... in the picture, as annotated) and
    score (1), by media_id, frame_index, rank; row i belongs to row i of vectors (N, 1536). Media that cannot be read
    are left out and logged.
    """
    boxes = dataset.labels.merge(dataset.media, on="media_id")
    boxes = boxes[(boxes.kind == "photo") | boxes.frame_index.isin(config.frames.indices)]
    boxes["rank"] = boxes.groupby(["media_id", "frame_index"]).cumcount()
    boxes["score"] = np.float32(1)
    boxes = boxes.sort_values(["media_id", "frame_index", "rank"], ignore_index=True)
    vectors = np.zeros((len(boxes), int(np.prod(BINS))), np.float32)
    read = np.zeros(len(boxes), bool)
    pictures = boxes.groupby(["media_id", "frame_index"]).indices
    media = dataset.media[dataset.media.media_id.isin(boxes.media_id)]
    with progress_bar(total=len(media), title="histograms", unit="file") as bar:
        for medium in media.itertuples():
            wanted = boxes.frame_index[boxes.media_id == medium.media_id]
            try:
                for frame_index, image_rgb in _pictures(medium.path, medium.kind, wanted, config.data.max_pixels):
                    rows = pictures[medium.media_id, frame_index]
                    vectors[rows] = _histograms(image_rgb, boxes.loc[rows, ["x1", "y1", "x2", "y2"]].to_numpy())
                    read[rows] = True
            except MediaError as error:
                log.warning("%s: left out: %s", medium.path, error)
            bar.update()
    return boxes[read].reset_index(drop=True), vectors[read]


def _pictures(path: str, kind: str, wanted: pd.Series, max_pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    if kind == "photo":
        return iter([(0, read_photo(path, max_pixels))])
    return read_frames(path, wanted, max_pixels)


def _histograms(image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    corners = np.rint(clip_boxes(boxes_xyxy, image_rgb.shape[1], image_rgb.shape[0])).astype(int)
    return np.stack([histogram(image_rgb[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners])


def score_histograms(data: Path, config: Config) -> dict:
    """The baseline's score, as `metric_sub.score.score_result` gives it. Raises UserError where there is no label."""
    dataset = read_dataset(data)
    if dataset.labels.empty:
        raise UserError(f"{data}: no labelled box. The baseline needs image_annotation/ and video_annotation/.")
    boxes, vectors = describe_boxes(dataset, config)
    of_photo = (boxes.kind == "photo").to_numpy()
    photos, videos = boxes[of_photo], boxes[~of_photo].rename(columns={"item_id": "video_id"})
    distances, indices = nearest(vectors[of_photo], vectors[~of_photo])
    matches, _ = match_items(cast_votes(photos, videos, distances, indices), **config.match.model_dump())
    truth = Truth(dataset.media, dataset.labels, dataset.labelled, dataset.kinds)
    return score_result(check_result(build_result(matches)), truth, **config.score.model_dump())


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Matches colour histograms of the labelled boxes and prints the score's JSON.", argv)
    config = config_of(options)
    use_threads(config.threads)
    score = score_histograms(options.data, config)
    print(score_table(score), file=sys.stderr)
    print(json.dumps(score, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_entry(main)
