"""The benchmarks of single models and of decoding, once from end to end on something small: the sides they have agree."""

import json
import logging

import pytest

import benchmarks.decode
import benchmarks.detector
import benchmarks.embedder
import benchmarks.side_by_side
from benchmarks.train import WARM_UP, mean_step, step_times
from shared.training import Record
from tests.drawn_networks import write_detector, write_embedder


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.side_by_side, "MULTIPLICATIONS", 1)
    return tmp_path / "figures.json"


SMALL = ["--rounds", "1", "--threads", "1", "--size", "64", "96", "--side", "f32"]


def test_the_detector_is_compared(path, tmp_path):
    folder = write_detector(tmp_path / "detector")
    benchmarks.detector.main([*SMALL, "--weights", str(folder), "--pictures", "1", "--json", str(path)])
    sides = json.loads(path.read_text())["detector"]["sides"]
    assert sides.keys() == {"torch eager", "f32"} and all(side["seconds"] > 0 for side in sides.values())
    assert sides["f32"]["found"] > 0.9


def test_the_embedder_is_compared(path, tmp_path, tiny_config):
    folder = write_embedder(tmp_path / "embedder", tiny_config)
    settings = "timm eager, run.sh's settings"
    benchmarks.embedder.main([*SMALL, "--side", settings, "--weights", str(folder), "--crops", "2", "--json", str(path)])
    sides = json.loads(path.read_text())["embedder"]["sides"]
    assert sides.keys() == {"timm eager", settings, "f32"}
    assert all(side["cosine"] == pytest.approx(1, abs=1e-3) for side in sides.values())


@pytest.mark.parametrize("benchmark", [benchmarks.detector, benchmarks.embedder])
def test_a_side_that_is_none_is_refused(benchmark, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--side", "fp32"])
    assert "invalid choice: 'fp32'" in capsys.readouterr().err


@pytest.fixture
def media_log():
    """The benchmark silences what reading tells, for its process: here others come after it."""
    log = logging.getLogger("media")
    level = log.level
    yield log
    log.setLevel(level)


def test_decoders_are_compared(path, media_log, monkeypatch):
    monkeypatch.setattr(benchmarks.decode, "WIDTH", 96)
    monkeypatch.setattr(benchmarks.decode, "HEIGHT", 64)
    benchmarks.decode.main(["--rounds", "1", "--json", str(path)])
    sides = json.loads(path.read_text())["decode 720p.mp4"]["sides"]
    assert {"opencv", "grab", "pyav", "pyav wanted", "ours"} <= sides.keys()
    assert sides["ours"]["equal"] == sides["pyav wanted"]["equal"] == "yes"
    assert all(100e6 < side["peak_bytes"] < 20e9 for side in sides.values())


def test_a_step_is_the_mean_of_what_was_not_judged(tmp_path):
    """Steps of 3 s after those that warm up; one was judged for a minute more."""
    moments = [0.0, *range(100, 100 + WARM_UP)]
    for seconds in (3, 2, 4, 63, 3):
        moments.append(moments[-1] + seconds)
    assert mean_step(moments, {WARM_UP + 3}) == 3
    record = Record(tmp_path, 0)
    for step in range(4):
        record.note(step, loss=1.0)
    record.note(2, recall_at_1=0.5)
    record.flush()
    times, judged = step_times(tmp_path)
    assert len(times) == 4 and judged == {2}
