"""The vectors of labelled boxes by every embedder and by colour, kept on disk: judging again embeds nothing anew."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from metric_sub.embed import CropEmbedder
from metric_sub.embedder import load_embedder
from metric_sub.histogram import DIMENSION, histograms
from metric_sub.infer import read_trained
from shared.config import Config
from shared.dataset import media_fingerprint
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.tables import Dataset
from shared.work import Step, chunks, table_fingerprint

PICTURES_PER_PART = 64
BOX = ["x1", "y1", "x2", "y2"]


def load_models(config: Config, weights: Path) -> dict[str, CropEmbedder]:
    """Each embedder of the config by its name, on the GPU where there is one. Raises UserError where one does not fit."""
    models = {}
    for name, folder in zip([model.name for model in config.embedders], read_trained(config, weights), strict=True):
        embedder = load_embedder(folder, flip=config.embed.flip)
        embedder.net.to("cuda" if torch.cuda.is_available() else "cpu")
        models[name] = CropEmbedder([embedder], config.embed.batch_size)
    return models


def describe_boxes(
    boxes: pd.DataFrame, dataset: Dataset, config: Config, weights: Path, folder: Path, fresh: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The boxes' vectors: {model: (N, D) of unit length}, and their colour histograms (N, 1536), float32, row by row.

    boxes (N rows, those of a picture together): media_id, frame_index, picture (its file), x1..y2. Kept in `folder`, which
    is reused where nothing that it depends on changed. Raises UserError where a picture cannot be read.
    """
    trained = read_trained(config, weights)
    names = [model.name for model in config.embedders]
    media = dataset.media[dataset.media.media_id.isin(boxes.media_id)]
    step = Step(
        folder,
        {
            "models": names,
            "weights": [description["sha256"] for description in trained.values()],
            "architectures": [description["architecture"] for description in trained.values()],
            "flip": config.embed.flip,
            "batch_size": config.embed.batch_size,
            "max_pixels": config.data.max_pixels,
            "media": media_fingerprint(media),
            "boxes": table_fingerprint(boxes[["media_id", "frame_index", *BOX]]),
        },
        fresh,
    )
    if not step.done:
        _build(step, load_models(config, weights), boxes, config)
    vectors = {name: np.load(step.folder / f"vectors.{name}.npy", mmap_mode="r") for name in names}
    return vectors, np.load(step.folder / "histograms.npy", mmap_mode="r")


def _build(step: Step, models: dict[str, CropEmbedder], boxes: pd.DataFrame, config: Config) -> None:
    pictures = list(boxes.groupby("picture", sort=False))
    parts = chunks(len(pictures), PICTURES_PER_PART)
    with progress_bar(total=len(pictures), title="embed", unit="picture") as bar:

        def build(k: int) -> tuple[dict, list]:
            colours = []
            for path, of_picture in pictures[parts[k]]:
                image_rgb, boxes_xyxy = read_picture(path, config.data.max_pixels), of_picture[BOX].to_numpy()
                colours.append(histograms(image_rgb, boxes_xyxy))
                for model in models.values():
                    model.add(image_rgb, boxes_xyxy)
                bar.update()
            vectors = {f"vectors.{name}": model.take() for name, model in models.items()}
            return {**vectors, "histograms": np.concatenate(colours)}, []

        step.build_parts(len(parts), build)
    empty = {f"vectors.{name}": np.zeros((0, model.dimension), np.float32) for name, model in models.items()}
    empty["histograms"] = np.zeros((0, DIMENSION), np.float32)
    step.finish(len(parts), list(empty), empty)
