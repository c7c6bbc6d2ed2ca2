"""Contact sheets: crops of pictures with what was labelled and what was found drawn in, to see where a detector goes wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.boxes import clip_boxes, expand_boxes, pairwise_iou
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.sheet import FONT, INK_RGB, LINE_HEIGHT, PAPER_RGB, lay_out

LABELLED_RGB, FOUND_RGB, BELOW_RGB = (40, 200, 90), (255, 45, 135), (255, 170, 0)
CROP = 280  # px
COLUMNS = 5
CONTEXT = 0.6  # of the box's sides, on each side
LEAST_CONTEXT = 24  # px of the picture, on each side
TAGGED_IOU = 0.1  # with the tile's box, from which a found box shows its score: more would hide the picture


@dataclass(frozen=True)
class Tile:
    """One crop. focus_xyxy (4,): the box it is about, drawn thicker; labelled_xyxy (N, 4), found_xyxy (M, 4), scores (M,): all
    of the picture, in its pixels; threshold: boxes scored lower are drawn as such; caption: lines of text."""

    picture: str
    focus_xyxy: np.ndarray
    labelled_xyxy: np.ndarray
    found_xyxy: np.ndarray
    scores: np.ndarray
    threshold: float
    caption: Sequence[str]


def draw_sheet(title: str, tiles: Sequence[Tile], max_pixels: int) -> Image.Image:
    """The tiles in rows of COLUMNS under the title and a key to the colours. Raises UserError for a picture that cannot be read."""
    key = (("labelled", LABELLED_RGB), ("found", FOUND_RGB), ("found, below the threshold", BELOW_RGB))
    drawn = []
    with progress_bar(total=len(tiles), title=title.split(":")[0], unit="picture") as bar:
        for tile in tiles:
            drawn.append((draw_crop(tile, max_pixels), tile.caption))
            bar.update()
    return lay_out(title, key, drawn, CROP, COLUMNS)


def draw_crop(tile: Tile, max_pixels: int) -> Image.Image:
    """The surroundings of the tile's box, CROP x CROP px (what is not the picture is paper), with the boxes drawn in."""
    image_rgb = read_picture(tile.picture, max_pixels)
    height, width = image_rgb.shape[:2]
    region = expand_boxes(tile.focus_xyxy, CONTEXT)[0] + np.float32([-1, -1, 1, 1]) * LEAST_CONTEXT
    x1, y1, x2, y2 = np.rint(clip_boxes(region, width, height)[0]).astype(int).tolist()
    scale = CROP / max(x2 - x1, y2 - y1)
    size = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    crop = Image.fromarray(image_rgb[y1:y2, x1:x2]).resize(size, Image.Resampling.LANCZOS)
    draw, origin, font = ImageDraw.Draw(crop), np.array([x1, y1, x1, y1]), ImageFont.load_default(FONT)
    colours = np.where((tile.scores >= tile.threshold)[:, None], FOUND_RGB, BELOW_RGB).tolist()
    rows = [
        *(
            (box, tuple(colour), f" {score:.2f} ")
            for box, colour, score in zip(tile.found_xyxy, colours, tile.scores, strict=True)
        ),
        *((box, LABELLED_RGB, "") for box in tile.labelled_xyxy),
    ]
    for box, colour, tag in sorted(rows, key=lambda row: np.array_equal(row[0], tile.focus_xyxy)):  # that one on top
        left, above, right, below = np.rint((box - origin) * scale).tolist()
        if right <= 0 or below <= 0 or left >= size[0] or above >= size[1]:
            continue
        in_focus = np.array_equal(box, tile.focus_xyxy)
        draw.rectangle((left, above, max(left, right - 1), max(above, below - 1)), None, colour, 4 if in_focus else 2)
        if tag and pairwise_iou(box, tile.focus_xyxy)[0, 0] >= TAGGED_IOU:
            at = min(max(0, left), size[0] - font.getlength(tag)), min(max(0, above), size[1] - LINE_HEIGHT)
            draw.rectangle((*at, at[0] + font.getlength(tag), at[1] + LINE_HEIGHT), colour)
            draw.text(at, tag, INK_RGB, font)
    tile_sized = Image.new("RGB", (CROP, CROP), PAPER_RGB)
    tile_sized.paste(crop)
    return tile_sized
