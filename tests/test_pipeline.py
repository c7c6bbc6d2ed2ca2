"""The pipeline as its users run it: run.sh as a process, on folders without annotations, killed, repeated, changed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bbox_sub.infer
import metric_sub.infer
from metric_sub.result import check_result
from shared.reader import Reader
from tests.conftest import PROJECT, door_over
from tests.drawing import numbered_frames, product_box, scene, write_video
from tests.forks import run_stages

RUN = ["bash", str(PROJECT / "run.sh")]
VERBS = [
    "setup",
    "sample",
    "check",
    "preview",
    "train",
    "infer",
    "find",
    "score",
    "calibrate",
    "evaluate",
    "export-coco",
    "import-weights",
    "export-weights",
    "report",
    "status",
    "demo",
    "test",
    "bench",
    "kills",
    "fuzz",
]


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*RUN, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


def infer(data: Path, weights: Path, work: Path, *more: str, **options) -> subprocess.CompletedProcess:
    return run("infer", "--data", data, "--weights", weights, "--work", work, *more, **options)


def infer_at_once(data: Path, weights: Path, work: Path, *more: str) -> str:
    """What infer leaves in a process that starts at once, not by run.sh: its result.json. Its stderr is <work>.log."""
    log = work.with_suffix(".log")
    arguments = ["--data", data, "--weights", weights, "--work", work, *more]
    assert run_stages(["infer"], arguments, log) == 0, log.read_text()
    return (work / "result.json").read_text()


def test_an_unknown_verb_shows_the_usage_and_exits_2():
    for arguments in ([], ["infre"]):
        ended = run(*arguments)
        assert ended.returncode == 2 and ended.stdout == "" and "usage: bash run.sh VERB" in ended.stderr


def test_an_embedder_that_cannot_be_trained_is_refused_before_the_detector_trains(tiny_data, tmp_path):
    ended = run("train", "--config", PROJECT / "configs" / "tiny.yaml", "--data", tiny_data, "--work", tmp_path / "work", "embedders.0.backbone=resnet10x")
    assert ended.returncode == 1 and ended.stdout == "" and "Traceback" not in ended.stderr
    assert "embedders: resnet10: timm has no backbone 'resnet10x'; near it: resnet10t" in ended.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    ended = run(verb, "-h")
    assert ended.returncode == 0 and ended.stdout.startswith(f"usage: bash run.sh {verb}")


def test_a_benchmark_has_its_own_help():
    ended = run("bench", "pipeline", "-h")
    assert ended.returncode == 0 and ended.stdout.startswith("usage: ") and "--photos" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infer", "--data", "nowhere"], "no trained model"),
        (["train", "--data", "nowhere"], "nowhere: no such folder"),
        (["infer", "match.keep_quantil=0.1"], "did you mean 'keep_quantile'"),
        (["infer", "search.candidates=0"], "search.candidates"),
        (["score", "--data", ".", "--result", "nowhere.json"], "nowhere"),
        (["check", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_are_told_in_words_and_leave_stdout_empty(arguments, words, tmp_path):
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stdout == ""
    assert words in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (["infer"], "the same command goes on"),
        (["infer", "--fresh"], "the same command without --fresh goes on"),
        (["infer", "--stage", "match"], "the same command goes on"),
        (["train", "--fresh"], "the same command without --fresh goes on"),
    ],
)
def test_a_process_that_the_system_kills_is_told(arguments, again, tmp_path):
    door = door_over("kill -KILL $$", tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "result.json").write_text("{}")  # of a run before
    ended = subprocess.run(["bash", door, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 137 and ended.stdout == ""
    assert "error: the process was killed (SIGKILL)" in ended.stderr and f"{again} from what was finished" in ended.stderr


@pytest.mark.parametrize("arguments", [["status"], ["train"], ["setup"]])
def test_run_sh_that_is_written_over_while_it_runs_ends_as_it_began(arguments, tmp_path):
    door = door_over("printf 'echo of another version\\n%.0s' {1..9999} > run.sh", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    if arguments == ["setup"]:
        (tmp_path / ".venv" / ".installed").write_text("of another lock")
    environment = {**os.environ, "PYTHON": str(python)}
    ended = subprocess.run(["bash", door, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stdout == "" and ended.stderr.count("\n") == (arguments == ["setup"])
    assert "of another version" in door.read_text()


def test_plain_folders_any_ids_any_formats_and_only_json_on_stdout(plain_data, untrained, tmp_path):
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "sitecustomize.py").write_text("import os\nos.write(1, b'a library prints here\\n')\nprint('and here')\n")
    (tmp_path / "elsewhere").mkdir()
    ended = infer(
        plain_data,
        untrained,
        tmp_path / "work",
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(noise)},
    )
    assert ended.returncode == 0, ended.stderr
    assert "a library prints here" in ended.stderr
    result = json.loads(ended.stdout)
    entries = check_result(result)
    assert entries and set(entries) <= {"shoe A", "käse-7", "-dash"}
    assert {entry.item_id for entry in entries.values()} <= {"shoe A", "käse-7"}
    assert {pair["img_name"] for entry in result.values() for pair in entry["result"]} <= {"side view", "1", "front"}
    assert all(entry["frame_index"] in (0, 8, 16) for entry in result.values())
    manifest = json.loads((tmp_path / "work" / "media" / "manifest.json").read_text())
    assert manifest["rows"] == 6 and manifest["skipped"] == []


def test_a_rerun_reuses_and_a_changed_key_rebuilds_only_what_depends_on_it(plain_data, untrained, tmp_path):
    work = tmp_path / "work"
    first = infer(plain_data, untrained, work)
    steps = ["media", "detections/photos", "detections/videos", "embeddings/photos", "embeddings/videos", "matches"]

    def made() -> dict[str, int]:
        return {step: (work / step / "manifest.json").stat().st_mtime_ns for step in steps}

    before = made()
    again = infer(plain_data, untrained, work)
    assert again.stdout == first.stdout and made() == before
    assert all(f"{work / step}: reused" in again.stderr for step in steps)
    overrides = []  # each stays for the ones after it
    for override, rebuilt in [
        ("match.max_distance=1.9", {"matches"}),
        ("search.index=IVF2,Flat", {"matches"}),
        ("search.parameters={nprobe: 2}", {"matches"}),  # both of the cells: exact
        ("detect.video_score=0.001", {"detections/videos", "embeddings/videos", "matches"}),
        ("detect.photo_short_side=150", {"detections/photos", "embeddings/photos", "matches"}),
    ]:
        before = made()
        overrides.append(override)
        infer_at_once(plain_data, untrained, work, *overrides)
        changed = {step for step in steps if made()[step] != before[step]}
        assert changed == rebuilt, override
    recall = json.loads((work / "matches" / "manifest.json").read_text())["recall"]
    assert recall["queries"] > 0 and recall["recall_at_1"] == recall["recall_at_10"] == 1.0
    assert (work / "index" / "vectors.faiss").is_file()


def test_a_new_photo_rebuilds_no_video(plain_data, untrained, tmp_path):
    work = tmp_path / "work"
    infer_at_once(plain_data, untrained, work)
    videos = [(work / step / "videos" / "manifest.json").stat().st_mtime_ns for step in ("detections", "embeddings")]
    Image.fromarray(numbered_frames(1)[0]).save(plain_data / "image" / "shoe A" / "new.bmp")
    (plain_data / "image" / "shoe A" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    infer_at_once(plain_data, untrained, work)
    assert videos == [
        (work / step / "videos" / "manifest.json").stat().st_mtime_ns for step in ("detections", "embeddings")
    ]
    skipped = json.loads((work / "media" / "manifest.json").read_text())["skipped"]
    assert [entry["media_id"] for entry in skipped] == ["image/shoe A/broken.jpg"] and skipped[0]["reason"]


def test_new_photos_and_videos_are_all_that_is_detected_and_embedded(plain_data, untrained, tmp_path, monkeypatch):
    read, stage = [], ""
    for name in ("ask_photo", "frames"):
        ask = getattr(Reader, name)
        monkeypatch.setattr(
            Reader, name, lambda self, path, *more, ask=ask: read.append((stage, Path(path).name)) or ask(self, path, *more)
        )

    def run_stages(work: Path, *more: str) -> list[tuple[str, str]]:
        nonlocal stage
        read.clear()
        arguments = ["--data", str(plain_data), "--weights", str(untrained), "--work", str(work), *more]
        for module in (bbox_sub.infer, metric_sub.infer):
            stage = module.__name__.split("_")[0]
            module.main(arguments)
        return sorted(read)

    work = tmp_path / "work"
    names = ["-dash.mp4", "1.webp", "front.PNG", "käse-7.mkv", "shoe A.mov", "side view.png"]
    assert run_stages(work) == sorted((stage, name) for stage in ("bbox", "metric") for name in names)
    rng = np.random.default_rng(1)
    (plain_data / "image" / "a new item").mkdir()
    Image.fromarray(scene("000002", (10, 8, 48, 60), rng)).save(plain_data / "image" / "a new item" / "new.png")
    write_video(plain_data / "video" / "b new.mp4", [scene("000001", product_box("000001", k), rng) for k in range(20)])
    (plain_data / "video" / "-dash.mp4").unlink()
    assert run_stages(work) == [(stage, name) for stage in ("bbox", "metric") for name in ("b new.mp4", "new.png")]
    for kind in ("photos", "videos"):
        steps = [(work / step / kind) for step in ("detections", "embeddings")]
        assert run_stages(tmp_path / "anew") or kind == "videos"
        for step in steps:
            for path in [*step.glob("*.parquet"), *step.glob("*.npy")]:
                assert path.read_bytes() == (tmp_path / "anew" / path.relative_to(work)).read_bytes(), path
    assert (work / "result.json").read_bytes() == (tmp_path / "anew" / "result.json").read_bytes()
    assert run_stages(work, "detect.video_short_side=150") == [
        (stage, name) for stage in ("bbox", "metric") for name in ("b new.mp4", "käse-7.mkv", "shoe A.mov")
    ]
    assert not list(work.rglob("*.before"))


def test_killed_at_a_random_moment_it_ends_with_the_same_bytes(plain_data, untrained, tmp_path):
    started = time.monotonic()
    undisturbed = infer(plain_data, untrained, tmp_path / "calm").stdout
    seconds = time.monotonic() - started
    assert undisturbed.startswith("{")
    work = tmp_path / "killed"  # many more, of train too: tests/test_crashes.py
    process = subprocess.Popen(
        [*RUN, "infer", "--data", plain_data, "--weights", untrained, "--work", work],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(random.Random(0).uniform(0.3, 0.95) * seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert infer(plain_data, untrained, work).stdout == undisturbed


def test_a_work_folder_in_use_is_refused(plain_data, untrained, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from shared.lock import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)",
            work,
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        ended = infer(plain_data, untrained, work)
        assert ended.returncode == 1 and ended.stdout == "" and "another run is using this work folder" in ended.stderr
    finally:
        holder.kill()
        holder.communicate()


def test_check_prints_the_counts_and_fails_on_what_does_not_fit(tiny_data):
    good = run("check", "--data", tiny_data)
    assert good.returncode == 0 and "faults: 0" in good.stdout
    photos = next(line for line in good.stdout.splitlines() if line.startswith("photos"))
    assert photos.split() == ["photos", "4", "4", "8"]
    (tiny_data / "train" / "image" / "000000" / "0.jpg").write_bytes(b"no picture")
    path = tiny_data / "validation" / "video_annotation" / "000002.json"
    annotation = json.loads(path.read_text())
    annotation["frames"][0]["annotations"][0]["box"] = [0, 0, 400, 40]
    annotation["frames"][1]["frame_index"] = 99
    path.write_text(json.dumps(annotation))
    (tiny_data / "train" / "video_annotation" / "gone.json").write_text('{"frames": []}')
    bad = run("check", "--data", tiny_data)
    assert bad.returncode == 1 and "faults: 4" in bad.stdout and "gone.json: no photo or video" in bad.stdout
    assert (
        "not a readable picture" in bad.stdout
        and "leaves the picture" in bad.stdout
        and "the video has no frames [99]" in bad.stdout
    )


def test_evaluate_prints_json_alone_and_leaves_its_pictures(tiny_data, untrained, tmp_path):
    work = tmp_path / "work"
    options = ["--data", tiny_data, "--weights", untrained, "--work", work, "--part", "validation"]
    ended = run("evaluate", *options, "--precision", "0.8")
    assert ended.returncode == 0, ended.stderr
    both = json.loads(ended.stdout)
    assert both["detector"]["all"]["pictures"] == 7 and "frames: " in ended.stderr
    assert both["embedders"]["queries"] == 3 and "recall@1" in ended.stderr
    names = {"thresholds.json", "thresholds.png", "misses.png", "false_alarms.png", "distances.png", "confusions.png"}
    assert {"detector.json", "embedders.json", *names} <= {path.name for path in (work / "evaluation").iterdir()}
    assert json.loads((work / "evaluation" / "thresholds.json").read_text())["precision"] == 0.8
    ended = run("evaluate", *options, "--stage=match")
    assert ended.returncode == 0 and json.loads(ended.stdout) == both["embedders"], ended.stderr
    assert run("evaluate", *options, "--stage", "score").returncode == 2


def test_one_stage_alone_then_its_detections_for_others(plain_data, untrained, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out.json"
    ended = infer(plain_data, untrained, work, "--stage", "detect")
    assert ended.returncode == 0 and ended.stdout == "" and not (work / "embeddings").exists(), ended.stderr
    ended = run("export-coco", "--work", work, "--out", out)
    assert ended.returncode == 0 and ended.stdout == "", ended.stderr
    assert json.loads(out.read_text()) and (tmp_path / "out.images.json").is_file()
    ended = infer(plain_data, untrained, work, "--stage=match")
    assert ended.returncode == 0 and json.loads(ended.stdout) is not None, ended.stderr
    assert run("train", "--stage", "both of them").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["--work", "w w"], ["bbox_sub.preview --work w w", "metric_sub.preview --work w w"]),
        (["--stage", "detect", "--out", "a.png"], ["bbox_sub.preview --out a.png"]),
        (["--stage=match", "--out=a.png"], ["metric_sub.preview --out=a.png"]),
    ],
)
def test_preview_draws_the_sheets_of_both_stages_or_of_one(arguments, runs, tmp_path):
    door = door_over('echo "${@:3}"', tmp_path)
    ended = subprocess.run(["bash", door, "preview", *arguments], capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == runs and ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "a.png"], 2, "error: --out names one sheet: give --stage detect or --stage match with it\n"),
        (["--stage", "all"], 2, "error: --stage: expected detect or match, found 'all'\n"),
        (["--stage"], 1, "error: --stage wants a value\n"),
    ],
)
def test_what_preview_cannot_draw_is_refused_in_one_line(arguments, code, words, tmp_path):
    ended = subprocess.run(
        ["bash", door_over("echo drawn", tmp_path), "preview", *arguments], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == code and ended.stdout == ""
    assert ended.stderr.endswith(words) and ended.stderr.count("\n") == 1


def test_find_ranks_items_for_a_video_and_videos_for_photos(plain_data, untrained, tmp_path):
    work = tmp_path / "work"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    infer_at_once(plain_data, untrained, work)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")}

    def find(*arguments):
        environment = {**os.environ, "TMPDIR": str(scratch)}
        return run("find", "--work", work, "--weights", untrained, *arguments, env=environment)

    ended = find("--video", plain_data / "video" / "käse-7.mkv", "--json")
    assert ended.returncode == 0, ended.stderr
    assert {row["item_id"] for row in json.loads(ended.stdout)} == {"shoe A", "käse-7"}
    ended = find(f"--photos={plain_data / 'image' / 'shoe A'}", "--top", "2")
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) == 3, ended.stderr
    for name in ("videos-käse-7", "photos-shoe A"):
        assert Image.open(work / "find" / f"{name}.png").width > 900
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for arguments, words in [
        (["--video", tmp_path / "broken.mp4"], "video/broken.mp4: not a readable video"),
        (["--video", tmp_path / "gone.mp4"], "no such file"),
        (["--photos", tmp_path / "gone"], "no such folder"),
        (["--video", plain_data / "video" / "käse-7.mkv", "detect.video_score=1"], "no product was found"),
    ]:
        ended = find(*arguments)
        assert ended.returncode == 1 and ended.stdout == "" and words in ended.stderr, ended.stderr
    assert find().returncode == 2
    ended = run("find", "--video", plain_data / "video" / "käse-7.mkv", "--work", tmp_path / "elsewhere")
    assert ended.returncode == 1 and "holds no finished run" in ended.stderr
    assert before == {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")} and not list(
        scratch.iterdir()
    )
