"""What the benchmarks of whole runs share: the subset of a data set, and each benchmark once from end to end."""

import json

import pandas as pd
import pytest

import benchmarks.pipeline
import benchmarks.reuse
import benchmarks.scaling
import benchmarks.train
from benchmarks._runs import draw_weights, link_some, run_measured
from benchmarks.reuse import share_detected, share_found
from benchmarks.side_by_side import Measured
from metric_sub.embeddings import read_trained
from metric_sub.whitening import load_descriptors
from shared.config import DescriptorSettings, Whitening, dump_config
from shared.dataset import read_media
from shared.errors import UserError
from tests.limits import LIMITS


def test_some_media_are_linked_and_videos_copied(plain_data, tmp_path):
    media, problems = read_media(link_some(plain_data, LIMITS, tmp_path / "some", 2, 1, copies=3), LIMITS)
    assert not problems and media.kind.value_counts().to_dict() == {"video": 6, "photo": 1}
    assert media.item_id[media.kind == "video"].is_unique
    everything, _ = read_media(link_some(plain_data, LIMITS, tmp_path / "all", 0, 0), LIMITS)
    assert everything.media_id.tolist() == read_media(plain_data, LIMITS)[0].media_id.tolist()
    with pytest.raises(UserError, match="expected 4 or more videos, found 3"):
        link_some(plain_data, LIMITS, tmp_path / "more", 4, 1)


HOLDS = """
import os, time
held = b"1" * 300_000_000
child = os.fork()
own = None if child else b"2" * 100_000_000
time.sleep(2)
if child:
    os.waitpid(child, 0)
"""


def test_what_a_fork_shares_counts_once(tmp_path, monkeypatch):
    """A process that holds 300 MB and its fork, which shares them and has 100 MB of its own."""
    (tmp_path / "holds.py").write_text(HOLDS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    measured = Measured()
    run_measured("holds", [], measured, shared_once=True)
    assert 400e6 < measured.peak_bytes < 500e6


def test_boxes_that_reuse_keeps_and_frames_that_it_detects_by_hand(tmp_path):
    columns = ["media_id", "frame_index", "x1", "y1", "x2", "y2", "category"]
    boxes = [("v", 80, 0, 0, 10, 10, "shoe"), ("v", 100, 0, 0, 10, 10, "shoe"), ("v", 100, 20, 0, 30, 10, "bag"), ("w", 80, 0, 0, 9, 9, "bag")]
    expected = pd.DataFrame(boxes, columns=columns)
    given = [("v", 80, 0, 0, 10, 9, "shoe"), ("v", 100, 0, 0, 10, 10, "bag"), ("v", 100, 20, 0, 30, 4, "bag")]  # near; another; too small
    assert share_found(expected, expected) == 1 and share_found(expected, pd.DataFrame(given, columns=columns)) == 1 / 4
    assert share_found(expected.head(0), expected) == 1
    lines = ["begins", "30 of 40 frames barely differed from the last detected one"]
    (tmp_path / "log.jsonl").write_text("".join(f'{{"message": "{line}"}}\n' for line in lines))
    assert share_detected(tmp_path) == 1 / 4


@pytest.mark.slow
def test_the_benchmarks_of_whole_runs_run(plain_data, untrained, tiny_config, tmp_path, monkeypatch, capfd):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config))
    common = ["--config", str(path), "--data", str(plain_data), "--rounds", "1"]
    benchmarks.pipeline.main([*common, "--random", "--videos", "1", "--photos", "1", "--json", str(tmp_path / "pipeline.json")])
    report = json.loads((tmp_path / "pipeline.json").read_text())["pipeline"]
    assert {side["seconds"] > 0 for side in report["sides"].values()} == {True}
    assert report["sides"].keys() == {"plain", "vid2shop"} and report["pictures"] == 4
    monkeypatch.setattr(benchmarks.scaling, "TIMES", (1, 2))
    benchmarks.scaling.main([*common, "--weights", str(untrained), "--videos", "1", "--photos", "1"])
    assert "2 videos" in capfd.readouterr().out
    path = tmp_path / "reuse.json"
    benchmarks.reuse.main([*common, "--weights", str(untrained), "--below", "0.001", "256", "--json", str(path)])
    sides = json.loads(path.read_text())["reuse"]["sides"]
    assert {name: round(side["detected"], 2) for name, side in sides.items()} == {"0": 1, "0.001": 1, "256": 0.33}
    with pytest.raises(UserError, match="expected videos with frames 900 to 900, found none that long"):
        benchmarks.reuse.main([*common, "--weights", str(untrained), "frames={start: 900, stop: 900, step: 20}"])
    assert sides["0.001"]["found"] == 1 and len(set(sides["0.001"]["equal"].split(" of "))) == 1


@pytest.mark.slow
def test_the_benchmark_of_trainings_runs(tiny_data, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.train, "WARM_UP", 0)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(tiny_config))
    figures = tmp_path / "train.json"
    benchmarks.train.main(["--config", str(path), "--data", str(tiny_data), "--steps", "6", "--rounds", "1", "--json", str(figures)])
    for report in json.loads(figures.read_text()).values():
        assert all(side["seconds"] > 0 and 100e6 < side["peak_bytes"] < 20e9 for side in report["sides"].values())


def test_weights_that_are_drawn_have_all_that_inference_reads(tiny_config, tmp_path):
    whitened = DescriptorSettings(gradient_histogram=0, colour_histogram=1, fine_colour_histogram=0, whitening=Whitening(shrinkage=1, values=9))
    config = tiny_config.model_copy(update={"descriptors": whitened})
    draw_weights(config, tmp_path)
    read_trained(config, tmp_path)
    assert load_descriptors(whitened, tmp_path).lengths == [9]
