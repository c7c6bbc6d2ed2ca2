"""Makes INT8 weights of the trained embedders: `python -m metric_sub.quantize --config C --data D --work W`.

Writes <weights>/<embedder>/int8 for each, which inference takes with `runtime.precision: int8`. Calibrates by crops of the
training parts, measures the loss of recall@1 on labelled boxes of the validation parts, of each embedder and of all together,
and refuses where one is past its limit. What stands already is reused.
"""

import argparse
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import pandas as pd

from metric_sub.crops import crops_of_boxes
from metric_sub.embed import CropEmbedder, join_vectors
from metric_sub.embedder import TrainedEmbedder, load_embedders
from metric_sub.evaluate import CROPS_AT_ONCE, recall_of_vectors
from metric_sub.infer import read_trained
from metric_sub.judge import Sides
from metric_sub.labelled import boxed_pictures, labelled_boxes
from metric_sub.openvino_engine import CompiledEmbedder, front_model
from shared.calibration import calibration_pictures, draw_evenly
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Data
from shared.dataset import read_dataset, split_parts, train_and_validation
from shared.errors import UserError
from shared.fit import settle_problems
from shared.int8 import Source, load_nncf, quantize_within, versions
from shared.lock import locked
from shared.progress import progress_bar
from shared.quantized import FOLDER, are_damaged, discard, save_quantized
from shared.reader import open_reader
from shared.runtime import PLAIN, Runtime
from shared.tables import BOX, Dataset
from shared.work import Step, table_fingerprint

log = logging.getLogger("quantize")

FLOAT = Runtime("openvino", "f32", "cpu", "what INT8 is compared with")
INT8 = Runtime("openvino", "int8", "cpu", "what is measured")
ALL = "all together"


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Make INT8 weights of the embedders (stage 2).", argv)
    config = config_of(options)
    use_threads(config.threads)
    load_nncf()
    trained = read_trained(config, options.weights)
    with locked(options.work):
        quantize_embedders(config, options, trained)


def quantize_embedders(config: Config, options: argparse.Namespace, trained: dict[Path, dict]) -> None:
    """Writes <weights>/<embedder>/int8 of every embedder, or of none.

    Raises UserError where there is nothing to calibrate or to measure by, and where one embedder, or all together, lose too much.
    """
    settings = config.quantize
    calibrating, boxes = sides_of(config, options)
    chosen = calibration_boxes(calibrating, config)
    shared_settings = {
        "all_weights": [description["sha256"] for description in trained.values()],
        "quantize": settings.model_dump(),
        "flip": config.embed.flip,
        "max_pixels": config.data.max_pixels,
        "calibration": table_fingerprint(chosen.drop(columns="path")),
        "validation": None if boxes is None else table_fingerprint(boxes.drop(columns=["path", "item_kind"])),
        "versions": versions(),
    }
    fresh = options.fresh or any(map(are_damaged, trained))
    steps = {
        folder: Step(folder / FOLDER, {"weights": description["sha256"], **shared_settings}, fresh)
        for folder, description in trained.items()
    }
    if all(step.done for step in steps.values()):
        return
    networks = {folder: load_embedders(folder, runtime=PLAIN, flip=config.embed.flip) for folder in trained}
    crops = calibration_crops(chosen, networks, config.data)
    sources = {
        model_name(folder, k): Source(front_model(each.net), crops[folder], lambda crop: crop[None])
        for folder, embedders in networks.items()
        for k, each in enumerate(embedders)
    }
    measure = None
    if boxes is not None:
        in_float = {folder: load_embedders(folder, runtime=FLOAT, flip=config.embed.flip) for folder in networks}
        expected = embed_boxes(in_float, boxes, config, "recall@1 in float32")
        refuse_unmeasurable(boxes[have_vectors(expected)])

        def measure(models: dict[str, ov.Model]) -> dict:
            in_int8 = {folder: in_models(embedders, folder, models) for folder, embedders in networks.items()}
            return costs_of(boxes, expected, embed_boxes(in_int8, boxes, config, "recall@1 in INT8"))

    try:
        made = quantize_within(sources, settings, measure, settings.max_recall_loss, "embedders, recall@1")
    except UserError:
        for step in steps.values():
            discard(step)
        raise
    for folder, step in steps.items():
        models = {f"network{k}": made.models[model_name(folder, k)] for k in range(len(networks[folder]))}
        step.write(
            {"calibration": chosen.drop(columns="path")},
            facts={
                "files": save_quantized(step, models),
                "cost": made.figures and {"boxes": len(boxes), **made.figures},
                "float_layers": made.float_layers,
            },
        )
    if not made.figures:
        log.info("INT8 weights are written; what they cost was not measured (quantize.max_recall_loss is null)")
        return
    for name, figures in made.figures["recall_at_1"].items():
        log.info("%s: recall@1 %.4f, in float %.4f, on %d boxes", name, figures["int8"], figures["float"], len(boxes))


def sides_of(config: Config, options: argparse.Namespace) -> tuple[Dataset, pd.DataFrame | None]:
    """What calibrates, and the labelled boxes to measure on; None where quantize.max_recall_loss is null."""
    dataset, parts = read_dataset(options.data, config.data), config.embed_train.parts
    settle_problems(dataset.problems, config.data.on_error, options.work / "evaluation" / "left_out.json")
    if config.quantize.max_recall_loss is None:
        return split_parts(dataset, parts), None
    calibrating, judging = train_and_validation(dataset, parts, config.data.validation_parts, config.data.holdout)
    boxes = labelled_boxes(judging, config.frames)
    refuse_unmeasurable(boxes)
    return calibrating, some_products(boxes, config.quantize.validation_pictures, config.seed)


def refuse_unmeasurable(boxes: pd.DataFrame) -> None:
    """Raises UserError where the boxes, those that can be read, have no recall@1."""
    try:
        Sides.of(boxes)
    except UserError as error:
        raise UserError(f"{error} Or set quantize.max_recall_loss to null: INT8 weights are then made unmeasured.") from None


def some_products(boxes: pd.DataFrame, n_pictures: int, seed: int) -> pd.DataFrame:
    """The boxes, or where they are in more than n_pictures pictures the boxes of some products alone, drawn at random.

    These are products that both photos and videos show, one at least, as many as fit. The gallery then lacks all others: recall
    is higher than on all boxes.
    """
    pictures = boxes[["media_id", "frame_index"]].drop_duplicates()
    if len(pictures) <= n_pictures:
        return boxes
    is_photo = boxes.kind == "photo"
    askable = np.intersect1d(boxes.instance_id[is_photo], boxes.instance_id[~is_photo])
    askable = np.random.default_rng(seed).permutation(askable[askable > 0])
    sizes = boxes.groupby("instance_id").size().loc[askable].cumsum()
    kept = askable[: max(1, int((sizes <= n_pictures).sum()))]
    return boxes[boxes.instance_id.isin(kept)].reset_index(drop=True)


def calibration_boxes(dataset: Dataset, config: Config) -> pd.DataFrame:
    """Labelled boxes drawn at random, half of photos and half of frames; where nothing is labelled whole pictures, whose boxes are NaN."""
    n_crops = config.quantize.calibration_pictures
    boxes = dataset.labels.merge(dataset.media, on="media_id")
    if boxes.empty:
        log.warning("no labelled box to calibrate by: whole pictures serve, though the embedders see crops")
        return calibration_pictures(dataset, config.frames, n_crops, config.seed).assign(**dict.fromkeys(BOX, np.nan))
    return draw_evenly(boxes, n_crops, config.seed).sort_values(["media_id", "frame_index"], ignore_index=True)


def calibration_crops(
    boxes: pd.DataFrame, networks: dict[Path, list[TrainedEmbedder]], limits: Data
) -> dict[Path, list[np.ndarray]]:
    """For each embedder the boxes' crops, uint8 (h, w, 3). Pictures that cannot be read are left out and logged."""
    crops = {folder: [] for folder in networks}
    with open_reader(limits) as reader:
        for places, image_rgb in boxed_pictures(boxes, reader):
            height, width = image_rgb.shape[:2]
            boxes_xyxy = boxes[BOX].to_numpy("float32")[places]
            boxes_xyxy = np.where(np.isnan(boxes_xyxy), np.float32([0, 0, width, height]), boxes_xyxy)
            for folder, embedders in networks.items():
                crops[folder] += crops_of_boxes(image_rgb, boxes_xyxy, embedders[0].crop_rule)[0]
    if not all(crops.values()):
        raise UserError("none of the calibration pictures can be read; the warnings above say why. Name other data with --data.")
    return crops


def model_name(folder: Path, number: int) -> str:
    """Of a network of an embedder, among those of all."""
    return f"{folder.name} network{number}"


def in_models(embedders: list[TrainedEmbedder], folder: Path, models: dict[str, ov.Model]) -> list[TrainedEmbedder]:
    """The embedders of a folder as INT8 models run them."""
    return [
        replace(each, net=CompiledEmbedder(each.net, partial(models.get, model_name(folder, k)), INT8, None))
        for k, each in enumerate(embedders)
    ]


def have_vectors(vectors: dict[Path, np.ndarray]) -> np.ndarray:
    """(N,) bool, which boxes `embed_boxes` has embedded: those of pictures that could be read."""
    return next(iter(vectors.values())).any(axis=1)


def costs_of(boxes: pd.DataFrame, expected: dict[Path, np.ndarray], found: dict[Path, np.ndarray]) -> dict:
    """What the vectors `found` in INT8 lose against those expected, by embedder (N, D), rows as in `boxes`.

    recall_at_1: of each embedder by name, and of ALL together, {float, int8, loss, cosine}, the last the mean of the vectors'
    cosines. loss: the largest of them; of: whose it is. Boxes without a vector (zeros) are left out.
    """
    embedded = have_vectors(expected)
    boxes = boxes[embedded]
    expected, found = ({folder: rows[embedded] for folder, rows in side.items()} for side in (expected, found))
    products, is_photo = boxes.instance_id.to_numpy(), (boxes.kind == "photo").to_numpy()
    pairs = {folder.name: (expected[folder], found[folder]) for folder in expected}
    if len(pairs) > 1:
        pairs[ALL] = tuple(join_vectors(list(vectors.values())) for vectors in (expected, found))
    figures = {}
    for name, (true, rounded) in pairs.items():
        as_float, as_int8 = (recall_of_vectors(vectors, products, is_photo) for vectors in (true, rounded))
        cosine = float((true * rounded).sum(axis=1).mean())
        figures[name] = {"float": as_float, "int8": as_int8, "loss": as_float - as_int8, "cosine": cosine}
    worst = max(figures, key=lambda name: figures[name]["loss"])
    return {"loss": figures[worst]["loss"], "of": worst, "recall_at_1": figures}


def embed_boxes(
    embedders: dict[Path, list[TrainedEmbedder]], boxes: pd.DataFrame, config: Config, title: str
) -> dict[Path, np.ndarray]:
    """By embedder the boxes' vectors (N, D) float32 of unit length, in their order; zeros where a picture cannot be read."""
    runs = {folder: CropEmbedder([each], config.embed.batch_size) for folder, each in embedders.items()}
    vectors = {folder: np.zeros((len(boxes), run.dimension), np.float32) for folder, run in runs.items()}
    boxes_xyxy, waiting = boxes[BOX].to_numpy(), []

    def take() -> None:
        places = np.concatenate([np.zeros(0, np.int64), *waiting])
        for folder, run in runs.items():
            vectors[folder][places] = run.take()
        waiting.clear()

    with progress_bar(total=len(boxes), title=title, unit="crop") as bar, open_reader(config.data) as reader:
        for places, image_rgb in boxed_pictures(boxes, reader):
            for run in runs.values():
                run.add(image_rgb, boxes_xyxy[places])
            waiting.append(places)
            if sum(map(len, waiting)) >= CROPS_AT_ONCE // len(runs):
                take()
            bar.update(len(places))
        take()
    return vectors


if __name__ == "__main__":
    run_entry(main)
