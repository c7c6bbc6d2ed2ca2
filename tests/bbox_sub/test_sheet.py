"""Contact sheets: which mistakes come on them, in which order, and that what is drawn is where it belongs."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bbox_sub.hits import assign_hits
from bbox_sub.mistakes import PER_MEDIUM, worst_false_alarms, worst_misses
from bbox_sub.sheet import BELOW_RGB, COLUMNS, CROP, FOUND_RGB, LABELLED_RGB, Tile, draw_crop, draw_sheet
from shared.errors import UserError
from tests.bbox_sub.test_hits import found_table, truth_table

NO_BOXES, NO_SCORES = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)


def square(x, y, side):
    return x, y, x + side, y + side


@pytest.fixture
def tables():
    """Two videos of three frames, a threshold of 0.5; with every kind of miss and of false alarm."""
    truth = truth_table(
        (0, 1, square(0, 0, 50)),  # found at 0.3
        (0, 1, square(100, 0, 40)),  # IoU 0.25 at 0.9
        (1, 1, square(0, 0, 30)),  # nothing there
        (2, 1, square(0, 0, 90)),  # the third of its video
        (3, 2, square(0, 0, 20)),  # found
        (3, 2, square(5, 0, 20)),  # IoU 0.6, but that box is another's
    )
    found = found_table(
        (0, 1, square(0, 0, 50), 0.3),
        (0, 1, square(100, 0, 20), 0.9),
        (3, 2, square(0, 0, 20), 0.8),
        (4, 1, square(50, 50, 9), 0.6),
        (5, 1, square(50, 50, 9), 0.95),
        (5, 1, square(90, 90, 9), 0.2),
    )
    pictures = pd.DataFrame(
        {
            "media_id": ["a"] * 2 + ["b"] * 4,
            "title": [f"frame {k}" for k in range(6)],
            "picture": "picture.png",
            "threshold": 0.5,
        }
    )
    return pictures, *assign_hits(truth, found, 0.5)


def test_the_worst_misses_are_the_largest_and_tell_why(tables):
    tiles, n_all = worst_misses(*tables, ["top", "bag"], 10)
    assert n_all == 5
    assert [tile.caption for tile in tiles] == [
        ("top: no box of its class", "frame 2"),
        ("top: found at 0.30, threshold 0.5", "frame 0"),
        ("top: IoU 0.25, score 0.90", "frame 0"),
        ("bag: IoU 0.60, score 0.80, another's", "frame 3"),
    ][: len(tiles)]  # frame 1 is the third of its video
    assert len(tiles) == 4 and PER_MEDIUM == 2
    assert tiles[1].focus_xyxy.tolist() == [0, 0, 50, 50] and len(tiles[1].labelled_xyxy) == 2
    assert tiles[1].scores.tolist() == pytest.approx([0.3, 0.9])
    assert len(worst_misses(*tables, ["top", "bag"], 1)[0]) == 1


def test_the_worst_false_alarms_are_the_best_scored(tables):
    tiles, n_all = worst_false_alarms(*tables, ["top", "bag"], 10)
    assert n_all == 3
    assert [tile.caption for tile in tiles] == [
        ("top 0.95: no label under it", "frame 5"),
        ("top 0.90: IoU 0.25 with a label", "frame 0"),
        ("top 0.60: no label under it", "frame 4"),
    ]


def test_boxes_are_drawn_where_they_are(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (400, 300), (100, 100, 100)).save(path)
    # 100 x 100 px with 60 + 24 px on each side: a crop of 268 px, of which each px becomes CROP / 268.
    labelled, kept, below = square(150, 100, 100), square(300, 90, 10), square(100, 220, 20)
    tile = Tile(
        str(path),
        np.float32(labelled),
        np.float32([labelled]),
        np.float32([kept, below]),
        np.float32([0.7, 0.2]),
        0.5,
        (),
    )
    crop = np.array(draw_crop(tile, 10**6))
    assert crop.shape == (CROP, CROP, 3)
    for box, colour in ((labelled, LABELLED_RGB), (kept, FOUND_RGB), (below, BELOW_RGB)):
        rows, columns = np.nonzero((crop == colour).all(axis=2))
        corners = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        expected = (np.array(box) - [66, 16, 66, 16]) * CROP / 268
        np.testing.assert_allclose(corners, expected, atol=1)


@pytest.mark.parametrize(
    "focus", [(-5, -5, 3, 3), (0, 0, 40, 1), (39, 29, 40, 30), (0, 0, 40, 30), (10, 10, 10.2, 10.2)]
)
def test_a_box_of_any_shape_at_any_edge(tmp_path, focus):
    path = tmp_path / "small.png"
    Image.new("RGB", (40, 30)).save(path)
    tile = Tile(str(path), np.float32(focus), np.float32([focus]), np.float32([focus]), np.float32([0.9]), 0.5, ())
    assert draw_crop(tile, 10**6).size == (CROP, CROP)


def test_a_sheet_has_rows_of_tiles_and_names_of_any_script(tmp_path):
    path = tmp_path / "短袖.png"
    Image.new("RGB", (40, 30)).save(path)
    caption = ("短袖: no box of its class", "very/" * 30 + "短袖.png")
    tile = Tile(str(path), np.float32([5, 5, 20, 20]), NO_BOXES, NO_BOXES, NO_SCORES, 0.5, caption)
    one, two = (draw_sheet("Misses: 1 of 1", [tile] * n, 10**6) for n in (1, COLUMNS + 1))
    assert one.width == two.width and two.height - one.height > CROP
    assert draw_sheet("Misses: 0 of 0", [], 10**6).height < CROP


def test_a_picture_that_is_gone_is_named(tmp_path):
    tile = Tile(str(tmp_path / "gone.png"), np.float32([0, 0, 5, 5]), NO_BOXES, NO_BOXES, NO_SCORES, 0.5, ())
    with pytest.raises(UserError, match=r"gone\.png"):
        draw_sheet("Misses", [tile], 10**6)
