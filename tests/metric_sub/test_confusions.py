"""The sheet of confusions: which come on it, in which order, and that every crop is the box's own pixels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metric_sub.confusions import (
    COLUMNS,
    CROP,
    FRAME,
    QUERY_RGB,
    RIGHT_RGB,
    WRONG_RGB,
    draw_confusions,
    worst_confusions,
)
from tests.limits import LIMITS

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 30), (20, 30, 210)


@pytest.fixture
def boxes(tmp_path):
    """Rows 0 to 2: photo boxes of items i, j, k. Rows 3 to 8: frames of videos v, w (a query of it is right), x."""
    path = tmp_path / "scene.png"
    image = np.zeros((60, 120, 3), np.uint8)
    for k, colour in enumerate((RED, GREEN, BLUE)):
        image[:, 40 * k : 40 * k + 40] = colour
    Image.fromarray(image).save(path)
    rows = [
        *((f"image/{item}/0.png", "photo", item, "0", 0, k) for k, item in enumerate("ijk")),
        *(("video/v.mp4", "photo", "v", "v", frame, 0) for frame in (80, 120, 160)),
        *(("video/w.mp4", "photo", "w", "w", frame, 1) for frame in (80, 120)),
        ("video/x.mp4", "photo", "x", "x", 80, 2),
    ]
    table = pd.DataFrame(rows, columns=["media_id", "kind", "item_id", "name", "frame_index", "third"])
    # A photo stands for each frame here, so that nothing has to be decoded.
    return table.assign(
        path=str(path), item_kind=[""] * 3 + list("PPPCCM"), x1=40 * table.third, y1=0, x2=40 * table.third + 40, y2=60
    )


FOUND = pd.DataFrame(
    {  # of the six queries
        "right": [0, 0, 0, 1, 1, 2],
        "wrong": [1, 2, 1, 0, 0, 1],
        "right_distance": np.float32([1.0, 0.9, 1.1, 0.5, 0.8, 1.0]),
        "wrong_distance": np.float32([0.5, 0.8, 0.9, 0.9, 0.7, 0.9]),
    }
)


def confusions(boxes, n=10):
    return worst_confusions(boxes, np.arange(3, 9), np.arange(3), FOUND, n)


def test_the_widest_gap_comes_first_and_a_video_twice_at_most(boxes):
    tiles, n_all = confusions(boxes)
    # Gaps: v 0.5, 0.1, 0.2; w -0.4 (right), 0.1; x 0.1. The third of v is left out; w and x are as they come.
    assert n_all == 5 and len(tiles) == 12
    assert [tile.place for tile in tiles] == [3, 1, 0, 5, 1, 0, 7, 0, 1, 8, 1, 2]
    assert [tile.colour for tile in tiles[:3]] == [QUERY_RGB, WRONG_RGB, RIGHT_RGB]
    assert [tile.caption for tile in tiles[:3]] == [
        ("video v frame 80", "P"),
        ("item j photo 0", "0.500"),
        ("item i photo 0", "1.000, farther by 0.500"),
    ]
    assert [tile.place for tile in confusions(boxes, 1)[0]] == [3, 1, 0]


def test_every_crop_shows_its_box(boxes):
    tiles, _ = confusions(boxes, 1)
    sheet = np.array(draw_confusions("Confusions: 1 of 5", tiles, boxes, LIMITS))
    middles = []
    for tile in tiles:  # its frame is the only thing of that colour and as wide as a crop
        rows, columns = np.nonzero((sheet == tile.colour).all(axis=2))
        middle = rows.max() - CROP // 2, columns[rows == rows.max()].min() + CROP // 2
        middles.append(tuple(sheet[middle].tolist()))
        assert np.ptp(columns[rows == rows.max()]) == CROP - 1 and FRAME < CROP / 2
    assert middles == [RED, GREEN, RED]


def test_none_and_what_cannot_be_read(boxes):
    tiles, _ = confusions(boxes, 2)
    empty = draw_confusions("Confusions: 0 of 0", [], boxes, LIMITS)
    blank = draw_confusions("Confusions: 2 of 5", tiles, boxes.assign(path="gone.png"), LIMITS)
    assert empty.height < CROP and blank.height > CROP and len(tiles) == COLUMNS
