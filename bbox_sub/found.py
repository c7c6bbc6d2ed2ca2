"""What a detector finds in labelled pictures, kept on disk: judging again by other thresholds looks at no picture anew."""

from pathlib import Path

import pandas as pd
from torch import nn

from bbox_sub.detect import detect_boxes
from bbox_sub.detector import INFERENCE_KEYS, load_detector
from bbox_sub.openvino_engine import CompiledDetector
from shared.config import Config
from shared.dataset import media_fingerprint
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.quantized import runtime_settings
from shared.runtime import Runtime
from shared.tables import BOX, Dataset
from shared.weights import read_description
from shared.work import Step, chunks, table_fingerprint

PICTURES_PER_PART = 32


def find_boxes(
    pictures: pd.DataFrame,
    dataset: Dataset,
    weights: Path,
    folder: Path,
    config: Config,
    runtime: Runtime,
    least_score: float,
    fresh: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the detector finds in the pictures, photos and frames resized as inference does, and the pictures' sizes.

    found: picture (the row's place in `pictures`), label, x1, y1, x2, y2, score, best first in each picture. sizes: a row per
    picture: width, height. Kept in <folder>/{photos,frames}, which are reused where nothing they depend on changed.
    """
    description, configured = read_description(weights), config.detector.model_dump()
    chosen = {key: configured[key] for key in sorted(INFERENCE_KEYS)}
    model, tables = None, []
    for kind, short_side in (("photos", config.detect.photo_short_side), ("frames", config.detect.video_short_side)):
        rows = pictures[pictures.kind == kind]
        step = Step(
            folder / kind,
            {
                "weights": description["sha256"],
                "architecture": description["architecture"],
                "chosen": chosen,
                "runtime": runtime_settings(runtime, weights),
                "least_score": least_score,
                "sides": [short_side, config.detect.max_side],
                "vote_iou": config.detect.vote_iou,
                "batch_size": config.detect.batch_size,
                "max_pixels": config.data.max_pixels,
                "media": media_fingerprint(dataset.media[dataset.media.media_id.isin(rows.media_id)]),
                "pictures": table_fingerprint(rows[["media_id", "frame_index"]]),
            },
            fresh,
        )
        if not step.done:
            if model is None:
                model, _ = load_detector(
                    weights, runtime=runtime, least_score=least_score, vote_iou=config.detect.vote_iou, **chosen
                )
            build_found(step, model, rows, short_side, config)
        found = step.table("found")
        tables.append(
            (found.assign(picture=rows.index.to_numpy()[found.picture]), step.table("sizes").set_index(rows.index))
        )
    found, sizes = zip(*tables, strict=True)
    return pd.concat(found, ignore_index=True), pd.concat(sizes).sort_index()


def build_found(step: Step, model: nn.Module | CompiledDetector, rows: pd.DataFrame, short_side: int, config: Config) -> None:
    """Fills a step of `find_boxes` part by part; `picture` counts the rows of this kind."""
    parts = chunks(len(rows), PICTURES_PER_PART)
    done = step.standing(len(rows), PICTURES_PER_PART)
    with progress_bar(total=len(rows), title=f"detect {step.folder.name}", unit="picture", done=done) as bar:

        def build(k: int) -> tuple[dict, list]:
            images = [read_picture(path, config.data.max_pixels) for path in rows.picture[parts[k]]]
            detected = detect_boxes(
                model,
                images,
                short_side=short_side,
                max_side=config.detect.max_side,
                batch_size=config.detect.batch_size,
            )
            bar.update(len(images))
            places = range(parts[k].start, parts[k].stop)
            return {
                "sizes": size_table([image.shape[1::-1] for image in images]),
                "found": box_table(
                    [
                        (place, label, *box, score)
                        for place, picture_found in zip(places, detected, strict=True)
                        for box, score, label in zip(*picture_found, strict=True)
                    ],
                    "score",
                ),
            }, []

        step.build_parts(len(parts), build)
    step.finish(len(parts), ["sizes", "found"], {"sizes": size_table([]), "found": box_table([], "score")})


def box_table(rows: list[tuple], last: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["picture", "label", *BOX, last])
    return table.astype(
        {
            "picture": "int64",
            "label": "int64",
            **dict.fromkeys(BOX, "float32"),
            last: "float32" if last == "score" else "int64",
        }
    )


def size_table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["width", "height"]).astype("int64")
