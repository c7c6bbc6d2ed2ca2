"""The step media/: sizes, what cannot be read, and when it is made again."""

import pytest
from PIL import Image

from shared.catalogue import COLUMNS, catalogue_media
from shared.dataset import read_media
from shared.errors import UserError
from tests.conftest import data_limits
from tests.drawing import HEIGHT, N_FRAMES, WIDTH

MANY, FEWER = data_limits(max_pixels=10**8), data_limits(max_pixels=10**8 - 1)


def test_every_medium_with_its_size(tiny_data, tmp_path):
    step = catalogue_media(tiny_data, tmp_path / "work", MANY, fresh=False)
    table = step.table("table")
    assert step.folder == tmp_path / "work" / "media" and list(table) == list(COLUMNS)
    assert table.media_id.tolist() == read_media(tiny_data).media_id.tolist()
    assert set(zip(table.width, table.height, strict=True)) == {(WIDTH, HEIGHT)}
    assert table.n_frames.tolist() == [N_FRAMES if kind == "video" else 1 for kind in table.kind]
    assert table.fps.tolist() == [25.0 if kind == "video" else 0.0 for kind in table.kind]
    assert step.manifest["skipped"] == [] and step.manifest["rows"] == 11


def test_what_cannot_be_read_is_on_record_and_left_out(tiny_data, tmp_path):
    (tiny_data / "train/image/000000/0.jpg").write_bytes(b"no picture")
    (tiny_data / "train/video/000001.mp4").write_bytes(b"")
    Image.new("RGB", (200, 100)).save(tiny_data / "validation/image/000002/0.jpg")
    step = catalogue_media(tiny_data, tmp_path / "work", data_limits(max_pixels=WIDTH * HEIGHT), fresh=False)
    reasons = {entry["media_id"]: entry["reason"] for entry in step.manifest["skipped"]}
    assert sorted(reasons) == ["train/image/000000/0.jpg", "train/video/000001.mp4", "validation/image/000002/0.jpg"]
    assert "200 x 100 pixels" in reasons["validation/image/000002/0.jpg"]
    assert not set(reasons) & set(step.table("table").media_id) and len(step.table("table")) == 8


def test_reused_until_a_file_changes(tiny_data, tmp_path):
    first = catalogue_media(tiny_data, tmp_path / "work", MANY, fresh=False)
    assert not first.done  # it was built
    assert catalogue_media(tiny_data, tmp_path / "work", MANY, fresh=False).done
    assert not catalogue_media(tiny_data, tmp_path / "work", FEWER, fresh=False).done
    Image.new("RGB", (32, 16)).save(tiny_data / "train/image/000000/0.jpg")
    table = catalogue_media(tiny_data, tmp_path / "work", FEWER, fresh=False).table("table").set_index("media_id")
    assert tuple(table.loc["train/image/000000/0.jpg", ["width", "height"]]) == (32, 16)


def test_nothing_readable_gives_a_table_without_rows(tmp_path):
    (tmp_path / "data/image/a").mkdir(parents=True)
    (tmp_path / "data/image/a/0.jpg").write_bytes(b"none")
    step = catalogue_media(tmp_path / "data", tmp_path / "work", MANY, fresh=False)
    assert step.table("table").empty and list(step.table("table")) == list(COLUMNS)


def test_no_data_is_refused(tmp_path):
    with pytest.raises(UserError):
        catalogue_media(tmp_path / "nowhere", tmp_path / "work", MANY, fresh=False)
