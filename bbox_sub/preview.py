"""A sheet of training pictures with their boxes, to look at before training: `python -m bbox_sub.preview --config C --data D [--work W] [--out FILE]`.

Cuts the labelled frames of some videos into <work>/preview_detector, draws the first batches as the detector would see them and
prints the sheet's path.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

from bbox_sub.sheet import LABELLED_RGB
from bbox_sub.targets import DetectorBatches, LabelledPicture
from bbox_sub.train import pictures_of, warn_of_paste
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.dataset import read_dataset, train_and_validation
from shared.errors import UserError
from shared.files import write_whole
from shared.frames import extract_labelled_frames
from shared.lock import locked, refuse_links
from shared.sheet import PAPER_RGB, lay_out
from shared.tables import Dataset

N_MEDIA = 12  # photos, and as many videos, that pictures are taken of
N_SHOWN, COLUMNS, SIDE = 24, 6, 240  # pictures on the sheet, in a row, px


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Draw training pictures.", argv, ("--out", "the sheet (default: <work>/preview_detector.png)")
    )
    config = config_of(options)
    use_threads(config.threads)
    folder = options.work / "preview_detector"
    path = options.out or folder.with_suffix(".png")
    refuse_links(options.work)
    with locked(folder):  # a training on the same work folder is not disturbed
        part = some_media(read_dataset(options.data, config.data), config)
        pictures = pictures_of(part, extract_labelled_frames(part, folder, config.data, options.fresh), config)
        warn_of_paste(config.detector_train, pictures)
        sheet = draw_sheet(pictures, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda beside: sheet.save(beside, format="PNG"))
    print(path)


def some_media(dataset: Dataset, config: Config) -> Dataset:
    """Up to N_MEDIA labelled photos and as many labelled videos of the training parts, drawn by the config's seed.

    Raises UserError where the training parts have none.
    """
    part, _ = train_and_validation(
        dataset, config.detector_train.parts, config.data.validation_parts, config.data.holdout
    )
    labelled = part.media[part.media.media_id.isin(part.labelled.media_id)]
    if labelled.empty:
        raise UserError(
            "no labelled picture to show: expected annotations in the training parts (detector_train.parts)."
        )
    drawn = labelled.sample(frac=1, random_state=config.seed).groupby("kind").head(N_MEDIA)
    return part.of_media(part.media.media_id.isin(drawn.media_id))


def draw_sheet(pictures: list[LabelledPicture], config: Config) -> Image.Image:
    """The first N_SHOWN pictures that a training on `pictures` would see, with the boxes that it would learn."""
    batches, tiles = DetectorBatches(pictures, config), []
    for step in range(len(batches)):
        images, targets, _ = batches[step]
        for image, target in zip(images, targets, strict=True):
            tiles.append(
                (_drawn(image, target["boxes"]), _caption(image, target["labels"], config.detector.categories))
            )
        if len(tiles) >= N_SHOWN:
            break
    return lay_out(
        "Pictures as the detector would train on them", [("labelled", LABELLED_RGB)], tiles[:N_SHOWN], SIDE, COLUMNS
    )


def _drawn(image: torch.Tensor, boxes_xyxy: torch.Tensor) -> Image.Image:
    """The image (3, h, w) in 0..1 and its boxes, in a square of SIDE px (what is not the image is paper)."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    scale = SIDE / max(pixels.shape[:2])
    size = tuple(max(1, round(scale * side)) for side in pixels.shape[1::-1])
    tile = Image.new("RGB", (SIDE, SIDE), PAPER_RGB)
    tile.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(tile)
    for left, top, right, below in np.rint(boxes_xyxy.numpy() * scale).tolist():
        draw.rectangle((left, top, max(left, right - 1), max(top, below - 1)), None, LABELLED_RGB, 2)
    return tile


def _caption(image: torch.Tensor, labels: torch.Tensor, categories: list[str]) -> list[str]:
    """Two lines under a picture: its size, and how many boxes of which category."""
    counts = torch.bincount(labels, minlength=len(categories) + 1)[1:].tolist()
    named = ", ".join(f"{count} {name}" for name, count in zip(categories, counts, strict=True) if count)
    return [f"{image.shape[2]} x {image.shape[1]} px", named or "no box"]


if __name__ == "__main__":
    run_entry(main)
