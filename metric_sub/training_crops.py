"""The labelled boxes that stage 2 trains and validates on, cut out once and kept as small pictures."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from metric_sub.embedder import InputRule
from metric_sub.tracks import longest_tracks
from shared.boxes import clip_boxes, expand_boxes
from shared.columns import check_places
from shared.config import Config, EmbedTrain
from shared.dataset import media_fingerprint
from shared.frames import read_picture, write_jpeg
from shared.progress import progress_bar
from shared.tables import BOX, Dataset
from shared.work import Step, chunks, table_fingerprint

PICTURES_PER_PART = 200
COLUMNS = ["media_id", "kind", "frame_index", "product", "product_id", "crop", *BOX, "chroma"]


def products_of(dataset: Dataset, config: Config) -> pd.DataFrame:
    """The labelled boxes with an instance_id above 0: all of photos', and videos' at embed_train.frames.

    Columns of labels plus kind ('photo' or 'video') and product (the instance_id: a set's two products differ).
    """
    boxes = _labelled_boxes(dataset, config)
    return boxes[boxes["product"] > 0].reset_index(drop=True)


def cut_training_crops(
    dataset: Dataset, pictures: pd.DataFrame, config: Config, work: Path, fresh: bool
) -> pd.DataFrame:
    """A picture file per box, with room around it for the margin and the largest jitter: a table with COLUMNS.

    Boxes are those of products; where a model learns from distractor tracks those too, whose product is below 0; and where a
    phase has the task `views` all other distractors, whose product is 0.
    `crop` is the file's path, x1..y2 the box in the crop's pixels. `pictures` tells each (media_id, frame_index)'s file.
    """
    boxes = (
        _labelled_boxes(dataset, config)
        .merge(pictures, on=["media_id", "frame_index"])
        .sort_values(["media_id", "frame_index"], ignore_index=True)
    )
    models = [config.train_of(model) for model in config.embedders]
    if any(model.distractor_tracks for model in models):
        boxes = _with_tracks(boxes)
    if not any(phase.task == "views" for model in models for phase in model.phases):
        boxes = boxes[boxes["product"] != 0]
    room, side = room_and_side(config)
    depends = {
        "boxes": table_fingerprint(boxes.drop(columns="picture")),
        "media": media_fingerprint(dataset.media),
        "columns": COLUMNS,
        "room": room,
        "side": side,
    }
    step = Step(work / "crops", depends, fresh)
    if not step.done:
        files = boxes.picture.drop_duplicates().tolist()
        groups = {picture: group for picture, group in boxes.groupby("picture")}
        parts = chunks(len(files), PICTURES_PER_PART)
        done = step.standing(len(files), PICTURES_PER_PART)
        with progress_bar(total=len(files), title="training crops", unit="picture", done=done) as bar:
            step.build_parts(
                len(parts),
                lambda k: (
                    {"table": _cut(files[parts[k]], groups, room, side, step.folder, k, config.data.max_pixels, bar)},
                    [],
                ),
            )
        step.finish(len(parts), ["table"], {"table": pd.DataFrame(columns=COLUMNS)})
    crops = step.table("table", {"media_id": "str", "kind": "str", "crop": "str", "frame_index": "int64", **dict.fromkeys(BOX, "float32")})
    check_places(crops.crop, step.folder)
    return crops.assign(crop=[str(step.folder / crop) for crop in crops.crop])


def room_and_side(config: Config) -> tuple[float, int]:
    """What is around the box in a training crop, in shares of its sides, and the crop's largest short side in pixels."""
    margin = config.embed.crop_margin
    jitter = max(settings.box_jitter for settings in config.embed_train.augment.values())
    room = margin + (1 + 2 * margin) * jitter  # sides move by shares of the box with its margin
    return room, 2 * max(InputRule.of(model, config.embed).size for model in config.embedders)


def crops_for(crops: pd.DataFrame, settings: EmbedTrain) -> pd.DataFrame:
    """The rows of `cut_training_crops` that a model with these settings learns from, with a fresh index: what the others of an
    ensemble ask for besides has no part in its training, but for the size and room of the pictures, which are cut once for
    all: the largest input_size and box_jitter of the config."""
    if any(phase.task == "views" for phase in settings.phases):
        return crops
    wanted = crops["product"] != 0 if settings.distractor_tracks else crops["product"] > 0
    return crops[wanted].reset_index(drop=True)


def _labelled_boxes(dataset: Dataset, config: Config) -> pd.DataFrame:
    """The boxes of photos, and of videos at embed_train.frames, with kind and product, which is 0 for a distractor."""
    labels = dataset.labels.merge(dataset.media[["media_id", "kind"]], on="media_id")
    wanted = (labels.kind == "photo") | labels.frame_index.isin(config.embed_train.frames.indices)
    labels = labels[wanted].reset_index(drop=True)
    return labels.assign(product=labels.instance_id.astype("int64").clip(lower=0))


def _with_tracks(boxes: pd.DataFrame) -> pd.DataFrame:
    """The boxes, products of distractors' tracks numbered -1, -2, ...; a photo shows no track."""
    of_video = ((boxes["product"] == 0) & (boxes.kind == "video")).to_numpy()
    products = boxes["product"].to_numpy(copy=True)
    products[of_video] = -longest_tracks(boxes[of_video])
    return boxes.assign(product=products)


def _cut(
    files: list[str], groups: dict, room: float, side: int, folder: Path, part: int, max_pixels: int, bar
) -> pd.DataFrame:
    place = Path("pictures") / f"{part:05d}"
    (folder / place).mkdir(parents=True, exist_ok=True)
    rows = []
    for file in files:
        image_rgb = read_picture(file, max_pixels)
        height, width = image_rgb.shape[:2]
        for row in groups[file].itertuples():
            box = clip_boxes([[row.x1, row.y1, row.x2, row.y2]], width, height)
            if ((box[0, 2:] - box[0, :2]) < 2).any():
                continue
            left, top, right, bottom = clip_boxes(expand_boxes(box, room), width, height)[0].round().astype(int)
            crop = image_rgb[top:bottom, left:right]
            scale = min(1.0, side / min(crop.shape[:2]))
            if scale < 1:
                crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            name = str(place / f"{len(rows):05d}.jpg")
            write_jpeg(folder / name, crop)
            chroma = _chroma(image_rgb, box[0])
            inside = (box[0] - [left, top, left, top]) * scale
            key = (row.media_id, row.kind, row.frame_index, row.product, row.product_id)
            rows.append((*key, name, *inside.astype(np.float32), chroma))
        bar.update()
    return pd.DataFrame(rows, columns=COLUMNS)


def _chroma(image_rgb: np.ndarray, box_xyxy: np.ndarray) -> np.float32:
    """How colourful the middle of a box is: the mean difference, 0..255, between its pixels' strongest and weakest channel."""
    x1, y1, x2, y2 = box_xyxy
    left, top = int((3 * x1 + x2) / 4), int((3 * y1 + y2) / 4)
    right, bottom = max(left + 1, int((x1 + 3 * x2) / 4)), max(top + 1, int((y1 + 3 * y2) / 4))
    return np.ptp(image_rgb[top:bottom, left:right], axis=2).mean(dtype=np.float32)
