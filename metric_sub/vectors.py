"""The vectors of labelled boxes by every embedder and descriptor and by colour, kept on disk: judging again embeds nothing anew."""

from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.descriptors import descriptor_weights
from metric_sub.embed import CropEmbedder, join_vectors
from metric_sub.embedder import load_embedders
from metric_sub.embeddings import read_trained
from metric_sub.histogram import DIMENSION, histograms
from metric_sub.labelled import boxed_pictures
from metric_sub.whitening import load_descriptors, read_whitening
from shared.config import Config, Data
from shared.errors import UserError
from shared.progress import progress_bar
from shared.quantized import runtime_settings
from shared.reader import open_reader
from shared.runtime import Runtime
from shared.tables import BOX
from shared.work import Step, chunks, table_fingerprint

MEDIA_PER_PART = 16


def load_models(config: Config, weights: Path, runtime: Runtime) -> dict[str, CropEmbedder]:
    """Each embedder of the config by its name, ready for the runtime, and after them each descriptor by its own.

    Raises UserError where one does not fit.
    """
    models = {}
    for name, folder in zip([model.name for model in config.embedders], read_trained(config, weights), strict=True):
        embedders = load_embedders(folder, runtime=runtime, flip=config.embed.flip)
        models[name] = CropEmbedder([embedders], config.embed.batch_size)
    described = load_descriptors(config.descriptors, weights).alone()
    return models | {name: CropEmbedder([], config.embed.batch_size, alone) for name, alone in described.items()}


def join_models(vectors: dict[str, np.ndarray], config: Config) -> np.ndarray:
    """What inference searches by: vectors of all that `load_models` names, (N, D) each, joined with the config's weights."""
    weights = dict.fromkeys(vectors, 1.0) | descriptor_weights(config.descriptors)
    return join_vectors(list(vectors.values()), list(weights.values()))


def describe_boxes(
    boxes: pd.DataFrame, config: Config, runtime: Runtime, weights: Path, folder: Path, fresh: bool
) -> tuple[pd.DataFrame, dict[str, np.ndarray], np.ndarray]:
    """(boxes, vectors, colours): what `labelled.labelled_boxes` gave, vectors of it {name: (N, D) of unit length} by all that
    `load_models` names, and colour histograms (N, 1536), float32, row by row.

    Boxes of pictures that cannot be read are left out. Kept in `folder`, which is reused where nothing that it depends on
    changed.
    """
    trained = read_trained(config, weights)
    whitening = read_whitening(config.descriptors, weights)
    names = [*(model.name for model in config.embedders), *descriptor_weights(config.descriptors)]
    step = Step(
        folder,
        {
            "models": names,
            "weights": [description["sha256"] for description in trained.values()],
            "architectures": [description["architecture"] for description in trained.values()],
            "flip": config.embed.flip,
            "whitening": whitening and whitening["sha256"],
            "runtime": runtime_settings(runtime, *trained),
            "batch_size": config.embed.batch_size,
            "max_pixels": config.data.max_pixels,
            "boxes": table_fingerprint(boxes.drop(columns=["path", "item_kind"])),
        },
        fresh,
    )
    if not step.done:
        _build(step, load_models(config, weights, runtime), boxes, config.data)
    vectors = {name: step.vectors(f"vectors.{name}") for name in names}
    places = step.table("read", {"place": "int64"}).place.to_numpy()
    if len(places) != step.manifest["rows"] or places.max(initial=0) >= max(len(boxes), 1):
        raise UserError(f"{step.folder}: its vectors are of other boxes. Remove it and run again.")
    read = boxes.iloc[places].reset_index(drop=True)
    return read, vectors, step.vectors("histograms")


def _build(step: Step, models: dict[str, CropEmbedder], boxes: pd.DataFrame, limits: Data) -> None:
    media = boxes.media_id.unique()
    parts = chunks(len(media), MEDIA_PER_PART)
    n_pictures = len(boxes.drop_duplicates(["media_id", "frame_index"]))
    with progress_bar(total=n_pictures, title="embed", unit="picture") as bar, open_reader(limits) as reader:

        def build(k: int) -> tuple[dict, list[dict]]:
            of_part = boxes[boxes.media_id.isin(media[parts[k]])]
            read, colours = [np.zeros(0, np.int64)], [np.zeros((0, DIMENSION), np.float32)]
            for places, image_rgb in boxed_pictures(of_part, reader):
                boxes_xyxy = of_part.iloc[places][BOX].to_numpy()
                read.append(of_part.index.to_numpy()[places])
                colours.append(histograms(image_rgb, boxes_xyxy))
                for model in models.values():
                    model.add(image_rgb, boxes_xyxy)
                bar.update()
            read = np.concatenate(read)
            lost = of_part.drop(read)
            tables = {
                "read": pd.DataFrame({"place": read}),
                "histograms": np.concatenate(colours),
                **{f"vectors.{name}": model.take() for name, model in models.items()},
            }
            return tables, [{"media_id": name, "reason": "not all could be read"} for name in lost.media_id.unique()]

        step.build_parts(len(parts), build)
    empty = {
        "read": pd.DataFrame({"place": np.zeros(0, np.int64)}),
        "histograms": np.zeros((0, DIMENSION), np.float32),
        **{f"vectors.{name}": np.zeros((0, model.dimension), np.float32) for name, model in models.items()},
    }
    step.finish(len(parts), list(empty), empty)
