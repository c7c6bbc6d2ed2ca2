"""What `status` tells of a work folder: before, in the middle of and after a run, and of runs that ended early."""

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from shared.errors import UserError
from shared.files import write_json
from shared.status import TITLES, as_table, entry_of, main, read_status
from shared.work import Step
from tests.conftest import PROJECT

RUN = """
import os, sys, time
import pandas as pd
from pathlib import Path
from shared.progress import progress_bar
from shared.lock import locked
from shared.work import Step
work = Path(sys.argv[1])
with locked(work):
    Step(work / "media", {}).write({"table": pd.DataFrame({"a": [1, 2]})}, [{"media_id": "x", "reason": "broken"}])
    step = Step(work / "detections" / "photos", {})
    Step(work / "detections" / "videos", {})
    with progress_bar(total=4, title="infer", unit="unit") as bar:
        def build(k):
            if k == 2:
                bar._next = 0  # the half minute is over
                bar.skip()
                bar.update(2)
                print("there", flush=True)
                time.sleep(60)
            return {"table": pd.DataFrame({"a": [k]})}, []
        step.build_parts(4, build)
"""

MANIFEST = {"fingerprint": "x", "rows": 1, "skipped": [], "seconds": 1, "depends": {}}


@pytest.fixture
def running(tmp_path):
    """A run in the middle of its second step: (process, work folder)."""
    environment = {**os.environ, "VID2SHOP_QUIET": "1"}
    command = [sys.executable, "-c", RUN, tmp_path / "work"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"there\n"
        yield process, tmp_path / "work"
        process.kill()


def states(status) -> dict[str, str]:
    return {row["name"]: row["state"] for row in (*status["models"], *status["steps"])}


def test_a_running_step_tells_how_far_it_is_and_the_others_whether_they_are_done_or_left(running):
    process, work = running
    status = read_status(work, work / "weights")
    assert states(status) == {
        "media": "done",
        "detections/photos": "running",
        "detections/videos": "running",
        "embeddings/photos": "left",
        "embeddings/videos": "left",
        "matches": "left",
    }
    run = status["run"]
    assert run["running"] and run["pid"] == process.pid
    assert (run["title"], run["done"], run["total"], run["skipped"]) == ("infer", 2, 4, 1)
    assert run["rate"] > 0 and run["eta_s"] >= 0 and status["result"] is None
    media, photos = status["steps"][:2]
    assert media["rows"] == 2 and media["skipped"] == 1 and media["manifest"] == str(work / "media" / "manifest.json")
    assert photos["parts"] == 2
    table = as_table(status)
    assert f"process {process.pid} on" in table and "infer: 2 of 4 unit" in table and "2 parts are there" in table and "1 skipped" in table
    assert f"2 rows in 0 s, 1 skipped: {work / 'media' / 'manifest.json'}" in table


@pytest.mark.parametrize("how", ["many lines", "rotated"])
def test_a_step_whose_begin_has_left_the_log_is_running_all_the_same(how, running, monkeypatch):
    _, work = running
    if how == "many lines":
        monkeypatch.setattr("shared.journal.TAIL_BYTES", 600)
    else:
        (work / "log.jsonl").rename(work / "log.1.jsonl")
    status = read_status(work, work / "weights")
    assert status["run"]["running"] and states(status)["media"] == "done" and states(status)["matches"] == "left"
    assert states(status)["detections/photos"] == states(status)["detections/videos"] == "running"


def test_a_run_with_a_damaged_lock_is_running(running, capsys):
    _, work = running
    (work / ".lock").write_text('{"pid": "x"}')
    main(["--work", str(work)])
    told = capsys.readouterr().out
    assert f"{work}: running; its .lock does not tell which process" in told and "running      2 parts are there" in told


def test_a_step_that_an_earlier_run_began_is_interrupted_beside_a_run_that_does_not_work_on_it(running):
    _, work = running
    (work / "crops").mkdir()
    write_json(work / "crops" / "begun.json", {"fingerprint": "x"})
    assert states(read_status(work, work / "weights"))["crops"] == "interrupted"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "bbox_sub.train", "--data", "data"],
        ["-u", "-m", "shared.start", "bbox_sub.train", "--data", "data"],
        ["bbox_sub.train"],
    ],
)
def test_a_run_is_named_by_its_entry(command):
    assert entry_of(command) == "bbox_sub.train" and entry_of([]) == ""


def test_titles_are_those_of_the_bars():
    sources = [path for package in ("bbox_sub", "metric_sub", "shared") for path in (PROJECT / package).glob("*.py")]
    assert all(any(f'title="{title}"' in path.read_text("utf-8") for path in sources) for title in TITLES.values())


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("media/manifest.json", MANIFEST | {"skipped": None}, "not a manifest (skipped: "),
        ("media/manifest.json", MANIFEST | {"seconds": "long"}, "not a manifest (seconds: "),
        ("media/manifest.json", DEEP, "not a manifest (nested too deeply). Remove"),
        ("media/manifest.json", "", "not a manifest ("),
        ("weights/detector/model.json", DEEP, "not a model's description (nested too deeply)"),
        ("weights/detector/model.json", {"metrics": ["mAP"]}, "not a model's description (metrics: "),
    ],
)
def test_a_damaged_file_is_told_in_words(file, content, words, tmp_path, capsys):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    main(["--work", str(tmp_path)])
    assert f"{path}: {words}" in capsys.readouterr().out
    status = read_status(tmp_path, tmp_path / "weights")
    assert states(status)[path.parent.name] == "damaged"


@pytest.mark.parametrize("text", [DEEP, "embedders: 3", "embedders: [{name: 3}]", "- a", "a: *b", "\xff"])
def test_a_damaged_config_of_weights_is_told_and_their_folders_count(text, tmp_path, caplog):
    (tmp_path / "detector").mkdir()
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    assert [row["name"] for row in read_status(tmp_path, tmp_path)["models"]] == ["detector"]
    assert f"{tmp_path / 'config.yaml'}: not the config of a training" in caplog.text


@pytest.mark.parametrize("damage", [{"title": []}, {"done": "x"}, {"rate": "fast"}, {"time": "soon"}, {"unit": None}, DEEP])
def test_damaged_lines_of_the_log_are_left_out(damage, running):
    process, work = running
    line = json.loads((work / "log.jsonl").read_text().splitlines()[-1])
    with open(work / "log.jsonl", "a") as file:
        file.write(damage if isinstance(damage, str) else json.dumps(line | {"done": 3} | damage))
        file.write("\n" + json.dumps({"event": "step", "step": 3, "pid": process.pid}) + "\n" + json.dumps({"event": []}) + "\n")
    assert "infer: 2 of 4 unit" in as_table(read_status(work, work / "weights"))


def test_a_killed_run_is_interrupted_and_says_what_is_kept(running):
    process, work = running
    process.kill()
    process.wait()
    status = read_status(work, work / "weights")
    assert status["run"] == {**status["run"], "running": False, "ended": "killed"}
    assert states(status)["detections/photos"] == "interrupted" and "2 parts are kept" in as_table(status)
    assert "no run now; the last run was killed" in as_table(status)


def test_a_run_that_was_asked_to_end_says_so(running):
    process, work = running
    process.send_signal(signal.SIGINT)
    process.wait()
    assert "no run now; the last run ended early: KeyboardInterrupt" in as_table(read_status(work, work / "weights"))


def test_models_are_done_interrupted_or_left(tmp_path):
    weights = tmp_path / "models"
    (weights / "detector").mkdir(parents=True)
    config = {"embedders": [{"name": "a"}, {"name": "b"}]}
    (weights / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(weights / "detector" / "model.json", {"fingerprint": "x", "metrics": {"mAP": 0.5}, "epoch": 3})
    (weights / "a" / "resume").mkdir(parents=True)
    (weights / "a" / "resume" / "00000200.pt").touch()
    detector, a, b = read_status(tmp_path, weights)["models"]
    assert (detector["state"], detector["metrics"]) == ("done", {"mAP": 0.5})
    assert (a["state"], a["done"]) == ("interrupted", 200) and b == {"name": "b", "state": "left"}


def test_every_step_is_found_and_pictures_are_not_looked_into(tmp_path):
    Step(tmp_path / "evaluation" / "found" / "photos", {}).write({"table": pd.DataFrame({"a": [1]})})
    Step(tmp_path / "frames", {}).write({"table": pd.DataFrame({"a": [1]})})
    (tmp_path / "frames" / "pictures" / "x").mkdir(parents=True)
    write_json(tmp_path / "frames" / "pictures" / "x" / "manifest.json", {"a photo": "of that name"})
    assert states(read_status(tmp_path, tmp_path / "weights")) == {"frames": "done", "evaluation/found/photos": "done"}


def test_the_verb_prints_a_table_or_json_and_refuses_what_is_no_folder(tmp_path, capsys):
    main(["--work", str(tmp_path)])
    assert "no run now" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    main(["--work", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["run"] == {"running": False}
    with pytest.raises(UserError, match="no such work folder"):
        main(["--work", str(tmp_path / "gone")])
