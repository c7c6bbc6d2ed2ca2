"""The step media/: sizes, what cannot be read, and when it is made again."""

import json

import pytest
from PIL import Image

from shared.catalogue import COLUMNS, catalogue_media, tell_skipped
from shared.dataset import read_media
from shared.errors import UserError
from shared.media import MediaError
from shared.reader import Reader
from shared.work import worth_another_try
from tests.conftest import data_limits
from tests.drawing import HEIGHT, N_FRAMES, WIDTH
from tests.limits import LIMITS

MANY, FEWER = data_limits(max_pixels=10**8), data_limits(max_pixels=10**8 - 1)


def fail_at(monkeypatch, lost):
    """Has the reader fail at these media for a reason that may pass; the list is of those that it is asked for from then on."""
    asked = []
    for name in ("probe_photo", "probe_video"):
        probe = getattr(Reader, name)

        def failing(self, path, probe=probe):
            asked.append(media_id := path.partition("/tiny_data/")[2])
            if media_id in lost:
                raise MediaError("took too long", again=True)
            return probe(self, path)

        monkeypatch.setattr(Reader, name, failing)
    return asked


def catalogue(data, work, limits, strict=False):
    return catalogue_media(data, work, limits, fresh=False, strict=strict)


def test_every_medium_with_its_size(tiny_data, tmp_path):
    step = catalogue(tiny_data, tmp_path / "work", MANY)
    table = step.table("table")
    assert step.folder == tmp_path / "work" / "media" and list(table) == list(COLUMNS)
    assert table.media_id.tolist() == read_media(tiny_data, LIMITS)[0].media_id.tolist()
    assert set(zip(table.width, table.height, strict=True)) == {(WIDTH, HEIGHT)}
    assert table.n_frames.tolist() == [N_FRAMES if kind == "video" else 1 for kind in table.kind]
    assert table.fps.tolist() == [25.0 if kind == "video" else 0.0 for kind in table.kind]
    assert step.manifest["skipped"] == [] and step.manifest["rows"] == 11


def test_what_cannot_be_read_is_on_record_and_left_out(tiny_data, tmp_path):
    (tiny_data / "train/image/000000/0.jpg").write_bytes(b"no picture")
    (tiny_data / "train/video/000001.mp4").write_bytes(b"")
    Image.new("RGB", (200, 100)).save(tiny_data / "validation/image/000002/0.jpg")
    step = catalogue(tiny_data, tmp_path / "work", data_limits(max_pixels=WIDTH * HEIGHT))
    reasons = {entry["media_id"]: entry["reason"] for entry in step.manifest["skipped"]}
    assert sorted(reasons) == ["train/image/000000/0.jpg", "train/video/000001.mp4", "validation/image/000002/0.jpg"]
    assert "200 x 100 pixels" in reasons["validation/image/000002/0.jpg"]
    assert not set(reasons) & set(step.table("table").media_id) and len(step.table("table")) == 8


def test_reused_until_a_file_changes(tiny_data, tmp_path):
    first = catalogue(tiny_data, tmp_path / "work", MANY)
    assert not first.done  # it was built
    assert catalogue(tiny_data, tmp_path / "work", MANY).done
    assert not catalogue(tiny_data, tmp_path / "work", FEWER).done
    Image.new("RGB", (32, 16)).save(tiny_data / "train/image/000000/0.jpg")
    table = catalogue(tiny_data, tmp_path / "work", FEWER).table("table").set_index("media_id")
    assert tuple(table.loc["train/image/000000/0.jpg", ["width", "height"]]) == (32, 16)


def test_a_file_that_was_not_decoded_in_time_is_tried_again_and_no_other(tiny_data, tmp_path, monkeypatch):
    (tiny_data / "train/image/000000/0.jpg").write_bytes(b"no picture")
    whole = catalogue(tiny_data, tmp_path / "whole", MANY)
    late = "train/video/000001.mp4", "validation/image/000002/0.jpg"
    with monkeypatch.context() as patched:
        fail_at(patched, late)
        first = catalogue(tiny_data, tmp_path / "work", MANY)
        assert sorted(worth_another_try(first.manifest["skipped"])) == sorted(late)
        manifest = (first.folder / "manifest.json").read_bytes()
        assert catalogue(tiny_data, tmp_path / "work", MANY).table("table").equals(first.table("table"))
        assert (first.folder / "manifest.json").read_bytes() == manifest
    asked = fail_at(monkeypatch, ())
    again = catalogue(tiny_data, tmp_path / "work", MANY)
    assert again.done and sorted(asked) == sorted(late)
    assert again.manifest["skipped"] == whole.manifest["skipped"] != [] and again.fingerprint == whole.fingerprint
    assert (again.folder / "table.parquet").read_bytes() == (whole.folder / "table.parquet").read_bytes()
    assert catalogue(tiny_data, tmp_path / "work", MANY).done and len(asked) == 2


def test_files_that_come_back_as_they_were_are_read(tiny_data, tmp_path, monkeypatch):
    listed = read_media(tiny_data, MANY)
    monkeypatch.setattr("shared.catalogue.read_media", lambda *_: listed)
    tiny_data.rename(tmp_path / "unmounted")  # after the listing
    assert catalogue(tiny_data, tmp_path / "work", MANY).table("table").empty
    (tmp_path / "unmounted").rename(tiny_data)
    assert len(catalogue(tiny_data, tmp_path / "work", MANY).table("table")) == 11


def test_skipped_json_tells_step_medium_and_reason(tiny_data, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        fail_at(patched, ["train/video/000001.mp4"])
        catalogue(tiny_data, tmp_path, MANY)
        tell_skipped(tmp_path)
        with pytest.raises(UserError, match="took too long.*--strict"):
            catalogue(tiny_data, tmp_path, MANY, strict=True)
    listed = json.loads((tmp_path / "skipped.json").read_text())
    assert listed == [{"step": "media", "media_id": "train/video/000001.mp4", "reason": "took too long"}]
    assert "the next run tries 1 of them again" in caplog.text
    assert len(catalogue(tiny_data, tmp_path, MANY, strict=True).table("table")) == 11  # it is tried before it is refused


def test_nothing_readable_gives_a_table_without_rows(tmp_path):
    (tmp_path / "data/image/a").mkdir(parents=True)
    (tmp_path / "data/image/a/0.jpg").write_bytes(b"none")
    step = catalogue(tmp_path / "data", tmp_path / "work", MANY)
    assert step.table("table").empty and list(step.table("table")) == list(COLUMNS)


def test_no_data_is_refused(tmp_path):
    with pytest.raises(UserError):
        catalogue(tmp_path / "nowhere", tmp_path / "work", MANY)
