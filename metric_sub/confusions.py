"""The worst confusions of the embedders, as a contact sheet: a video crop, the photo crop it took, and the right one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from shared.boxes import clip_boxes
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.sheet import PAPER_RGB, lay_out

QUERY_RGB, WRONG_RGB, RIGHT_RGB = (60, 110, 235), (225, 50, 50), (40, 165, 80)
CROP, FRAME = 200, 5  # px
COLUMNS = 6  # two confusions in a row
PER_VIDEO = 2  # confusions of one video, at most: the next frame shows much the same
BOX = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class Tile:
    """One crop: picture (its file), box_xyxy (4,) in its pixels, what it is (a colour), and the lines under it."""

    picture: str
    box_xyxy: np.ndarray
    colour: tuple[int, int, int]
    caption: Sequence[str]


def worst_confusions(
    queries: pd.DataFrame, gallery: pd.DataFrame, found: pd.DataFrame, n: int
) -> tuple[list[Tile], int]:
    """Three tiles (query, wrong, right) for each of the n worst confusions, and how many there are in all.

    A confusion is a query whose nearest crop is of another product; the worst has the largest gap between the distance to
    its own product and that to the other (ties: the first). Of one video PER_VIDEO at most.
    queries (N rows), gallery: media_id, frame_index, item_id, name, picture, x1..y2, of queries also item_kind. found (N
    rows): as `evaluate.nearest_right_and_wrong` gives it.
    """
    confused = found.reset_index(drop=True).assign(gap=found.right_distance - found.wrong_distance)
    confused = confused[confused.gap > 0].sort_values("gap", ascending=False, kind="stable")
    of_video = confused.groupby(queries.media_id.to_numpy()[confused.index]).cumcount()
    tiles = []
    for row in confused[of_video < PER_VIDEO].head(n).itertuples():
        query, wrong, right = queries.iloc[row.Index], gallery.iloc[row.wrong], gallery.iloc[row.right]
        title = (f"video {query.item_id} frame {query.frame_index}", f"{query.item_kind}".strip())
        tiles += [
            _tile(query, QUERY_RGB, title),
            _tile(wrong, WRONG_RGB, (_photo(wrong), f"{row.wrong_distance:.3f}")),
            _tile(right, RIGHT_RGB, (_photo(right), f"{row.right_distance:.3f}, farther by {row.gap:.3f}")),
        ]
    return tiles, len(confused)


def draw_confusions(title: str, tiles: Sequence[Tile], max_pixels: int) -> Image.Image:
    """The tiles in rows of COLUMNS. Raises UserError for a picture that cannot be read."""
    key = (
        ("video crop", QUERY_RGB),
        ("nearest photo crop: another product", WRONG_RGB),
        ("nearest photo crop of its own product", RIGHT_RGB),
    )
    drawn = []
    with progress_bar(total=len(tiles), title=title.split(":")[0], unit="crop") as bar:
        for tile in tiles:
            drawn.append((_draw(tile, max_pixels), tile.caption))
            bar.update()
    return lay_out(title, key, drawn, CROP, COLUMNS)


def _photo(row: pd.Series) -> str:
    return f"item {row.item_id} photo {row['name']}"


def _tile(row: pd.Series, colour: tuple[int, int, int], caption: Sequence[str]) -> Tile:
    return Tile(row.picture, row[BOX].to_numpy(np.float32), colour, caption)


def _draw(tile: Tile, max_pixels: int) -> Image.Image:
    """The box's pixels in a frame of the tile's colour, CROP x CROP px."""
    image_rgb = read_picture(tile.picture, max_pixels)
    height, width = image_rgb.shape[:2]
    x1, y1, x2, y2 = np.rint(clip_boxes(tile.box_xyxy, width, height)[0]).astype(int)
    crop = Image.fromarray(image_rgb[min(y1, height - 1) : max(y2, y1 + 1), min(x1, width - 1) : max(x2, x1 + 1)])
    side = CROP - 2 * FRAME
    inside = ImageOps.pad(crop, (side, side), Image.Resampling.LANCZOS, PAPER_RGB)
    return ImageOps.expand(inside, FRAME, tile.colour)
