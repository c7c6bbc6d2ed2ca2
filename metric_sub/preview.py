"""A sheet of augmented crops, to look at before training: `python -m metric_sub.preview --config C --data D [--work W] [--out FILE]`.

Cuts crops of some products into <work>/preview as training would, draws the sheet with each of the config's embedders that
trains otherwise than those before it, and prints its path.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metric_sub.batches import EmbedderBatches
from metric_sub.crops import crops_of_boxes
from metric_sub.training_crops import crops_for, cut_training_crops, products_of
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Embedder
from shared.dataset import read_dataset, train_and_validation
from shared.errors import UserError
from shared.files import write_whole
from shared.frames import extract_labelled_frames, read_picture
from shared.lock import locked, refuse_links
from shared.sheet import INK_RGB, PAPER_RGB, fitted, latin
from shared.tables import BOX, Dataset

N_PRODUCTS, N_SHOWN = 24, 4  # that crops are cut of, for the batches; that have rows of their own
WIDTH, CAPTION, GAP, LINE, FONT, TITLE = 1400, 190, 6, 17, 13, 19  # px
SIDE, BATCH_SIDE = 104, 56  # px: the square root of a picture's area
PALE_RGB, PLAIN_RGB = (105, 105, 115), (40, 160, 80)


@dataclass(frozen=True)
class Strip:
    """Pictures of one size, uint8 (h, w, 3), in one row or several; the first `n_plain` are framed; caption: lines beside them."""

    caption: Sequence[str]
    pictures: Sequence[np.ndarray]
    side: int
    n_plain: int = 0


@dataclass(frozen=True)
class Block:
    """Strips under a heading and a line that explains it."""

    heading: str
    text: str
    strips: Sequence[Strip]


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Draw augmented crops.", argv, ("--out", "the sheet (default: <work>/preview.png)"))
    config = config_of(options)
    use_threads(config.threads)
    path = options.out or options.work / "preview.png"
    refuse_links(options.work)
    with locked(options.work / "preview"):  # a training on the same work folder is not disturbed
        crops = some_crops(read_dataset(options.data, config.data), config, options.work / "preview", options.fresh)
        sheet = draw_sheet(blocks_of_models(crops, config))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda beside: sheet.save(beside, format="PNG"))
    print(path)


def some_crops(dataset: Dataset, config: Config, folder: Path, fresh: bool) -> pd.DataFrame:
    """The training crops of all pictures that show one of N_PRODUCTS products, which the config's seed draws; products with
    photos and frames come first. Raises UserError where the training parts show no product."""
    part, _ = train_and_validation(dataset, config.embed_train.parts, config.data.validation_parts, config.data.holdout)
    boxes = products_of(part, config)
    if boxes.empty:
        raise UserError(
            "no labelled product to show: expected boxes with instance_id above 0 in the training parts (embed_train.parts)."
        )
    n_kinds = boxes.groupby("product").kind.nunique()
    drawn = n_kinds.sample(frac=1, random_state=config.seed).sort_values(ascending=False, kind="stable")
    shown = boxes[boxes["product"].isin(drawn.index[:N_PRODUCTS])]
    part = part.of_media(part.media.media_id.isin(shown.media_id))
    pictures = extract_labelled_frames(part, folder, config.data, fresh)
    return cut_training_crops(part, pictures, config, folder, fresh)


def blocks_of_models(crops: pd.DataFrame, config: Config) -> list[Block]:
    """What `blocks_of` gives of each embedder; of those that train alike and differ in backbone, size or seed, of the first alone."""
    blocks, seen = [], []
    for model in config.embedders:
        if (trained := (config.train_of(model), model.aspect_groups)) not in seen:
            blocks += blocks_of(crops, config, model)
            seen.append(trained)
    return blocks


def blocks_of(crops: pd.DataFrame, config: Config, model: Embedder) -> list[Block]:
    """A block for each augmentation that a phase of the model uses, and one of whole batches."""
    crops, phases = crops_for(crops, config.train_of(model)), config.train_of(model).phases
    batches = EmbedderBatches(crops, config, model)
    shown = _rows_to_show(crops)
    blocks = []
    for name in dict.fromkeys(phase.augment for phase in phases):
        used = [f"{number} ({phase.task})" for number, phase in enumerate(phases, 1) if phase.augment == name]
        settings = config.embed_train.augment[name].model_dump()
        blocks.append(
            Block(
                f"{model.name}: {name}, phase {', '.join(used)}",
                ", ".join(f"{key} {value:g}" for key, value in settings.items() if value) or "nothing",
                [_augmented_strip(crops, row, batches, name, config.data.max_pixels) for row in shown],
            )
        )
    return [*blocks, _batches_block(batches, f"{model.name}: whole batches")]


def _rows_to_show(crops: pd.DataFrame) -> list[int]:
    """Of N_SHOWN products, if possible such with photos and frames, spread evenly: the middle one of each kind's rows."""
    products = crops[crops["product"] > 0]
    n_kinds = products.groupby("product").kind.nunique()
    best = n_kinds.index[n_kinds == n_kinds.max()]
    rows = []
    for product in best[np.linspace(0, len(best) - 1, min(N_SHOWN, len(best))).round().astype(int)]:
        for _, group in products[products["product"] == product].groupby("kind"):
            rows.append(int(group.index[len(group) // 2]))
    return rows


def _augmented_strip(crops: pd.DataFrame, row: int, batches: EmbedderBatches, name: str, max_pixels: int) -> Strip:
    """A row's crop as inference would see it, then as many augmented ones as there is place for."""
    crop = crops.loc[row]
    plain, groups = crops_of_boxes(read_picture(crop.crop, max_pixels), [crop[BOX]], batches.rule)
    size_hw = batches.rule.size_of(groups[0])
    augmented = [
        _pixels(batches.augmented(row, size_hw, name, (0, 1, 2), np.random.default_rng([row, number])))
        for number in range(_n_beside(size_hw, SIDE) - 1)
    ]
    place = "photo" if crop.kind == "photo" else f"frame {crop.frame_index}"
    caption = [f"{crop.product_id}, {place}", Path(crop.media_id).name, f"{size_hw[1]} x {size_hw[0]} px"]
    return Strip(caption, [*plain, *augmented], SIDE, n_plain=1)


def _batches_block(batches: EmbedderBatches, heading: str) -> Block:
    """The first batch of each task and aspect group."""
    first = {}  # a step by task and group
    for step in range(len(batches)):
        first.setdefault((batches.phase_of(step).task, int(batches.groups[batches.rows_of(step)[0]])), step)
    strips = []
    for phase, group, task, step in sorted(
        (bisect_right(batches.phase_begins, step), group, task, step) for (task, group), step in first.items()
    ):
        images, classes, _, share = batches[step]
        n_classes = len(classes.unique())
        caption = [
            f"group {group + 1} of {len(batches.rule.ratios)}, phase {phase}",
            f"{images.shape[3]} x {images.shape[2]} px",
            f"{len(classes)} crops, products: {n_classes}" if task == "products" else f"two views of {n_classes} crops",
            *([f"mixed: {share:.2f} and {1 - share:.2f}"] if share < 1 else []),
        ]
        strips.append(Strip(caption, [_pixels(image) for image in images], BATCH_SIDE))
    return Block(
        heading,
        "the first one of each aspect group, among these few products; widths and heights as the network gets them",
        strips,
    )


def draw_sheet(blocks: Sequence[Block]) -> Image.Image:
    """The blocks one under the other, on a sheet of WIDTH px."""
    heights = [_block_height(block) for block in blocks]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + 2 * GAP), PAPER_RGB)
    draw = ImageDraw.Draw(sheet)
    top = 2 * GAP
    for block, height in zip(blocks, heights, strict=True):
        draw.text((2 * GAP, top), latin(block.heading), INK_RGB, ImageFont.load_default(TITLE))
        draw.text((2 * GAP, top + TITLE + GAP), latin(block.text), PALE_RGB, ImageFont.load_default(FONT))
        below = top + _heading_height()
        for strip in block.strips:
            _draw_strip(sheet, draw, strip, below)
            below += _strip_height(strip)
        top += height
    return sheet


def _draw_strip(sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Strip, top: int) -> None:
    font = ImageFont.load_default(FONT)
    for number, line in enumerate(strip.caption):
        draw.text((2 * GAP, top + number * LINE), fitted(latin(line), font, CAPTION - 3 * GAP), INK_RGB, font)
    width, height = _shown_size(strip.pictures[0].shape[:2], strip.side)
    n_beside = _n_beside(strip.pictures[0].shape[:2], strip.side)
    for number, picture in enumerate(strip.pictures):
        left, above = CAPTION + number % n_beside * (width + GAP), top + number // n_beside * (height + GAP)
        sheet.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS), (left, above))
        if number < strip.n_plain:
            draw.rectangle((left - 3, above - 3, left + width + 2, above + height + 2), None, PLAIN_RGB, 3)


def _shown_size(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of a picture's place on the sheet: its own shape, with an area of side x side."""
    scale = side / (size_hw[0] * size_hw[1]) ** 0.5
    return round(size_hw[1] * scale), round(size_hw[0] * scale)


def _n_beside(size_hw: tuple[int, int], side: int) -> int:
    return (WIDTH - CAPTION - GAP) // (_shown_size(size_hw, side)[0] + GAP)


def _strip_height(strip: Strip) -> int:
    size_hw = strip.pictures[0].shape[:2]
    n_rows = -(-len(strip.pictures) // _n_beside(size_hw, strip.side))
    return max(n_rows * (_shown_size(size_hw, strip.side)[1] + GAP), len(strip.caption) * LINE) + 2 * GAP


def _heading_height() -> int:
    return TITLE + FONT + 4 * GAP


def _block_height(block: Block) -> int:
    return _heading_height() + sum(map(_strip_height, block.strips)) + 2 * GAP


def _pixels(image: Tensor) -> np.ndarray:
    """float32 (3, H, W) of 0..1 -> uint8 (H, W, 3)."""
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


if __name__ == "__main__":
    run_entry(main)
