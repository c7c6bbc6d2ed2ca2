"""Labelled frames as picture files, against the frames that were drawn."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from shared.dataset import read_dataset
from shared.errors import UserError
from shared.frames import extract_labelled_frames, read_picture, write_jpeg
from shared.media import MediaError
from shared.reader import Reader
from tests.conftest import data_limits
from tests.drawing import LABELLED_FRAMES, numbered_frame
from tests.limits import LENIENT, LIMITS

MANY = 10**8


def extract(data, work, limits=LIMITS, fresh=False):
    return extract_labelled_frames(read_dataset(data, limits), work, limits, fresh)


def test_every_labelled_photo_and_frame_gets_its_picture(tiny_data, tmp_path):
    pictures = extract(tiny_data, tmp_path / "work")
    assert list(pictures) == ["media_id", "frame_index", "picture"]
    assert len(pictures) == 8 + 3 * len(LABELLED_FRAMES)
    assert pictures.sort_values(["media_id", "frame_index"]).index.tolist() == list(range(len(pictures)))
    photos = pictures[pictures.media_id.str.contains("/image/")]
    assert photos.picture.tolist() == [str(tiny_data / media_id) for media_id in photos.media_id]
    labels = read_dataset(tiny_data, LIMITS).labels.set_index(["media_id", "frame_index"])
    for row in pictures[pictures.media_id.str.endswith(".mp4")].itertuples():
        image = read_picture(row.picture, MANY).astype(int)
        x1, y1, x2, y2 = labels.loc[[(row.media_id, row.frame_index)], ["x1", "y1", "x2", "y2"]].iloc[0].astype(int)
        assert image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > 90  # the bright product stands where its label says
        around = image.copy()
        around[y1 - 4 : y2 + 4, x1 - 4 : x2 + 4] = 0
        assert around.max() < 110


def test_frames_are_cut_out_once(tiny_data, tmp_path):
    first = extract(tiny_data, tmp_path / "work")
    times = [(tmp_path / path).stat().st_mtime_ns for path in first.picture]
    again = extract(tiny_data, tmp_path / "work")
    assert again.equals(first)
    assert [(tmp_path / path).stat().st_mtime_ns for path in again.picture] == times


def test_other_labels_cut_out_anew(tiny_data, tmp_path):
    extract(tiny_data, tmp_path / "work")
    path = tiny_data / "train/video_annotation/000000.json"
    path.write_text(json.dumps({"video_id": "000000", "frames": [{"frame_index": 5, "annotations": []}]}))
    pictures = extract(tiny_data, tmp_path / "work")
    assert pictures[pictures.media_id == "train/video/000000.mp4"].frame_index.tolist() == [5]


def test_frames_that_a_video_lacks_are_left_out_and_on_record(tiny_data, tmp_path):
    path = tiny_data / "train/video_annotation/000000.json"
    frames = [{"frame_index": k, "annotations": []} for k in (4, 23, 24, 400)]
    path.write_text(json.dumps({"video_id": "000000", "frames": frames}))
    (tiny_data / "train/video/000001.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="2 things in the data set do not fit") as caught:
        extract(tiny_data, tmp_path / "work")
    assert "000000.mp4: the video has no frames [24, 400]" in str(caught.value)
    assert not (tmp_path / "work/frames/left_out.json").exists()
    pictures = extract(tiny_data, tmp_path / "work", LENIENT)
    assert pictures[pictures.media_id == "train/video/000000.mp4"].frame_index.tolist() == [4, 23]
    assert not (pictures.media_id == "train/video/000001.mp4").any()
    left_out = json.loads((tmp_path / "work/frames/left_out.json").read_text())
    faults = {entry["path"].removeprefix(f"{tiny_data}/"): entry["fault"] for entry in left_out}
    assert len(faults) == 2 and "[24, 400]" in faults["train/video/000000.mp4"]
    assert "not a readable video" in faults["train/video/000001.mp4"]


def test_training_goes_on_once_the_files_decode(tiny_data, tmp_path):
    whole = extract(tiny_data, tmp_path / "whole")
    with pytest.raises(UserError, match="not decoded within data.seconds_per_file"):
        extract(tiny_data, tmp_path / "work", data_limits(seconds_per_file=1e-6))
    again = extract(tiny_data, tmp_path / "work")
    assert again.picture.str.replace("/work/", "/whole/").tolist() == whole.picture.tolist()
    for path in (tmp_path / "whole" / "frames").rglob("*.*"):
        if path.is_file() and path.name != "manifest.json":
            other = tmp_path / "work" / "frames" / path.relative_to(tmp_path / "whole" / "frames")
            assert other.read_bytes() == path.read_bytes()


def test_only_what_may_decode_now_is_tried_again(tiny_data, tmp_path, monkeypatch):
    (tiny_data / "train/image/000001/0.jpg").write_bytes(b"no picture")
    whole = extract(tiny_data, tmp_path / "whole", LENIENT)
    late, asked, ask, photo = "train/video/000000.mp4", [], Reader.frames, Reader.ask_photo

    def breaks_off(answer):
        yield from itertools.islice(answer, 1)
        raise MediaError("took too long", again=True)

    def ask_late(self, path, indices):
        answer = ask(self, path, indices)
        return breaks_off(answer) if path.endswith(late) else answer

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "frames", ask_late)
        extract(tiny_data, tmp_path / "work", LENIENT)
    monkeypatch.setattr(Reader, "frames", lambda *given: asked.append(given[1]) or ask(*given))
    monkeypatch.setattr(Reader, "ask_photo", lambda *given: asked.append(given[1]) or photo(*given))
    again = extract(tiny_data, tmp_path / "work", LENIENT)
    assert asked == [str(tiny_data / late)]
    assert again.picture.str.replace("/work/", "/whole/").tolist() == whole.picture.tolist()
    tables = [(tmp_path / name / "frames" / "table.parquet").read_bytes() for name in ("work", "whole")]
    assert tables[0] == tables[1]


def test_annotations_that_do_not_fit_stop_the_step(tiny_data, tmp_path):
    path = tiny_data / "train/image_annotation/000000/0.json"
    path.write_text(json.dumps({"annotations": [{"label": "top", "instance_id": 0, "box": [9, 9, 1, 1]}]}))
    with pytest.raises(UserError, match="1 things in the data set do not fit") as caught:
        extract(tiny_data, tmp_path / "work")
    assert str(path) in str(caught.value)


def test_at_most_twenty_faults_are_listed(tiny_data, tmp_path):
    fault = {"label": "top", "instance_id": 0, "box": [9, 9, 1, 1]}
    (tiny_data / "train/image_annotation/000000/0.json").write_text(json.dumps({"annotations": [fault] * 30}))
    with pytest.raises(UserError, match="30 things in the data set") as caught:
        extract(tiny_data, tmp_path / "work")
    assert len(str(caught.value).splitlines()) == 22 and str(caught.value).endswith("and 10 more")


def test_nothing_labelled_is_told(tmp_path):
    (tmp_path / "data/image/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data/image/a/0.jpg")
    with pytest.raises(UserError, match="no annotated photo or frame"):
        extract(tmp_path / "data", tmp_path / "work")


def test_a_training_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(UserError, match=r"a\.jpg"):
        read_picture(str(tmp_path / "a.jpg"), MANY)


def test_jpegs_keep_colours_and_their_order(tmp_path):
    image = numbered_frame(0b0110)
    image[image[..., 0] > 0] = (250, 20, 90)
    write_jpeg(tmp_path / "a.jpg", image)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "JPEG"
        assert (
            np.abs(np.asarray(picture).astype(int) - image).max() <= 8
        )  # also at the edges: colours are not subsampled
