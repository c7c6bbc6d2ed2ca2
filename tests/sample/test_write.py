"""The files: layout, annotations, equal bytes for equal seeds, and what is refused."""

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sample.__main__ import main
from sample.catalogue import plan_items
from sample.write import FOLDERS, Settings, write_dataset, write_item
from shared.dataset import read_dataset
from shared.errors import UserError
from tests.limits import LIMITS

SETTINGS = Settings(items=12, seed=4, frames=22)
ANNOTATION_KEYS = ["label", "viewpoint", "display", "instance_id", "box"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "data"
    write_dataset(root, SETTINGS)
    return root


@pytest.fixture(scope="module")
def entries(root) -> list[dict]:
    return json.loads((root / "items.json").read_text(encoding="utf-8"))


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def files_of(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def same_content(a: Path, b: Path) -> bool:
    if a.suffix == ".mp4":
        return np.array_equal(decoded(a), decoded(b))
    return a.read_bytes() == b.read_bytes()


def test_layout(root, entries):
    assert sorted(path.name for path in root.iterdir()) == ["items.json", "sample.json", "test", "train", "validation"]
    for part in ("train", "validation", "test"):
        assert sorted(path.name for path in (root / part).iterdir()) == sorted(FOLDERS)
        mine = [entry for entry in entries if entry["part"] == part]
        photos = sorted(entry["item_id"] for entry in mine if entry["item_id"])
        videos = sorted(entry.get("video_id") or entry["item_id"] for entry in mine if entry["has_video"])
        for folder, suffix, names in (
            ("image", "", photos),
            ("image_annotation", "", photos),
            ("image_text", ".txt", photos),
            ("video", ".mp4", videos),
            ("video_annotation", ".json", videos),
            ("video_text", ".txt", videos),
        ):
            assert sorted(path.name for path in (root / part / folder).iterdir()) == [name + suffix for name in names]
    assert sum(bool(entry["item_id"]) for entry in entries) == SETTINGS.items


def test_items_without_video_and_videos_without_item(entries):
    kinds = {entry["kind"] for entry in entries}
    assert {"D", "N"} < kinds
    for entry in entries:
        assert entry["has_video"] == (entry["kind"] != "D")
        assert (entry["item_id"] == "") == (entry["kind"] == "N") == ("video_id" in entry)


def test_photo_annotations(root, entries):
    for entry in entries:
        folder = root / entry["part"] / "image" / (entry["item_id"] or "none")
        names = sorted(path.stem for path in folder.glob("*.jpg"))
        assert not entry["item_id"] or names == [str(i) for i in range(len(names))] and 2 <= len(names) <= 4
        for name in names:
            content = json.loads(
                (root / entry["part"] / "image_annotation" / entry["item_id"] / f"{name}.json").read_text()
            )
            height, width = cv2.imread(str(folder / f"{name}.jpg")).shape[:2]
            assert list(content) == ["item_id", "img_name", "annotations"]
            assert (content["item_id"], content["img_name"]) == (entry["item_id"], f"{name}.jpg")
            (annotation,) = content["annotations"]
            assert list(annotation) == ANNOTATION_KEYS
            assert annotation["instance_id"] == int("2" + entry["item_id"][1:] + "01")
            x1, y1, x2, y2 = annotation["box"]
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_video_annotations(root, entries):
    for entry in entries:
        if not entry["has_video"]:
            continue
        video_id = entry.get("video_id") or entry["item_id"]
        content = json.loads((root / entry["part"] / "video_annotation" / f"{video_id}.json").read_text())
        frames = decoded(root / entry["part"] / "video" / f"{video_id}.mp4")
        assert len(frames) == SETTINGS.frames and frames[0].shape == (512, 288, 3)
        assert list(content) == ["video_id", "frames"] and content["video_id"] == video_id
        assert [frame["frame_index"] for frame in content["frames"]] == [0, 20]
        for annotation in (a for frame in content["frames"] for a in frame["annotations"]):
            assert list(annotation) == ANNOTATION_KEYS
            assert annotation["instance_id"] in (0, int("2" + entry["item_id"][1:] + "01") if entry["item_id"] else 0)
            x1, y1, x2, y2 = annotation["box"]
            assert 0 <= x1 < x2 <= 288 and 0 <= y1 < y2 <= 512


def test_videos_are_h264_at_25_fps(root):
    with av.open(str(next((root / "train" / "video").iterdir()))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.codec_context.pix_fmt) == ("h264", 25, "yuv420p")


def test_the_projects_reader_finds_nothing_wrong(root, entries):
    dataset = read_dataset(root, LIMITS)
    assert not dataset.problems
    assert set(dataset.labels.product_id) - {""} <= {entry["item_id"] for entry in entries}
    assert set(dataset.media.part) == {"train", "validation", "test"}


def test_workers_change_nothing(root, tmp_path):
    write_dataset(tmp_path / "two", SETTINGS, workers=2)
    assert files_of(root) == files_of(tmp_path / "two")
    assert all(same_content(root / path, tmp_path / "two" / path) for path in files_of(root))


def test_another_seed_draws_another_item(root, tmp_path):
    other = Settings(items=12, seed=5, frames=22)
    item = next(item for item in plan_items(12, 5, other.difficulty) if item.video_id)
    for folder in FOLDERS:
        (tmp_path / item.part / folder).mkdir(parents=True)
    write_item(tmp_path, item, other)
    for path in (f"image/{item.item_id}/0.jpg", f"video/{item.video_id}.mp4"):
        assert (root / item.part / path).is_file() and not same_content(
            root / item.part / path, tmp_path / item.part / path
        )


def test_an_interrupted_run_goes_on(root):
    done = root / "test" / "video_text"
    lost = sorted(done.iterdir())[0]
    text, times = (
        lost.read_text(),
        {path: (root / path).stat().st_mtime_ns for path in files_of(root) if lost.stem not in path.as_posix()},
    )
    lost.unlink()
    write_dataset(root, SETTINGS)
    assert lost.read_text() == text
    assert all((root / path).stat().st_mtime_ns == time for path, time in times.items() if path.name != "items.json")


def test_other_settings_replace_an_earlier_sample(tmp_path):
    earlier = tmp_path / "train" / "image" / "019999"
    earlier.mkdir(parents=True)
    (tmp_path / "sample.json").write_text('{"made_by": "python -m sample", "settings": {}}')
    write_dataset(tmp_path, Settings(items=10, seed=0, frames=1))
    assert not earlier.exists() and (tmp_path / "items.json").is_file()


def test_a_folder_of_somebody_else_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "holiday.jpg").write_bytes(b"1")
    with pytest.raises(UserError, match="not a sample"):
        main([str(tmp_path), "--items", "10"])
    assert capsys.readouterr().out == ""
    assert files_of(tmp_path) == [Path("holiday.jpg")]


@pytest.mark.parametrize("settings", [Settings(items=3), Settings(items=10**6), Settings(frames=0), Settings(seed=-1)])
def test_settings_out_of_range_are_refused(tmp_path, settings):
    with pytest.raises(UserError, match="expected"):
        write_dataset(tmp_path / "new", settings)
    assert not (tmp_path / "new").exists()
