"""Bad pictures and videos, from end to end: one inference over all of them, beside what is sound."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

import bbox_sub.infer
import metric_sub.infer
from bbox_sub.detector import build_detector
from metric_sub.embedder import build_embedder, save_embedder
from shared.config import dump_config, load_config
from shared.errors import UserError
from shared.weights import save_weights
from shared.work import worth_another_try
from tests.bad_media import PHOTOS, VIDEOS, picture, small_video
from tests.conftest import PROJECT

OVERRIDES = [
    "threads=1",
    "data.max_frames=200",
    "frames={start: 8, stop: 16, step: 8}",
    "detector.backbone=ese_vovnet19b_slim_dw",
    "detector.pyramid_channels=16",
    "detector.box_head_features=32",
    "detect.photo_score=0.0",
    "detect.video_score=0.0",
    "embedders=[{name: a, seed: 0, backbone: resnet10t, pretrained: false, input_size: 64, aspect_groups: 5, epochs: 1, batch_size: 4, memory: 0, train: {}}]",
    "embed.dimension=16",
    "match.max_distance=2.0",
]


@dataclass(frozen=True)
class Run:
    """What an inference left. skipped: media_id -> (step, reason). tables: step -> table. messages: what it logged."""

    work: Path
    skipped: dict[str, tuple[str, str]]
    tables: dict[str, pd.DataFrame]
    messages: list[str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Networks with random weights: what is tested is what becomes of the files."""
    config = load_config(PROJECT / "configs" / "tiny.yaml", OVERRIDES)
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    net = build_detector(config.detector, load_pretrained=False)
    save_weights(folder / "detector", net, {"kind": "detector", "architecture": config.detector.model_dump()})
    for model in config.embedders:
        net = build_embedder(model, config.embed, load_pretrained=False)
        save_embedder(folder / model.name, [net], model, config.embed, {}, 0)
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


def infer(data: Path, weights: Path, work: Path, *more: str) -> None:
    arguments = ["--data", str(data), "--weights", str(weights), "--work", str(work), *more]
    bbox_sub.infer.main(arguments)
    metric_sub.infer.main(arguments)


class Messages(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record):
        if record.name != "weights":  # which says that these were never trained
            self.messages.append(record.getMessage())


def run(data: Path, weights: Path, work: Path, *more: str) -> Run:
    heard = Messages()
    logging.getLogger().addHandler(heard)
    try:
        infer(data, weights, work, *more)
    finally:
        logging.getLogger().removeHandler(heard)
    steps = ["media", "detections/photos", "detections/videos", "embeddings/photos", "embeddings/videos"]
    skipped = {
        entry["media_id"]: (step, entry["reason"])
        for step in steps
        for entry in json.loads((work / step / "manifest.json").read_text())["skipped"]
    }
    tables = {step: pd.read_parquet(work / step / "table.parquet") for step in steps}
    return Run(work, skipped, tables, heard.messages)


def write_sound(root: Path) -> None:
    """An item with a photo and a video that nothing is wrong with."""
    (root / "image" / "sound").mkdir(parents=True)
    (root / "video").mkdir()
    picture().save(root / "image" / "sound" / "0.jpg")
    small_video(root / "video" / "sound.mp4")


def photo_id(name: str) -> str:
    return f"image/{name}/{PHOTOS[name].name}"


def video_id(name: str) -> str:
    return f"video/{name}{Path(VIDEOS[name].name).suffix}"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The sound item among every bad file: photos each in an item of its own, videos named after what is wrong."""
    root = tmp_path_factory.mktemp("bad") / "data"
    write_sound(root)
    for name, case in PHOTOS.items():
        (root / "image" / name).mkdir()
        case.write(root / photo_id(name))
    for name, case in VIDEOS.items():
        case.write(root / video_id(name))
    return root


@pytest.fixture(scope="module")
def over_all(data, weights, tmp_path_factory) -> Run:
    return run(data, weights, tmp_path_factory.mktemp("work"))


def check_case(case, media_id: str, found: Run) -> None:
    if case.reason is None:
        assert media_id not in found.skipped, found.skipped[media_id]
        medium = found.tables["media"].set_index("media_id").loc[media_id]
        assert (medium.width, medium.height) == case.size
        for step in ("detections", "embeddings"):
            assert (found.tables[f"{step}/{medium.kind}s"].media_id == media_id).any(), step
    else:
        step, reason = found.skipped[media_id]
        assert step == case.step and re.search(case.reason, reason), (step, reason)
        assert not any((found.tables[step].media_id == media_id).any() for step in found.tables if step != "media")


@pytest.mark.parametrize("name", PHOTOS)
def test_photo(over_all, name):
    check_case(PHOTOS[name], photo_id(name), over_all)


@pytest.mark.parametrize("name", VIDEOS)
def test_video(over_all, name):
    check_case(VIDEOS[name], video_id(name), over_all)


def test_what_is_sound_is_what_it_is_alone(data, over_all, weights, tmp_path):
    for file in ("image/sound/0.jpg", "video/sound.mp4"):  # copies: x264 may encode the same frames into another video
        (tmp_path / "alone" / file).parent.mkdir(parents=True)
        shutil.copyfile(data / file, tmp_path / "alone" / file)
    alone = run(tmp_path / "alone", weights, tmp_path / "work")
    assert alone.skipped == {} and alone.messages == []
    for step, table in alone.tables.items():
        among = over_all.tables[step]
        among = among[among.item_id == "sound"].reset_index(drop=True)
        columns = [column for column in table if column not in ("path", "bytes", "mtime_ns")]
        assert len(among) and among[columns].equals(table[columns]), step


def test_one_line_at_the_end_tells_how_many_and_where(over_all):
    path = over_all.work / "skipped.json"
    listed = json.loads(path.read_text())
    assert {entry["media_id"]: (entry["step"], entry["reason"]) for entry in listed} == over_all.skipped
    expected = [case for case in [*PHOTOS.values(), *VIDEOS.values()] if case.reason]
    assert len(listed) == len(expected) > 30
    lines = [message for message in over_all.messages if "skipped" in message]
    assert lines[-1].startswith(f"{len(expected)} skipped, for example ") and lines[-1].endswith(f"all are in {path}")
    assert len(lines) == 2  # one of each stage
    others = [message for message in over_all.messages if message not in lines]
    assert [message for message in others if "breaks off" not in message] == []


def test_the_result_is_of_what_could_be_read(over_all):
    result = json.loads((over_all.work / "result.json").read_text())
    lost = {Path(media_id).stem for media_id in over_all.skipped if media_id.startswith("video/")}
    assert result and not set(result) & lost


def test_a_second_run_reuses_all_and_says_the_same(over_all, data, weights):
    before = {path: path.stat().st_mtime_ns for path in over_all.work.rglob("manifest.json")}
    steps = [json.loads(path.read_text()) for path in before]
    assert all(worth_another_try(step["skipped"]) == [] for step in steps)  # what is broken is not read again
    again = run(data, weights, over_all.work)
    assert again.skipped == over_all.skipped and again.messages[-1] == over_all.messages[-1]
    assert before == {path: path.stat().st_mtime_ns for path in over_all.work.rglob("manifest.json")}


@pytest.mark.parametrize("broken", ["image/sound/1.jpg", "image/sound/2.jpg", "video/1.mp4", "video/2.mp4"])
def test_strict_stops_at_the_first(weights, tmp_path, broken):
    root = tmp_path / "data"
    write_sound(root)
    infer(root, weights, tmp_path / "work", "--strict")  # nothing is wrong
    case = {
        "image/sound/1.jpg": PHOTOS["zero bytes"],  # seen by the step media
        "image/sound/2.jpg": PHOTOS["truncated JPEG"],  # by detection
        "video/1.mp4": VIDEOS["zero bytes"],
        "video/2.mp4": VIDEOS["one frame"],
    }[broken]
    case.write(root / broken)
    with pytest.raises(UserError, match=rf"^{re.escape(broken)}: .*{case.reason}.*--strict"):
        infer(root, weights, tmp_path / "work", "--strict")
    infer(root, weights, tmp_path / "work")
    with pytest.raises(UserError, match=rf"^{re.escape(broken)}: .*--strict"):  # also where the steps are finished
        infer(root, weights, tmp_path / "work", "--strict")
    options = ["--data", root, "--weights", weights, "--work", tmp_path / "work", "--strict"]
    with pytest.raises(UserError, match=rf"^{re.escape(broken)}: .*--strict"):  # and by stage 2, of what stage 1 left out
        metric_sub.infer.main([*map(str, options)])


def test_strict_ends_with_exit_1_and_leaves_stdout_empty(weights, tmp_path):
    write_sound(tmp_path / "data")
    PHOTOS["text"].write(tmp_path / "data" / "image" / "sound" / "1.jpg")
    options = ["--data", tmp_path / "data", "--weights", weights, "--work", tmp_path / "work", "--strict"]
    command = [sys.executable, "-m", "bbox_sub.infer", *options]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and ended.stdout == "" and "Traceback" not in ended.stderr
    assert "error: image/sound/1.jpg: not a readable picture" in ended.stderr


def test_nothing_that_can_be_read_gives_an_empty_result(weights, tmp_path):
    for path in (tmp_path / "data/image/a/0.jpg", tmp_path / "data/video/b.mp4"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    found = run(tmp_path / "data", weights, tmp_path / "work")
    assert sorted(found.skipped) == ["image/a/0.jpg", "video/b.mp4"]
    assert json.loads((tmp_path / "work" / "result.json").read_text()) == {}


def test_bombs_cost_no_memory(data):
    """What reading all of them adds to the most memory that the process ever had."""
    bombs = [name for name in PHOTOS if re.search("huge|billion|unpacks|screen|circles", name)]
    assert len(bombs) == 9
    code = """
import resource, sys
from shared.media import MediaError, probe_photo, read_photo
read_photo(sys.argv[1], 50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    for read in (probe_photo, read_photo):
        try:
            read(path, 50_000_000)
        except MediaError:
            pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    paths = [data / "image" / "sound" / "0.jpg", *(data / photo_id(name) for name in bombs)]
    ended = subprocess.run(
        [sys.executable, "-c", code, *paths], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 20 * 1024  # KiB; one of them decoded would take 110 MB and more


def test_check_lists_what_inference_leaves_out(data, over_all, capsys):
    from shared.check import main as check

    with pytest.raises(SystemExit) as ended:
        check(["--data", str(data), "--config", str(PROJECT / "configs" / "tiny.yaml"), "data.max_frames=200"])
    printed = capsys.readouterr().out
    lines = dict(line.removeprefix(f"{data}/").split(": ", 1) for line in printed.splitlines() if line.startswith("/"))
    short = {media_id for media_id, (_, reason) in over_all.skipped.items() if "first wanted" in reason}
    assert ended.value.code == 1 and set(lines) == set(over_all.skipped) - short  # which may be labelled all the same


DECODER = os.environ.get("VID2SHOP_DECODER", "")


@pytest.mark.skipif(not DECODER, reason="VID2SHOP_DECODER names no folder of troublesome videos")
def test_troublesome_videos_from_end_to_end(weights, tmp_path):
    """Each file is either used, as the list of what a plain decoder finds in it says, or on record."""
    expected = json.loads((Path(DECODER) / "expected.json").read_text(encoding="utf-8"))
    root = tmp_path / "data"
    write_sound(root)
    for number, name in enumerate(sorted(expected)):  # some have the same name up to the extension
        (root / "video" / f"{number} {name}").symlink_to(Path(DECODER) / name)
    found = run(root, weights, tmp_path / "work", "data.max_frames=1000")
    for number, name in enumerate(sorted(expected)):
        media_id, n_frames = f"video/{number} {name}", expected[name].get("frames", 0)
        if n_frames > 8:  # the first wanted frame
            rows = found.tables["detections/videos"]
            assert set(rows[rows.media_id == media_id].frame_index) == {8, 16} & set(range(n_frames)), name
        else:
            step, reason = found.skipped[media_id]
            assert step == ("detections/videos" if n_frames else "media") and reason, name
    assert len(found.skipped) == sum(facts.get("frames", 0) <= 8 for facts in expected.values())
