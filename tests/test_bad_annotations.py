"""Bad annotations: `check` lists each, training refuses them, and with data.on_error=skip trains on the rest."""

import json
import shutil
from pathlib import Path

import pytest

import bbox_sub.train
from shared.check import main as check
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from tests.bad_annotations import PHOTOS, VIDEOS, photo
from tests.conftest import PROJECT, data_limits

PHOTO, VIDEO = "train/image/000000/0.jpg", "train/video/000000.mp4"
CHANGES = {"max_annotation_bytes": 50_000}
OVERRIDES = ["data.max_annotation_bytes=50000"]
CASES = [("photo", name) for name in PHOTOS] + [("video", name) for name in VIDEOS]


def annotation(root: Path, media_id: str) -> Path:
    part, kind, *rest = Path(media_id).with_suffix(".json").parts
    return root.joinpath(part, f"{kind}_annotation", *rest)


def lines_of(printed: str) -> list[str]:
    """The faults that `check` printed."""
    lines = printed.splitlines()
    return lines[next(k for k, line in enumerate(lines) if line.startswith("faults: ")) + 1 :]


def run_check(root: Path, capsys) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as ended:
        check(["--data", str(root), "--config", str(PROJECT / "configs" / "tiny.yaml"), *OVERRIDES])
    return ended.value.code, lines_of(capsys.readouterr().out)


def test_nothing_is_wrong_with_what_is_sound(tiny_data, tmp_path, capsys):
    assert run_check(tiny_data, capsys) == (0, [])
    limits = data_limits(**CHANGES)
    assert len(extract_labelled_frames(read_dataset(tiny_data, limits), tmp_path / "work", limits, fresh=False)) == 17


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}, {name}" for kind, name in CASES])
def test_annotation(tiny_data, tmp_path, capsys, kind, name):
    case, media_id = (PHOTOS[name], PHOTO) if kind == "photo" else (VIDEOS[name], VIDEO)
    path = annotation(tiny_data, media_id)
    case.write(path)
    strict, lenient = data_limits(**CHANGES), data_limits(**CHANGES, on_error="skip")
    code, lines = run_check(tiny_data, capsys)
    if case.fault is None:
        assert (code, lines) == (0, [])
        pictures = extract_labelled_frames(read_dataset(tiny_data, strict), tmp_path / "work", strict, fresh=False)
        assert len(pictures) == 17
        return
    [line] = lines
    where, fault = line.split(": ", 1)
    assert code == 1 and where in (str(path), str(tiny_data / media_id)) and case.fault in fault
    with pytest.raises(UserError, match="^1 things in the data set do not fit") as refused:
        extract_labelled_frames(read_dataset(tiny_data, strict), tmp_path / "work", strict, fresh=False)
    assert f"  {line}" in str(refused.value).splitlines()  # the same words as those of `check`
    pictures = extract_labelled_frames(read_dataset(tiny_data, lenient), tmp_path / "work", lenient, fresh=False)
    left_out = json.loads((tmp_path / "work" / "frames" / "left_out.json").read_text())
    assert left_out == [{"path": where, "fault": fault}]
    assert (media_id in set(pictures.media_id)) == case.keeps
    others = pictures[pictures.media_id != media_id]
    assert len(others) == (16 if kind == "photo" else 14)  # all the rest is as it was


@pytest.mark.parametrize("name", ["image/000000/7.json", "video/gone.json", "image/000000/deep/0.json", "image/0.json"])
def test_an_annotation_of_nothing_is_told(tiny_data, capsys, name):
    path = tiny_data / "train" / name.replace("/", "_annotation/", 1)
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"annotations": [], "frames": []}')
    assert run_check(tiny_data, capsys) == (1, [f"{path}: no photo or video belongs to this annotation"])
    assert [problem.path for problem in read_dataset(tiny_data, data_limits()).problems] == [str(path)]


def test_annotations_in_linked_folders_are_read_and_links_in_circles_end(tiny_data, tmp_path, capsys):
    folder = tiny_data / "train" / "image_annotation"
    shutil.move(folder / "000000", tmp_path / "elsewhere")
    (folder / "000000").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(folder)
    (folder / "around").symlink_to(tiny_data / "train")
    code, lines = run_check(tiny_data, capsys)
    assert PHOTO in set(read_dataset(tiny_data, data_limits()).labelled.media_id)
    assert code == 1 and all("no photo or video belongs to this annotation" in line for line in lines)
    assert all("/around/" in line for line in lines) and lines


def test_what_is_of_another_part_does_not_stop_training(tiny_data):
    photo({"label": 3})(annotation(tiny_data, "validation/image/000002/0.jpg"))
    dataset = read_dataset(tiny_data, data_limits())
    of_train = dataset.of_media(dataset.media.part == "train")
    assert len(dataset.problems) == 1 and of_train.problems == []


def test_training_refuses_and_with_skip_trains_on_the_rest(tiny_data, tiny_config, tmp_path, caplog):
    """The whole of stage 1, two iterations."""
    from shared.config import dump_config

    annotation(tiny_data, PHOTO).write_text("{")
    (tiny_data / "train" / "image" / "000001" / "0.jpg").write_bytes(b"no picture")
    (tiny_data / "train" / "image" / "000001" / "empty").mkdir()
    phase = tiny_config.detector_train.phases[0].model_copy(update={"iterations": 2})
    train = tiny_config.detector_train.model_copy(update={"phases": [phase]})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config.model_copy(update={"detector_train": train})))
    arguments = ["--config", str(path), "--data", str(tiny_data), "--work", str(tmp_path / "work")]
    with pytest.raises(UserError, match="things in the data set do not fit") as refused:
        bbox_sub.train.main(arguments)
    assert "0.json" in str(refused.value) and "data.on_error=skip" in str(refused.value)
    assert not (tmp_path / "work" / "weights" / "detector" / "model.json").exists()
    bbox_sub.train.main([*arguments, "data.on_error=skip"])
    assert (tmp_path / "work" / "weights" / "detector" / "model.json").exists()
    left_out = json.loads((tmp_path / "work" / "frames" / "left_out.json").read_text())
    assert sorted(Path(entry["path"]).name for entry in left_out) == ["0.jpg", "0.json", "empty"]
    assert "3 things in the data set do not fit and are left out" in caplog.text
    assert "all are in" in caplog.text
    with pytest.raises(UserError, match="2 things in the data set do not fit"):  # the model that is there was trained without them
        bbox_sub.train.main(arguments)
    trained = (tmp_path / "work" / "weights" / "detector" / "model.json").stat().st_mtime_ns
    bbox_sub.train.main([*arguments, "data.on_error=skip"])  # reuses it
    assert (tmp_path / "work" / "weights" / "detector" / "model.json").stat().st_mtime_ns == trained
