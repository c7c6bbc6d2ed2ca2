"""Detects the products: `python -m bbox_sub.infer --config C --data D --work W`.

Writes <work>/media and <work>/detections/{photos,videos}. What stands already is reused; what was interrupted goes on.
"""

import numpy as np
import pandas as pd
from torch import nn

from bbox_sub.detect import detect_boxes
from bbox_sub.detector import INFERENCE_KEYS, detector_runtime, load_detector
from bbox_sub.openvino_engine import CompiledDetector
from shared.catalogue import catalogue_media
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, save_config
from shared.dataset import media_fingerprint
from shared.media import MediaError, read_frames, read_photo
from shared.progress import progress_bar
from shared.quantized import runtime_settings
from shared.weights import read_description, refuse_other_architecture
from shared.work import Step, fingerprint, locked

ITEMS_PER_PART, VIDEOS_PER_PART = 8, 4
COLUMNS = {
    "media_id": "str",
    "item_id": "str",
    "name": "str",
    "frame_index": "int64",
    "rank": "int64",
    "x1": "float32",
    "y1": "float32",
    "x2": "float32",
    "y2": "float32",
    "score": "float32",
    "category": "str",
}


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Detect the products in photos and videos (stage 1).", argv)
    config = config_of(options)
    use_threads(config.threads)
    runtime = detector_runtime(config)
    weights = options.weights / "detector"
    description = read_description(weights)
    configured = config.detector.model_dump()
    refuse_other_architecture(weights, description["architecture"], configured, INFERENCE_KEYS | {"pretrained", "norm"})
    chosen = {key: configured[key] for key in sorted(INFERENCE_KEYS)}
    with locked(options.work):
        save_config(options.work, config)
        media_step = catalogue_media(options.data, options.work, config.data.max_pixels, options.fresh)
        media = media_step.table("table")
        shared_settings = {
            "weights": description["sha256"],
            "architecture": description["architecture"],
            "chosen": chosen,
            "runtime": runtime_settings(runtime, weights),
            "max_side": config.detect.max_side,
            "batch_size": config.detect.batch_size,
        }
        photos = media[media.kind == "photo"].reset_index(drop=True)
        videos = media[media.kind == "video"].reset_index(drop=True)
        settings = config.detect
        photo_settings = {
            **shared_settings,
            "score": settings.photo_score,
            "short_side": settings.photo_short_side,
            "keep_best": settings.keep_best_photo_box,
        }
        video_settings = {
            **shared_settings,
            "score": settings.video_score,
            "short_side": settings.video_short_side,
            "frames": config.frames.indices,
        }
        photo_step, video_step = (
            Step(
                options.work / "detections" / kind,
                {**of_kind, "parts": "by item", "media": media_fingerprint(rows)},
                options.fresh,
                keep_before=True,
            )
            for kind, of_kind, rows in (("photos", photo_settings, photos), ("videos", video_settings, videos))
        )
        if photo_step.done and video_step.done:
            return
        least = 0.0 if settings.keep_best_photo_box else settings.photo_score
        model, architecture = load_detector(
            weights, runtime=runtime, least_score=min(least, settings.video_score), **chosen
        )
        for step, of_kind, rows, size, detect in (
            (photo_step, photo_settings, photos, ITEMS_PER_PART, detect_in_photos),
            (video_step, video_settings, videos, VIDEOS_PER_PART, detect_in_videos),
        ):
            if not step.done:
                build_detections(
                    step,
                    of_kind,
                    rows,
                    size,
                    lambda part, detect=detect: detect(model, architecture.categories, part, config),
                )


def build_detections(step: Step, settings: dict, media: pd.DataFrame, items_per_part: int, detect) -> None:
    """Fills a detections step, item by item, and finishes it. `detect(rows)` gives (table, skipped).

    settings: all that the step depends on but its media. What was found before, by the same settings, in photos of an item
    and in videos that have not changed is kept.
    """
    # An item's photos are detected by themselves: in other company the last bits are others.
    items = [
        rows.reset_index(drop=True) for _, rows in media.groupby((media.item_id != media.item_id.shift()).cumsum())
    ]
    marks = [fingerprint([settings, media_fingerprint(rows)]) for rows in items]
    with progress_bar(total=len(items), title=f"detect {step.folder.name}", unit="item") as bar:

        def build(k: int) -> tuple[dict, list[dict]]:
            table, skipped = detect(items[k])
            return {"table": table}, skipped

        step.build_units(marks, items_per_part, build, {"table": detection_table([])}, bar.update)


def detect_in_photos(
    model: nn.Module | CompiledDetector, categories: list[str], photos: pd.DataFrame, config: Config
) -> tuple[pd.DataFrame, list[dict]]:
    """The detections of some photos: a table with COLUMNS, and what could not be read."""
    settings, rows, images, readable, skipped = config.detect, [], [], [], []
    for photo in photos.itertuples():
        try:
            images.append(read_photo(photo.path, config.data.max_pixels))
            readable.append(photo)
        except MediaError as error:
            skipped.append({"media_id": photo.media_id, "reason": str(error)})
    found = detect_boxes(
        model, images, short_side=settings.photo_short_side, max_side=settings.max_side, batch_size=settings.batch_size
    )
    for photo, (boxes, scores, labels) in zip(readable, found, strict=True):
        n_kept = int((scores >= settings.photo_score).sum())
        n_kept = max(n_kept, 1) if settings.keep_best_photo_box else n_kept
        rows += detection_rows(photo, 0, boxes[:n_kept], scores[:n_kept], labels[:n_kept], categories)
    return detection_table(rows), skipped


def detect_in_videos(
    model: nn.Module | CompiledDetector, categories: list[str], videos: pd.DataFrame, config: Config
) -> tuple[pd.DataFrame, list[dict]]:
    """The detections of some videos' frames: a table with COLUMNS, and what could not be read."""
    settings, rows, skipped = config.detect, [], []
    for video in videos.itertuples():
        try:
            frames = list(read_frames(video.path, config.frames.indices, config.data.max_pixels))
        except MediaError as error:
            skipped.append({"media_id": video.media_id, "reason": str(error)})
            continue
        if not frames:
            skipped.append(
                {"media_id": video.media_id, "reason": f"shorter than the first wanted frame ({config.frames.start})"}
            )
        found = detect_boxes(
            model,
            [image for _, image in frames],
            short_side=settings.video_short_side,
            max_side=settings.max_side,
            batch_size=settings.batch_size,
        )
        for (index, _), (boxes, scores, labels) in zip(frames, found, strict=True):
            keep = scores >= settings.video_score
            rows += detection_rows(video, index, boxes[keep], scores[keep], labels[keep], categories)
    return detection_table(rows), skipped


def detection_rows(
    medium, frame_index: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, categories: list[str]
) -> list[tuple]:
    return [
        (medium.media_id, medium.item_id, medium.name, frame_index, rank, *box, score, categories[label - 1])
        for rank, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True))
    ]


def detection_table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


if __name__ == "__main__":
    run_entry(main)
