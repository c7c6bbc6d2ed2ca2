"""Makes INT8 weights of the trained embedders: `python -m metric_sub.quantize --config C --data D --work W`.

Writes <weights>/<embedder>/int8 for each, which inference takes with `runtime.precision: int8`. Calibrates by crops of the
training parts, measures the loss of recall@1 on labelled boxes of the validation parts, of each embedder and of all together,
and refuses where one is past its limit. What stands already is reused.
"""

import argparse
import logging
from dataclasses import dataclass, replace
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
from shared.config import Config
from shared.dataset import read_dataset, split_parts, train_and_validation
from shared.errors import UserError
from shared.fit import settle_problems
from shared.int8 import Quantized, Source, load_nncf, quantize_within, versions
from shared.progress import progress_bar
from shared.quantized import FOLDER, discard, save_quantized
from shared.runtime import PLAIN, Runtime
from shared.tables import BOX, Dataset
from shared.work import Step, locked, table_fingerprint

log = logging.getLogger("quantize")

FLOAT = Runtime("openvino", "f32", "cpu", "what INT8 is compared with")
INT8 = Runtime("openvino", "int8", "cpu", "what is measured")


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Make INT8 weights of the embedders (stage 2).", argv)
    config = config_of(options)
    use_threads(config.threads)
    load_nncf()
    trained = read_trained(config, options.weights)
    with locked(options.work):
        quantize_embedders(config, options, trained)


@dataclass(frozen=True)
class Judged:
    """Labelled boxes that recall@1 is measured on, and what float32 vectors (N, D) of them each embedder gives, by name."""

    boxes: pd.DataFrame
    vectors: dict[str, np.ndarray]

    def recall(self, vectors: np.ndarray) -> float:
        """recall@1 of the boxes' vectors (N, D), 0..1."""
        return recall_of_vectors(vectors, self.boxes.instance_id.to_numpy(), (self.boxes.kind == "photo").to_numpy())


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
    steps = {
        folder: Step(folder / FOLDER, {"weights": description["sha256"], **shared_settings}, options.fresh)
        for folder, description in trained.items()
    }
    if all(step.done for step in steps.values()):
        return
    networks = {folder: load_embedders(folder, runtime=PLAIN, flip=config.embed.flip) for folder in trained}
    crops = calibration_crops(chosen, networks, config.data.max_pixels)
    judged = None
    if boxes is not None:
        as_float = {
            folder: load_embedders(folder, runtime=FLOAT, flip=config.embed.flip) for folder in networks
        }
        judged = Judged(boxes, embed_boxes(as_float, boxes, config, "recall@1 in float32"))
    try:
        made, vectors = {}, {}
        for folder, embedders in networks.items():
            made[folder], vectors[folder] = quantize_embedder(folder, embedders, crops[folder], judged, config)
        cost = ensemble_cost(judged, vectors, settings.max_recall_loss) if judged else None
    except UserError:
        for step in steps.values():
            discard(step)
        raise
    for folder, step in steps.items():
        figures = made[folder].figures
        step.write(
            {"calibration": chosen.drop(columns="path")},
            facts={
                "files": save_quantized(step, made[folder].models),
                "cost": figures and {"boxes": len(judged.boxes), **figures, "ensemble": cost},
                "float_layers": made[folder].float_layers,
            },
        )
        if figures:
            log.info("%s: recall@1 %.4f, in float %.4f", step.folder, figures["int8"], figures["float"])
        else:
            log.info("%s: written; what it costs was not measured (quantize.max_recall_loss is null)", step.folder)
    if cost:
        log.info("all together: recall@1 %.4f, in float %.4f, on %d boxes", cost["int8"], cost["float"], len(judged.boxes))


def sides_of(config: Config, options: argparse.Namespace) -> tuple[Dataset, pd.DataFrame | None]:
    """What calibrates, and the labelled boxes to measure on; None where quantize.max_recall_loss is null."""
    dataset, parts = read_dataset(options.data, config.data), config.embed_train.parts
    settle_problems(dataset.problems, config.data.on_error, options.work / "evaluation" / "left_out.json")
    if config.quantize.max_recall_loss is None:
        return split_parts(dataset, parts), None
    calibrating, judging = train_and_validation(dataset, parts, config.data.validation_parts, config.data.holdout)
    boxes = labelled_boxes(judging, config.frames)
    try:
        Sides.of(boxes)
    except UserError as error:
        raise UserError(f"{error} Or set quantize.max_recall_loss to null: INT8 weights are then made unmeasured.") from None
    return calibrating, some_products(boxes, config.quantize.validation_pictures, config.seed)


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
    boxes: pd.DataFrame, networks: dict[Path, list[TrainedEmbedder]], max_pixels: int
) -> dict[Path, list[np.ndarray]]:
    """For each embedder the boxes' crops, uint8 (h, w, 3). Pictures that cannot be read are left out and logged."""
    crops = {folder: [] for folder in networks}
    for places, image_rgb in boxed_pictures(boxes, max_pixels):
        height, width = image_rgb.shape[:2]
        boxes_xyxy = boxes[BOX].to_numpy("float32")[places]
        boxes_xyxy = np.where(np.isnan(boxes_xyxy), np.float32([0, 0, width, height]), boxes_xyxy)
        for folder, embedders in networks.items():
            crops[folder] += crops_of_boxes(image_rgb, boxes_xyxy, embedders[0].crop_rule)[0]
    if not all(crops.values()):
        raise UserError("none of the calibration pictures can be read; the warnings above say why. Name other data with --data.")
    return crops


def quantize_embedder(
    folder: Path, embedders: list[TrainedEmbedder], crops: list[np.ndarray], judged: Judged | None, config: Config
) -> tuple[Quantized, np.ndarray | None]:
    """One embedder in INT8, and its vectors of the judged boxes."""
    sources = {
        f"network{k}": Source(front_model(each.net), crops, lambda crop: crop[None]) for k, each in enumerate(embedders)
    }
    vectors, measure = [None], None
    if judged:
        as_float = judged.recall(judged.vectors[folder])

        def measure(models: dict[str, ov.Model]) -> dict:
            in_int8 = [
                replace(each, net=CompiledEmbedder(each.net, lambda name=name: models[name], INT8, None))
                for name, each in zip(sources, embedders, strict=True)
            ]
            vectors[0] = embed_boxes({folder: in_int8}, judged.boxes, config, f"recall@1 of {folder.name} in INT8")[folder]
            as_int8 = judged.recall(vectors[0])
            cosine = float((vectors[0] * judged.vectors[folder]).sum(axis=1).mean())
            return {"loss": as_float - as_int8, "float": as_float, "int8": as_int8, "cosine": cosine}

    made = quantize_within(
        sources, config.quantize, measure, config.quantize.max_recall_loss, f"{folder.name}, recall@1"
    )
    return made, vectors[0]


def ensemble_cost(judged: Judged, vectors: dict[Path, np.ndarray], limit: float) -> dict:
    """{'float', 'int8', 'loss'}: recall@1 of all embedders together. Raises UserError where the loss is past the limit."""
    as_float = judged.recall(join_vectors(list(judged.vectors.values())))
    as_int8 = judged.recall(join_vectors(list(vectors.values())))
    if as_float - as_int8 > limit:
        raise UserError(
            f"all embedders together, recall@1: {as_int8:.4f} in INT8, {as_float:.4f} in float: a loss of {as_float - as_int8:.4f}, "
            f"with a limit of {limit:g}. No INT8 weights are kept. Try more calibration pictures (quantize.calibration_pictures), "
            "quantize.float_layers that begin higher, or a higher limit; or run in runtime.precision bf16."
        )
    return {"float": as_float, "int8": as_int8, "loss": as_float - as_int8}


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

    with progress_bar(total=len(boxes), title=title, unit="crop") as bar:
        for places, image_rgb in boxed_pictures(boxes, config.data.max_pixels):
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
