"""The worst confusions of the embedders, as a contact sheet: a video crop, the photo crop it took, and the right one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from metric_sub.labelled import boxed_pictures
from shared.boxes import clip_boxes
from shared.config import Data
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.sheet import PAPER_RGB, lay_out
from shared.tables import BOX

QUERY_RGB, WRONG_RGB, RIGHT_RGB = (60, 110, 235), (225, 50, 50), (40, 165, 80)
CROP, FRAME = 200, 5  # px
COLUMNS = 6  # two confusions in a row
PER_VIDEO = 2  # confusions of one video, at most: the next frame shows much the same


@dataclass(frozen=True)
class Tile:
    """One crop: the place of its box in the table, what it is (a colour), and the lines under it."""

    place: int
    colour: tuple[int, int, int]
    caption: Sequence[str]


def worst_confusions(
    boxes: pd.DataFrame, queries: np.ndarray, gallery: np.ndarray, found: pd.DataFrame, n: int
) -> tuple[list[Tile], int]:
    """Three tiles (query, wrong, right) for each of the n worst confusions, and how many there are in all.

    A confusion is a query whose nearest crop is of another product; the worst has the largest gap between the distance to
    its own product and that to the other (ties: the first). Of one video PER_VIDEO at most.
    boxes: media_id, frame_index, item_id, name, item_kind. queries (N,), gallery (M,): places of its rows. found (N rows): as
    `evaluate.nearest_right_and_wrong` gives it.
    """
    confused = found.assign(gap=found.right_distance - found.wrong_distance, place=queries)
    confused = confused[confused.gap > 0].sort_values("gap", ascending=False, kind="stable")
    of_video = confused.groupby(boxes.media_id.to_numpy()[confused.place]).cumcount()
    tiles = []
    for row in confused[of_video < PER_VIDEO].head(n).itertuples():
        query, wrong, right = row.place, gallery[row.wrong], gallery[row.right]
        tiles += [
            Tile(query, QUERY_RGB, (_frame(boxes.iloc[query]), boxes.item_kind.iloc[query])),
            Tile(wrong, WRONG_RGB, (_photo(boxes.iloc[wrong]), f"{row.wrong_distance:.3f}")),
            Tile(right, RIGHT_RGB, (_photo(boxes.iloc[right]), f"{row.right_distance:.3f}, farther by {row.gap:.3f}")),
        ]
    return tiles, len(confused)


def draw_confusions(title: str, tiles: Sequence[Tile], boxes: pd.DataFrame, limits: Data) -> Image.Image:
    """The tiles in rows of COLUMNS; boxes: media_id, kind, path, frame_index, x1..y2. A crop that cannot be read is blank."""
    key = (
        ("video crop", QUERY_RGB),
        ("nearest photo crop: another product", WRONG_RGB),
        ("nearest photo crop of its own product", RIGHT_RGB),
    )
    drawn = boxes.iloc[sorted({tile.place for tile in tiles})]
    crops = {}
    with progress_bar(total=len(drawn), title=title.split(":")[0], unit="crop") as bar, open_reader(limits) as reader:
        for rows, image_rgb in boxed_pictures(drawn, reader):
            for row in drawn.iloc[rows][BOX].itertuples():
                crops[row.Index] = _crop(image_rgb, np.float32(row[1:]))
                bar.update()
    blank = Image.new("RGB", (CROP - 2 * FRAME, CROP - 2 * FRAME), PAPER_RGB)
    framed = [(ImageOps.expand(crops.get(tile.place, blank), FRAME, tile.colour), tile.caption) for tile in tiles]
    return lay_out(title, key, framed, CROP, COLUMNS)


def _frame(row: pd.Series) -> str:
    return f"video {row.item_id} frame {row.frame_index}"


def _photo(row: pd.Series) -> str:
    return f"item {row.item_id} photo {row['name']}"


def _crop(image_rgb: np.ndarray, box_xyxy: np.ndarray) -> Image.Image:
    """The box's pixels, padded to a square that leaves room for the frame."""
    height, width = image_rgb.shape[:2]
    x1, y1, x2, y2 = np.rint(clip_boxes(box_xyxy, width, height)[0]).astype(int)
    left, above = min(x1, width - 1), min(y1, height - 1)
    crop = Image.fromarray(image_rgb[above : max(y2, above + 1), left : max(x2, left + 1)])
    return ImageOps.pad(crop, (CROP - 2 * FRAME, CROP - 2 * FRAME), Image.Resampling.LANCZOS, PAPER_RGB)
