"""Judges the trained detector by labelled pictures: `python -m bbox_sub.judge --config C --data D --work W`.

Writes <work>/evaluation: detector.json (the figures), thresholds.json and thresholds.png (what another threshold would
give), misses.png and false_alarms.png (where it goes wrong). What it found in the pictures is kept there and reused.
"""

import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bbox_sub.detector import INFERENCE_KEYS, detector_runtime
from bbox_sub.figures import KINDS, figures_of, figures_table
from bbox_sub.found import box_table, find_boxes
from bbox_sub.hits import NONE, assign_hits
from bbox_sub.mistakes import worst_false_alarms, worst_misses
from bbox_sub.sheet import draw_sheet
from bbox_sub.targets import fit_boxes, labelled_pictures
from bbox_sub.thresholds import (
    KEYS,
    draw_sweep,
    proposal_as_yaml,
    propose_threshold,
    sweep_thresholds,
    threshold_in_words,
)
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Data
from shared.dataset import named_parts, read_dataset, warn_of_training
from shared.errors import UserError
from shared.files import write_json, write_whole
from shared.frames import extract_labelled_frames
from shared.lock import locked
from shared.tables import Dataset
from shared.weights import read_description, refuse_other_architecture

log = logging.getLogger("evaluate")

MIN_IOU = 0.5  # of a found box with the labelled one, to count as a hit
LEAST_SCORE = 0.05  # of the boxes that COCO's figures see, as in training; less where a threshold is lower
TILES = 40  # of a contact sheet, at most


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Judge the detector by labelled pictures (stage 1).",
        argv,
        ("--part", "judge by this part of the data (again for more; default: all)", {"action": "append"}),
        ("--precision", "the precision to propose thresholds for (default: 0.9)", {"type": float, "default": 0.9}),
    )
    config = config_of(options)
    use_threads(config.threads)
    if not 0 < options.precision <= 1:
        raise UserError(f"--precision: expected a share above 0 and up to 1, found {options.precision:g}.")
    runtime = detector_runtime(config)
    weights, folder = options.weights / "detector", options.work / "evaluation"
    description, configured = read_description(weights), config.detector.model_dump()
    refuse_other_architecture(weights, description["architecture"], configured, INFERENCE_KEYS | {"pretrained", "norm"})
    categories, max_pixels = config.detector.categories, config.data.max_pixels
    thresholds = {"photos": config.detect.photo_score, "frames": config.detect.video_score}
    least_score = min(LEAST_SCORE, *thresholds.values())
    with locked(options.work):
        dataset = named_parts(read_dataset(options.data, config.data), options.part, options.data)
        warn_of_training(dataset, config.detector_train.parts)
        pictures = labelled_in(dataset, folder, config.data, options.fresh)
        found, sizes = find_boxes(pictures, dataset, weights, folder / "found", config, runtime, least_score, options.fresh)
        pictures = pictures.join(sizes).assign(threshold=pictures.kind.map(thresholds))
        truth, names = truth_of(pictures, dataset, config)
        truth, found = assign_hits(truth, found, MIN_IOU)
        figures = {
            "data": str(options.data),
            "parts": sorted(set(dataset.media.part)),
            "weights": description["sha256"],
            "min_iou": MIN_IOU,
            "thresholds": thresholds,
            **figures_of(pictures, truth, found, thresholds, categories, names),
        }
        proposal = propose(pictures, truth, found, thresholds, options.precision, least_score, folder)
        for name, title, (tiles, n_all) in (
            ("misses", "Misses", worst_misses(pictures, truth, found, names, TILES)),
            ("false_alarms", "False alarms", worst_false_alarms(pictures, truth, found, categories, TILES)),
        ):
            sheet = draw_sheet(f"{title}: {len(tiles)} of {n_all}", tiles, max_pixels)
            write_whole(folder / f"{name}.png", lambda beside, sheet=sheet: sheet.save(beside, format="png"))
        write_json(folder / "detector.json", figures)
    print(f"{figures_table(figures)}\n\n{proposal}", file=sys.stderr)
    log.info("%s: look at thresholds.png, misses.png, false_alarms.png", folder)


def labelled_in(dataset: Dataset, folder: Path, limits: Data, fresh: bool) -> pd.DataFrame:
    """A row per labelled photo and frame: media_id, frame_index, picture (a file), kind ('photos', 'frames'), title."""
    pictures = extract_labelled_frames(dataset, folder, limits, fresh)
    is_photo = pictures.media_id.map(dataset.media.set_index("media_id").kind) == "photo"
    return pictures.assign(
        kind=np.where(is_photo, "photos", "frames"),
        title=pictures.media_id.where(is_photo, pictures.media_id + " frame " + pictures.frame_index.astype(str)),
    )


def truth_of(pictures: pd.DataFrame, dataset: Dataset, config: Config) -> tuple[pd.DataFrame, list[str]]:
    """The labelled boxes, clipped as in training: picture (the place in `pictures`), label, x1, y1, x2, y2, name; and the names.

    `name` tells, from 1, which of the names the data gives the box: categories of the detector or, where it has one
    category, whatever labels there are.
    """
    categories, aliases = config.detector.categories, config.data.label_aliases
    several = len(categories) > 1
    names = categories if several else sorted({aliases.get(label, label) for label in dataset.labels.label})
    rows = []
    for place, of_picture in enumerate(labelled_pictures(pictures, dataset.labels, names, aliases)):
        width, height = pictures.width[place], pictures.height[place]
        boxes, numbers = fit_boxes(of_picture.boxes_xyxy, of_picture.labels, width, height)
        rows += [(place, name if several else 1, *box, name) for box, name in zip(boxes, numbers, strict=True)]
    return box_table(rows, "name"), names


def propose(
    pictures: pd.DataFrame,
    truth: pd.DataFrame,
    found: pd.DataFrame,
    thresholds: dict[str, float],
    precision: float,
    least_score: float,
    folder: Path,
) -> str:
    """Writes thresholds.json and thresholds.png into the folder; gives the proposal in words and as YAML."""
    tables = {}
    for kind in (kind for kind in KINDS if (pictures.kind == kind).any()):
        given = found[found.picture.map(pictures.kind) == kind]
        n_boxes = int((truth.picture.map(pictures.kind) == kind).sum())
        tables[kind] = sweep_thresholds(given.score.to_numpy(), (given.finds != NONE).to_numpy(), n_boxes, least_score)
    proposed = {kind: propose_threshold(table, precision) for kind, table in tables.items()}
    words = [threshold_in_words(kind, table, precision) for kind, table in tables.items()]
    words += [f"{kind}: none is labelled, so none is judged" for kind in KINDS if kind not in tables]
    figure = draw_sweep(tables, thresholds, proposed, precision)
    write_whole(folder / "thresholds.png", lambda beside: figure.savefig(beside, dpi=110, format="png"))
    write_json(
        folder / "thresholds.json",
        {
            "precision": precision,
            "min_iou": MIN_IOU,
            "proposed": {KEYS[kind]: proposed.get(kind) for kind in KINDS},
            "words": words,
            "yaml": proposal_as_yaml(proposed),
            **{kind: _columns(table) for kind, table in tables.items()},
        },
    )
    return "\n".join([*words, proposal_as_yaml(proposed)])


def _columns(table: pd.DataFrame) -> dict[str, list]:
    return {name: [None if np.isnan(value) else value for value in table[name].tolist()] for name in table}


if __name__ == "__main__":
    run_entry(main, lower="detect.batch_size, detect.photo_short_side or detect.video_short_side")
