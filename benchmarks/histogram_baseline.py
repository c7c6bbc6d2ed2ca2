"""The trivial baseline: colour histograms of the labelled boxes, matched and scored as embeddings are, without a cut-off.

    python -m benchmarks.histogram_baseline --config C --data D > score.json

It knows every true box (no detector can do better) and nothing but colour. An embedder that does not beat it has learnt
nothing. Needs annotated data.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.histogram import DIMENSION, NO_CUT_OFF, histograms
from metric_sub.labelled import boxed_pictures, labelled_boxes, match_and_score
from metric_sub.score import score_table
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.tables import BOX, Dataset


def describe_boxes(dataset: Dataset, config: Config) -> tuple[pd.DataFrame, np.ndarray]:
    """Every labelled box, distractors too, of the photos and of the videos' frames at config.frames, and its histogram.

    Gives (boxes, vectors): the boxes as `metric_sub.labelled.labelled_boxes` gives them; row i belongs to row i of vectors
    (N, 1536). Media that cannot be read are left out and logged.
    """
    boxes = labelled_boxes(dataset, config.frames)
    vectors = np.zeros((len(boxes), DIMENSION), np.float32)
    read = np.zeros(len(boxes), bool)
    n_pictures = len(boxes.drop_duplicates(["media_id", "frame_index"]))
    with progress_bar(total=n_pictures, title="histograms", unit="picture") as bar, open_reader(config.data) as reader:
        for places, image_rgb in boxed_pictures(boxes, reader):
            vectors[places] = histograms(image_rgb, boxes.iloc[places][BOX].to_numpy())
            read[places] = True
            bar.update()
    return boxes[read].reset_index(drop=True), vectors[read]


def score_histograms(data: Path, config: Config) -> dict:
    """The baseline's score, as `metric_sub.score.score_result` gives it. Raises UserError where there is no label."""
    dataset = read_dataset(data, config.data)
    if dataset.labels.empty:
        raise UserError(f"{data}: no labelled box. The baseline needs image_annotation/ and video_annotation/.")
    boxes, vectors = describe_boxes(dataset, config)
    no_cut_off = config.match.model_copy(update={"max_distance": NO_CUT_OFF})
    return match_and_score(boxes, vectors, dataset, no_cut_off, config.score)


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Matches colour histograms of the labelled boxes and prints the score's JSON.", argv)
    config = config_of(options)
    use_threads(config.threads)
    score = score_histograms(options.data, config)
    print(score_table(score), file=sys.stderr)
    print(json.dumps(score, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    run_entry(main)
