"""The units of a media table, and how little many of them take."""

import tracemalloc

import pandas as pd

from shared.units import units_of


def media(*rows):
    return pd.DataFrame(rows, columns=["kind", "item_id", "name"])


def test_photos_of_an_item_and_each_video_in_the_tables_order():
    table = media(
        ("photo", "b", "0.jpg"), ("photo", "b", "1.jpg"), ("video", "b", "b.mp4"), ("photo", "a", "0.jpg"), ("video", "a", "a.mp4")
    )
    found = [(unit.kind, unit.number, unit.media.index.tolist(), unit.media.values.tolist()) for unit in units_of(table)]
    assert found == [
        ("photos", 0, [0, 1], [["photo", "b", "0.jpg"], ["photo", "b", "1.jpg"]]),
        ("photos", 1, [0], [["photo", "a", "0.jpg"]]),
        ("videos", 0, [0], [["video", "b", "b.mp4"]]),
        ("videos", 1, [0], [["video", "a", "a.mp4"]]),
    ]
    assert units_of(table[:0]) == []


def test_many_units_take_no_more_than_their_places():
    table = media(*(("photo", f"{k // 2:06d}", f"{k}.jpg") for k in range(20_000)))
    tracemalloc.start()
    units = units_of(table)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(units) == 10_000 and taken < 1000 * len(units)  # a table of its own for each: seven times that
