"""Which pictures calibrate: labelled ones before all others, photos and frames by halves."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calibration import calibration_pictures, draw_evenly
from shared.config import FrameList
from shared.errors import UserError
from shared.tables import Dataset, label_table, labelled_table, media_row

FRAMES = FrameList(start=0, stop=20, step=10)


def dataset(root: Path, photos: int, videos: int, labelled: list[tuple[str, int]]) -> Dataset:
    names = [("photo", f"p{k}") for k in range(photos)] + [("video", f"v{k}") for k in range(videos)]
    for _, name in names:
        (root / name).touch()
    media = pd.DataFrame(
        [media_row(root, ".", kind, name, root / name) for kind, name in names],
        columns=["media_id", "kind", "part", "item_id", "name", "path", "bytes", "mtime_ns"],
    )
    return Dataset(media, label_table([]), labelled_table(labelled))


def drawn(table: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(table.media_id, table.frame_index, strict=True))


def test_only_labelled_pictures_are_drawn_where_there_are_any(tmp_path):
    data = dataset(tmp_path, 3, 2, [("p1", 0), ("v0", 7), ("v0", 9)])
    assert drawn(calibration_pictures(data, FRAMES, 10, 0)) == [("p1", 0), ("v0", 7), ("v0", 9)]


def test_without_labels_any_photo_and_the_frames_of_inference(tmp_path):
    data = dataset(tmp_path, 2, 1, [])
    assert drawn(calibration_pictures(data, FRAMES, 10, 0)) == [("p0", 0), ("p1", 0), ("v0", 0), ("v0", 10), ("v0", 20)]


def test_a_set_without_media_is_refused(tmp_path):
    with pytest.raises(UserError, match="no photo or video to calibrate by"):
        calibration_pictures(dataset(tmp_path, 0, 0, []), FRAMES, 10, 0)


def test_the_seed_decides(tmp_path):
    data = dataset(tmp_path, 50, 20, [])
    tables = [drawn(calibration_pictures(data, FRAMES, 10, seed)) for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))
def test_halves_as_far_as_there_are(n_photos, n_frames, n_rows):
    rows = pd.DataFrame({"kind": ["photo"] * n_photos + ["video"] * n_frames, "place": range(n_photos + n_frames)})
    drawn = draw_evenly(rows, n_rows, 0)
    assert len(drawn) == min(n_rows, len(rows)) == drawn.place.nunique()
    photos = int((drawn.kind == "photo").sum())
    frames = len(drawn) - photos
    # Neither kind is below its half unless it has no more.
    assert photos >= min(n_photos, n_rows // 2) and frames >= min(n_frames, n_rows // 2)
