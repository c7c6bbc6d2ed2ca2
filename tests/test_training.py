"""Training of both stages on a small drawn set: it runs, it leaves models that infer, and an interrupted run ends like an undisturbed one."""

import csv
import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import bbox_sub.infer
import bbox_sub.train
import metric_sub.infer
import metric_sub.train
from metric_sub.result import read_result
from shared.config import Config, dump_config
from shared.errors import UserError
from shared.training import Checkpoint

STAGES = {"detector": bbox_sub.train, "a": metric_sub.train}


@pytest.fixture
def options(tiny_data: Path, tiny_config: Config, tmp_path: Path):
    """The arguments of an entry on tiny_data with a config that trains a few steps, checkpointed at each; by work folder."""
    phase = tiny_config.detector_train.phases[0].model_copy(update={"iterations": 5})
    config = tiny_config.model_copy(
        update={
            "detector_train": tiny_config.detector_train.model_copy(
                update={"phases": [phase], "checkpoint_every": 1, "warmup_iterations": 1}
            ),
            "embed_train": tiny_config.embed_train.model_copy(update={"checkpoint_every": 1}),
            "embedders": [model.model_copy(update={"epochs": 2, "memory": 6}) for model in tiny_config.embedders],
            "detect": tiny_config.detect.model_copy(update={"photo_score": 0.0, "video_score": 0.0}),
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    return lambda work, *more: ["--config", str(path), "--data", str(tiny_data), "--work", str(tmp_path / work), *more]


@pytest.mark.parametrize("model", STAGES)
@pytest.mark.parametrize("saves_before", [1, 3])
def test_an_interrupted_run_ends_with_the_undisturbed_weights(model, saves_before, options, tmp_path, monkeypatch):
    stage = STAGES[model]
    stage.main(options("calm"))
    saves, save = [], Checkpoint.save

    def save_then_stop(self, **progress):
        save(self, **progress)
        saves.append(progress["step"])
        if len(saves) == saves_before:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            stage.main(options("stopped"))
    folders = [tmp_path / work / "weights" / model for work in ("calm", "stopped")]
    assert (folders[1] / "resume" / "state.pt").is_file()
    stage.main(options("stopped"))
    calm, stopped = (load_file(folder / "weights.safetensors") for folder in folders)
    assert calm.keys() == stopped.keys()
    assert all((calm[name] == stopped[name]).all() for name in calm)
    losses = [[row["loss"] for row in csv.DictReader((folder / "log.csv").open())] for folder in folders]
    assert losses[0] == losses[1]
    assert not (folders[1] / "resume").exists()


def test_train_then_infer_gives_a_valid_result_and_a_second_call_trains_nothing(options, tmp_path, caplog):
    for stage in (bbox_sub.train, metric_sub.train):
        stage.main(options("work"))
    weights = tmp_path / "work" / "weights"
    for name in ("detector", "a", "b"):
        assert {"weights.safetensors", "model.json", "log.csv", "curves.png"} <= {
            path.name for path in (weights / name).iterdir()
        }
    assert set(json.loads((weights / "detector" / "model.json").read_text())["metrics"]) == {"mAP", "AP50", "AR"}
    made = {path: path.stat().st_mtime_ns for path in weights.rglob("weights.safetensors")}
    with caplog.at_level("INFO"):
        for stage in (bbox_sub.train, metric_sub.train):
            stage.main(options("work"))
    assert caplog.text.count("it was trained with this config on this data") == 3
    assert made == {path: path.stat().st_mtime_ns for path in weights.rglob("weights.safetensors")}
    metric_sub.train.main(options("work", "embedders.1.seed=5"))  # only b depends on it
    assert [path.parent.name for path, time_ns in made.items() if path.stat().st_mtime_ns != time_ns] == ["b"]
    for stage in (bbox_sub.infer, metric_sub.infer):
        stage.main(options("work"))
    entries = read_result(tmp_path / "work" / "result.json")
    assert set(entries) <= {"000000", "000001", "000002"}


def test_the_detector_learns_from_coco_files(options, tiny_data, tmp_path):
    """train.json and validation.json, with a category of each of the data's labels."""
    root = tiny_data / "train" / "image"
    for part, item_id, name in (("train", "000000", "top"), ("validation", "000001", "skirt")):
        images = [{"id": k, "file_name": f"{item_id}/{k}.jpg"} for k in (0, 1)]
        boxes = [{"id": k, "image_id": k, "category_id": 4, "bbox": [10, 8, 38, 52]} for k in (0, 1)]
        value = {"images": images, "annotations": boxes, "categories": [{"id": 4, "name": name}]}
        (root / f"{part}.json").write_text(json.dumps(value))
    arguments = options("coco", "--data", str(root), "detector.categories=[top, skirt]")
    bbox_sub.train.main(arguments)
    assert json.loads((tmp_path / "coco" / "weights" / "detector" / "model.json").read_text())["fingerprint"]
    with pytest.raises(UserError, match="labels that it lacks: .'skirt'"):
        bbox_sub.train.main([*arguments, "detector.categories=[top, bag]"])
