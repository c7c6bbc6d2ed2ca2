"""Makes INT8 weights of the trained detector: `python -m bbox_sub.quantize --config C --data D --work W`.

Writes <weights>/detector/int8, which inference takes with `runtime.precision: int8`. Calibrates by pictures of the training
parts, measures the loss of mAP on labelled pictures of the validation parts and refuses where it is past its limit. What
stands already is reused.
"""

import argparse
import logging

import numpy as np
import pandas as pd
import torch

from bbox_sub.detect import detect_boxes
from bbox_sub.detector import INFERENCE_KEYS, load_detector
from bbox_sub.evaluate import PICTURES_AT_ONCE, Truth, average_precision
from bbox_sub.judge import LEAST_SCORE, labelled_in
from bbox_sub.openvino_engine import MODELS, CompiledDetector, detector_models, quantizable_models
from bbox_sub.resize import resize_picture, resized_size
from bbox_sub.targets import fit_boxes, labelled_pictures
from shared.calibration import calibration_pictures
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.dataset import content_fingerprint, read_dataset, split_parts, train_and_validation
from shared.errors import UserError
from shared.fit import settle_problems
from shared.frames import ask_labelled, read_picture
from shared.int8 import Source, load_nncf, quantize_within, versions
from shared.lock import locked
from shared.media import MediaError
from shared.progress import progress_bar
from shared.quantized import FOLDER, are_damaged, discard, save_quantized
from shared.reader import open_reader
from shared.runtime import PLAIN, Runtime
from shared.tables import Dataset
from shared.weights import read_description, refuse_other_architecture
from shared.work import Step, table_fingerprint

log = logging.getLogger("quantize")

PROPOSALS = 32  # of each picture that calibrate the box head, at most

FLOAT = Runtime("openvino", "f32", "cpu", "what INT8 is compared with")
INT8 = Runtime("openvino", "int8", "cpu", "what is measured")


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Make INT8 weights of the detector (stage 1).", argv)
    config = config_of(options)
    use_threads(config.threads)
    load_nncf()
    description, configured = read_description(options.weights / "detector"), config.detector.model_dump()
    refuse_other_architecture(
        options.weights / "detector", description["architecture"], configured, INFERENCE_KEYS | {"pretrained", "norm"}
    )
    with locked(options.work):
        quantize_detector(config, options, description)


def quantize_detector(config: Config, options: argparse.Namespace, description: dict) -> None:
    """Writes <weights>/detector/int8. Raises UserError where there is nothing to calibrate or to measure by, and where it costs too much."""
    settings, weights = config.quantize, options.weights / "detector"
    calibrating, judging = sides_of(config, options)
    chosen = calibration_pictures(calibrating, config.frames, settings.calibration_pictures, config.seed)
    keys = {key: getattr(config.detector, key) for key in sorted(INFERENCE_KEYS - {"engine"})}
    step = Step(
        weights / FOLDER,
        {
            "weights": description["sha256"],
            "quantize": settings.model_dump(),
            "chosen": keys,
            "sides": [config.detect.photo_short_side, config.detect.video_short_side, config.detect.max_side],
            "vote_iou": config.detect.vote_iou,
            "max_pixels": config.data.max_pixels,
            "calibration": table_fingerprint(chosen.drop(columns="path")),
            "validation": content_fingerprint(judging) if judging else None,
            "versions": versions(),
        },
        options.fresh or are_damaged(weights),
    )
    if step.done:
        return
    vote_iou = config.detect.vote_iou
    network, _ = load_detector(
        weights, runtime=PLAIN, least_score=LEAST_SCORE, vote_iou=vote_iou, engine="torchvision", **keys
    )
    uncached = dict.fromkeys(MODELS)
    in_float = CompiledDetector(network, detector_models(network, FLOAT.precision), FLOAT, uncached)
    measure, as_float = None, None
    if judging:
        images, truth = judged_pictures(judging, options, config)
        as_float = judge(in_float, images, truth, config, "mAP in float32")

        def measure(models: dict) -> dict:
            makes = {name: lambda name=name: models[name] for name in MODELS}
            as_int8 = judge(CompiledDetector(network, makes, INT8, uncached), images, truth, config, "mAP in INT8")
            return {"loss": as_float["mAP"] - as_int8["mAP"], "int8": as_int8}

    sources = sources_of(network, in_float, read_calibration(chosen, config))
    try:
        made = quantize_within(sources, settings, measure, settings.max_map_loss, "detector, mAP")
    except UserError:
        discard(step)
        raise
    cost = made.figures and {"pictures": len(truth), "float": as_float, **made.figures}
    files = save_quantized(step, made.models)
    step.write(
        {"calibration": chosen.drop(columns="path")},
        facts={"files": files, "cost": cost, "float_layers": made.float_layers},
    )
    if cost:
        log.info("%s: mAP %.4f, in float %.4f, on %d pictures", step.folder, cost["int8"]["mAP"], as_float["mAP"], len(truth))
    else:
        log.info("%s: written; what it costs was not measured (quantize.max_map_loss is null)", step.folder)


def sides_of(config: Config, options: argparse.Namespace) -> tuple[Dataset, Dataset | None]:
    """What calibrates and what the loss is measured on; None where quantize.max_map_loss is null."""
    dataset, parts = read_dataset(options.data, config.data), config.detector_train.parts
    settle_problems(dataset.problems, config.data.on_error, options.work / "evaluation" / "left_out.json")
    if config.quantize.max_map_loss is None:
        return split_parts(dataset, parts), None
    calibrating, judging = train_and_validation(dataset, parts, config.data.validation_parts, config.data.holdout)
    if judging.labels.empty:
        raise UserError(
            f"{options.data}: no labelled box in {sorted(set(judging.media.part))} to measure the loss of mAP on. Name a data set with "
            "annotations, other data.validation_parts, or set quantize.max_map_loss to null: INT8 weights are then made unmeasured."
        )
    return calibrating, judging


def read_calibration(chosen: pd.DataFrame, config: Config) -> list[torch.Tensor]:
    """The chosen pictures, uint8 (3, h, w), at the size that inference would give them. What cannot be read is left out and logged."""
    pictures = []
    with (
        progress_bar(total=len(chosen), title="calibration pictures", unit="picture") as bar,
        open_reader(config.data) as reader,
    ):
        for path, rows in chosen.groupby("path", sort=False):
            medium = rows.iloc[0]
            short_side = config.detect.photo_short_side if medium.kind == "photo" else config.detect.video_short_side
            bar.update(len(rows))
            try:
                images = [image for _, image in ask_labelled(reader, medium, rows.frame_index.tolist())]
            except MediaError as error:
                log.warning("%s: left out: %s", path, error)
                continue
            for image in images:
                pictures.append(resize_picture(image, resized_size(*image.shape[:2], short_side, config.detect.max_side)))
    if not pictures:
        raise UserError("none of the calibration pictures can be read; the warnings above say why. Name other data with --data.")
    return pictures


def sources_of(
    network: torch.nn.Module, in_float: CompiledDetector, pictures: list[torch.Tensor]
) -> dict[str, Source]:
    """Both parts of the detector with what calibrates them: the pictures, and proposals pooled from them, of each an even choice by
    level and size."""
    pooled = []
    for picture in pictures:  # one by one: all proposals of all pictures are too many to hold
        [given] = in_float.pooled_proposals([picture])  # (P, side * side * C)
        if len(given):
            pooled.append(given[np.unique(np.linspace(0, len(given) - 1, PROPOSALS).round().astype(int))].numpy())
    models = {name: make() for name, make in quantizable_models(network).items()}
    return {
        "front": Source(models["front"], pictures, lambda picture: picture[None].numpy()),
        "box_head": Source(models["box_head"], pooled, np.asarray),
    }


def judged_pictures(
    judging: Dataset, options: argparse.Namespace, config: Config
) -> tuple[pd.DataFrame, list[Truth]]:
    """Labelled pictures to measure on, spread evenly, and their boxes; cut out once with those of `evaluate`."""
    pictures = labelled_in(judging, options.work / "evaluation", config.data, fresh=False)
    n_all = len(pictures)
    even = np.unique(np.linspace(0, n_all - 1, min(n_all, config.quantize.validation_pictures)).round().astype(int))
    pictures = pictures.iloc[even].reset_index(drop=True)
    truth = []
    for labelled in labelled_pictures(pictures, judging.labels, config.detector.categories, config.data.label_aliases):
        image = read_picture(labelled.picture, config.data.max_pixels)
        height, width = image.shape[:2]
        truth.append((*fit_boxes(labelled.boxes_xyxy, labelled.labels, width, height), (height, width)))
    return pictures, truth


def judge(
    detector: CompiledDetector, pictures: pd.DataFrame, truth: list[Truth], config: Config, title: str
) -> dict[str, float]:
    """{'mAP', 'AP50', 'AR'} of a detector on the pictures, each resized as inference resizes its kind."""
    found = [None] * len(pictures)
    with progress_bar(total=len(pictures), title=title, unit="picture") as bar:
        for kind, short_side in (("photos", config.detect.photo_short_side), ("frames", config.detect.video_short_side)):
            places = np.flatnonzero(pictures.kind == kind)
            for start in range(0, len(places), PICTURES_AT_ONCE):
                group = places[start : start + PICTURES_AT_ONCE]
                images = [read_picture(path, config.data.max_pixels) for path in pictures.picture.iloc[group]]
                detected = detect_boxes(
                    detector,
                    images,
                    short_side=short_side,
                    max_side=config.detect.max_side,
                    batch_size=config.detect.batch_size,
                )
                for place, of_picture in zip(group, detected, strict=True):
                    found[place] = of_picture
                bar.update(len(group))
    return average_precision(truth, found, config.detector.categories)


if __name__ == "__main__":
    run_entry(main)
