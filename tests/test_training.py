"""Training of both stages on a small drawn set: it runs, it leaves models that infer, and an interrupted run ends like an undisturbed one."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.numpy import load_file

import bbox_sub.infer
import bbox_sub.train
import metric_sub.infer
import metric_sub.train
from bbox_sub import detections
from metric_sub import embeddings
from metric_sub.result import read_result
from shared.config import Config, dump_config, load_config
from shared.errors import UserError
from shared.status import read_status
from shared.training import Checkpoint
from tests.conftest import PROJECT

STAGES = {"detector": bbox_sub.train, "a": metric_sub.train}


@pytest.fixture
def options(tiny_data: Path, tiny_config: Config, tmp_path: Path):
    """The arguments of an entry on tiny_data with a config that trains a few steps, checkpointed at each; by work folder."""
    phase = tiny_config.detector_train.phases[0].model_copy(update={"iterations": 5})
    hard = tiny_config.embed_train.augment["hard"]
    config = tiny_config.model_copy(
        update={
            "detector_train": tiny_config.detector_train.model_copy(
                update={"phases": [phase], "checkpoint_every": 1, "warmup_iterations": 1}
            ),
            "embed_train": tiny_config.embed_train.model_copy(
                update={
                    "checkpoint_every": 1,
                    "augment": {"hard": hard, "mixed": hard.model_copy(update={"mixup": 0.3, "cutmix": 0.3})},
                }
            ),
            "embedders": [model.model_copy(update={"epochs": 2, "memory": 6}) for model in tiny_config.embedders],
            "detect": tiny_config.detect.model_copy(update={"photo_score": 0.0, "video_score": 0.0}),
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    return lambda work, *more: ["--config", str(path), "--data", str(tiny_data), "--work", str(tmp_path / work), *more]


def phases(*phases):
    """An override of detector_train.phases: (iterations, batch_size, start) of each."""
    keys = "iterations: {}, batch_size: {}, start: {}, short_sides: [64, 80], learning_rate: 0.001"
    return f"detector_train.phases=[{', '.join('{' + keys.format(*phase) + '}' for phase in phases)}]"


def sha256(folder):
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def rows_of(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def start(arguments, *launcher):
    """An entry as a process of its own, with its children in a group of their own."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, "bbox_sub.train", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def stop_after(saves, monkeypatch, train):
    """Calls `train`, which ends as by Ctrl-C in the place of the checkpoint after so many; gives the steps of those."""
    save, done = Checkpoint.save, []

    def stop_or_save(self, step):
        if len(done) == saves:
            raise KeyboardInterrupt
        save(self, step)
        done.append(step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoint, "save", stop_or_save)
        train()
    return done


EVERYTHING = [
    "embed_train.phases=[{share: 0.3, task: views, augment: hard, learning_rate: 0.01, freeze_backbone: false, cycles: 1},"
    "{share: 0.3, task: products, augment: hard, learning_rate: 0.01, freeze_backbone: true, cycles: 1},"
    "{share: 0.4, task: products, augment: mixed, learning_rate: 0.01, freeze_backbone: false, cycles: 2}]",
    "embed_train.loss.classifier=subcenter",
    "embed_train.loss.pair=multi_similarity",
    "embed_train.loss.memory_for=both",
    "embed_train.loss.margin_warmup=0.5",
    "embed_train.accumulate=2",
    "embed_train.replay_every=3",
    "embed_train.ema=0.5",
    "embedders.0.epochs=8",
]


@pytest.mark.parametrize(
    ("model", "more", "saves_before"),
    [
        ("detector", [], 1),
        ("detector", [], 3),
        ("a", [], 1),
        ("a", [*EVERYTHING, "embed_train.snapshots=average"], 3),
        ("a", [*EVERYTHING, "embed_train.snapshots=concatenate"], 7),
    ],
)
def test_an_interrupted_run_ends_with_the_undisturbed_weights(
    model, more, saves_before, options, tmp_path, monkeypatch
):
    stage, options = STAGES[model], lambda work, of=options: of(work, *more)
    stage.main(options("calm"))
    saves, save = [], Checkpoint.save

    def save_then_stop(self, step):
        save(self, step)
        saves.append(step)
        if len(saves) == saves_before:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            stage.main(options("stopped"))
    folders = [tmp_path / work / "weights" / model for work in ("calm", "stopped")]
    assert list((folders[1] / "resume").glob("*.pt"))
    stage.main(options("stopped"))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("weights.safetensors")) for folder in folders]
    assert files[0] == files[1]
    for file in files[0]:
        calm, stopped = (load_file(folder / file) for folder in folders)
        assert calm.keys() == stopped.keys()
        assert all((calm[name] == stopped[name]).all() for name in calm)
    losses = [[row["loss"] for row in csv.DictReader((folder / "log.csv").open())] for folder in folders]
    assert losses[0] == losses[1]
    assert not (folders[1] / "resume").exists()


@pytest.mark.parametrize("model", STAGES)
@pytest.mark.parametrize("saves_before", [0, 2])
def test_an_interrupted_fresh_training_of_a_finished_model_goes_on_without_fresh(
    model, saves_before, options, tmp_path, monkeypatch, caplog
):
    stage, folder = STAGES[model], tmp_path / "work" / "weights" / model
    stage.main(options("work"))
    calm = sha256(folder)
    saves = stop_after(saves_before, monkeypatch, lambda: stage.main(options("work", "--fresh")))
    assert not (folder.parent / "earlier").exists()
    assert (folder / "weights.safetensors").exists() and len(list((folder / "resume").glob("*.pt"))) == saves_before
    begins, load = [], Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self: begins.append(load(self)) or begins[-1])
    with caplog.at_level("INFO"):
        stage.main(options("work"))
    assert "reused, it was trained" not in caplog.text
    assert begins[0] == (saves[-1] if saves else 0) and sha256(folder) == calm


@pytest.mark.parametrize("model", STAGES)
def test_what_another_training_left_is_kept_and_can_be_gone_on_with(model, options, tmp_path, monkeypatch, caplog):
    stage, weights = STAGES[model], tmp_path / "work" / "weights"
    changed = {"detector": "seed=7", "a": "embedders.0.seed=7"}[model]
    caplog.set_level("INFO")
    stage.main(options("work"))
    first, config = sha256(weights / model), (weights / "config.yaml").read_bytes()
    stage.main(options("work"))
    stage.main(options("work", "match.neighbours=2"))  # no part of the training
    assert not (weights / "earlier").exists()
    stage.main(options("work"))

    for saves in (0, 2):  # what it writes over is kept once
        stop_after(saves, monkeypatch, lambda: stage.main(options("work", changed)))
    kept = weights / "earlier" / "1"
    assert [path.name for path in (weights / "earlier").iterdir()] == ["1"]
    assert f"{weights / model}: trained with another config or data before, which is kept in {kept / model}" in caplog.text
    assert sha256(kept / model) == first and (kept / "config.yaml").read_bytes() == config

    stage.main(options("work"))  # the old config again: what the interrupted one did is kept too
    second = weights / "earlier" / "2"
    assert sha256(weights / model) == first and list((second / model / "resume").glob("*.pt"))
    begins, load = [], Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self: begins.append(load(self)) or begins[-1])
    stage.main(options("work", changed, "--weights", str(second)))
    assert begins[0] == 2
    stage.main(options("calm", changed))
    assert sha256(second / model) == sha256(tmp_path / "calm" / "weights" / model)
    caplog.clear()
    stage.main(options("work", "--weights", str(kept)))
    assert f"{kept / model}: reused, it was trained with this config on this data" in caplog.text


def test_each_set_of_models_that_was_is_kept_with_its_config(options, tmp_path):
    """First the embedders change, then the detector, then both: the set before is kept each time, once."""
    weights, sets = tmp_path / "work" / "weights", []
    changes = [[], ["embedders.0.seed=7"], ["embedders.0.seed=7", "seed=7"], ["embedders.0.seed=8", "seed=8", "match.neighbours=2"]]
    for more in changes:
        for stage in (bbox_sub.train, metric_sub.train):
            stage.main(options("work", *more))
        sets.append(({name: sha256(weights / name) for name in ("detector", "a", "b")}, load_config(weights / "config.yaml", [])))
    assert len({(of["detector"], of["a"]) for of, _ in sets}) == 4
    kept = sorted((weights / "earlier").iterdir())
    assert [path.name for path in kept] == ["1", "2", "3"]
    for folder, (of_models, config) in zip(kept, sets[:3], strict=True):
        assert {name: sha256(folder / name) for name in of_models} == of_models
        assert load_config(folder / "config.yaml", []) == config
        for stage in (detections, embeddings):
            stage.read_trained(config, folder)
    assert [model["name"] for model in read_status(tmp_path / "work", weights)["models"]] == ["detector", "a", "b"]


def test_the_config_is_renewed_where_the_detector_stays_and_no_embedder_is_there(options, tmp_path):
    for more in ([], ["detect.video_score=0.5"]):
        bbox_sub.train.main(options("work", *more))
    assert load_config(tmp_path / "work" / "weights" / "config.yaml", []).detect.video_score == 0.5


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


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (["embedders.1.pretrained=nowhere.pt"], r"nowhere\.pt: no such weights file"),
        (["embedders.1.backbone=resnet10x"], "embedders: b: timm has no backbone 'resnet10x'"),
        (["embedders.1.backbone=efficientvit_b0"], "embedders: b: backbone 'efficientvit_b0': expected a convolutional network"),
        (["embedders.1.batch_size=1"], r"embedders\.b\.batch_size: expected 2 or more"),
    ],
)
def test_an_embedder_that_cannot_be_trained_is_refused_before_anything_is(options, fault, words, tmp_path):
    with pytest.raises(UserError, match=words):
        metric_sub.train.main(options("work", *fault, "--check"))
    assert not (tmp_path / "work").exists()
    with pytest.raises(UserError, match=words):  # alone too, before the first model
        metric_sub.train.main(options("work", *fault))
    assert not (tmp_path / "work" / "weights" / "a").exists() and not (tmp_path / "work" / "frames").exists()


def test_more_cycles_than_the_second_model_has_steps_are_refused_before_the_first_trains(options, tmp_path):
    with pytest.raises(UserError, match=r"phases\.0\.cycles: expected at most \d+, the steps of this phase"):
        metric_sub.train.main(options("work", "embedders.1.epochs=1", "embed_train.phases.0.cycles=9", "embedders.0.epochs=50"))
    assert not (tmp_path / "work" / "weights" / "a").exists()


def test_a_check_trains_nothing_and_what_is_refused_writes_nothing_over(options, tmp_path):
    given = tmp_path / "given.pt"
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), given)
    more = ["embedders.0.backbone=resnet10t", f"embedders.0.pretrained={given}"]
    metric_sub.train.main(options("work", *more, "--check"))
    assert not (tmp_path / "work").exists()
    metric_sub.train.main(options("work", *more))
    weights = tmp_path / "work" / "weights"
    before = {path: path.read_bytes() for path in weights.rglob("*") if path.is_file() and path.name != ".lock"}
    given.unlink()  # without the file the model does not count as trained with it
    for arguments in (["--check"], ["--check", "--fresh"], []):
        with pytest.raises(UserError, match=r"given\.pt: no such weights file"):
            metric_sub.train.main(options("work", *more, *arguments))
    with pytest.raises(UserError, match="timm has no backbone"):
        metric_sub.train.main(options("work", "embedders.0.backbone=resnet10x"))
    assert before == {path: path.read_bytes() for path in weights.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_check_has_nothing_fetched_for_a_finished_model_that_stays(options, monkeypatch):
    metric_sub.train.main(options("work"))

    def fetched(model, embed, *, load_pretrained):
        asked[model.name] = load_pretrained

    monkeypatch.setattr(metric_sub.train, "build_embedder", fetched)
    for arguments, expected in (([], False), (["--fresh"], True)):
        asked = {}
        metric_sub.train.main(options("work", "embedders.0.pretrained=true", "--check", *arguments))
        assert asked == {"a": expected, "b": True}


def test_data_without_a_product_trains_no_embedder(options, tiny_data):
    for path in (tiny_data / "train").rglob("*_annotation/**/*.json"):
        path.write_text(re.sub(r'"instance_id": \d+', '"instance_id": 0', path.read_text()))
    with pytest.raises(UserError, match="no labelled product to train on: expected boxes with instance_id above 0"):
        metric_sub.train.main(options("work"))


@pytest.mark.parametrize(
    ("checkpoint_every", "killed_at"), [(1, 3), (6, 6)], ids=["within a phase", "where a phase begins"]
)
def test_a_killed_process_that_is_started_again_ends_with_the_undisturbed_file(
    options, tmp_path, checkpoint_every, killed_at
):
    more = [
        phases((6, 2, "last"), (4, 4, "best")),
        f"detector_train.checkpoint_every={checkpoint_every}",
        "detector_train.ema=0.5",
        "detector_train.optimizer=sgd",
    ]
    bbox_sub.train.main(options("calm", *more))
    folders = [tmp_path / work / "weights" / "detector" for work in ("calm", "killed")]
    process = start(options("killed", *more))
    while not (folders[1] / "resume" / f"{killed_at:08d}.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folders[1] / "resume").exists()  # it was not finished
    bbox_sub.train.main(options("killed", *more))
    assert sha256(folders[0]) == sha256(folders[1])
    assert rows_of(folders[0]) == rows_of(folders[1])


def test_a_phase_starts_from_the_best_weights_of_its_run(options, tmp_path, monkeypatch):
    """Evaluated after every step; the second is the best."""
    values = iter([0.1, 0.6, 0.3, 0.2, 0.4])
    weights, best = [], []

    def judge(model, pictures, config):
        weights.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return {"mAP": next(values), "AP50": 0.0, "AR": 0.0}

    def begin(number, settings, network, *others):
        begin_phase(number, settings, network, *others)
        best.append({name: weight.clone() for name, weight in network.state_dict().items()})

    begin_phase = bbox_sub.train.begin_phase
    monkeypatch.setattr(bbox_sub.train, "evaluate_detector", judge)
    monkeypatch.setattr(bbox_sub.train, "begin_phase", begin)
    bbox_sub.train.main(options("work", phases((4, 10, "last"), (1, 10, "best")), "detector_train.ema=0.5"))
    assert len(weights) == 5 and len(best) == 2  # ten pictures: each step is an epoch
    assert all((best[1][name] == value).all() for name, value in weights[1].items())
    assert any((best[1][name] != value).any() for name, value in weights[3].items())
    saved = load_file(tmp_path / "work" / "weights" / "detector" / "weights.safetensors")
    assert all((saved[name] == value.numpy()).all() for name, value in weights[1].items())


def test_a_phase_starts_from_a_models_folder(options, tmp_path, capsys):
    bbox_sub.train.main(options("first"))
    first = tmp_path / "first" / "weights" / "detector"
    rate = "detector_train.phases.0.learning_rate=1e-12"  # so that it stays where it starts
    more = [phases((2, 2, first)), rate, "detector_train.ema=0.0", "detector.norm=frozen"]
    bbox_sub.train.main(options("second", *more))
    again, was = (load_file(folder / "weights.safetensors") for folder in (tmp_path / "second/weights/detector", first))
    assert all(abs(again[name] - value).max() < 1e-6 for name, value in was.items() if "num_batches" not in name)
    for start, expected in (
        (tmp_path / "nowhere", "no trained model here"),
        (first, "trained with categories"),
    ):
        with pytest.raises(UserError, match=rf"detector_train\.phases\.0\.start.*{expected}"):
            bbox_sub.train.main(options("third", phases((2, 2, start)), "detector.categories=[top, skirt]"))


def test_weights_that_a_training_starts_from_or_that_were_imported_are_not_written_over(options, tmp_path):
    bbox_sub.train.main(options("work"))
    folder = tmp_path / "work" / "weights" / "detector"
    before = sha256(folder)
    with pytest.raises(UserError, match=r"detector_train\.phases\.0\.start: .*is where this training writes"):
        bbox_sub.train.main(options("work", phases((2, 2, folder))))
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, "imported": {}, "fingerprint": "imported"}))
    with pytest.raises(UserError, match="holds imported weights.*phases.0.start.*--fresh"):
        bbox_sub.train.main(options("work"))
    assert sha256(folder) == before
    bbox_sub.train.main(options("work", "--fresh"))
    assert "imported" not in json.loads((folder / "model.json").read_text())


def test_a_phase_does_not_start_from_norms_of_another_family(options, tmp_path):
    bbox_sub.train.main(options("first"))
    first = tmp_path / "first" / "weights" / "detector"
    with pytest.raises(UserError, match="norm 'batch' .config: 'group'"):
        bbox_sub.train.main(options("second", phases((2, 2, first)), "detector.norm=group"))


def test_pictures_without_boxes_and_with_distractors_alone_train(options, tiny_data, tmp_path):
    for path in (tiny_data / "train").rglob("*_annotation/**/*.json"):
        tree = json.loads(path.read_text())
        for frame in tree.get("frames", [tree]):
            if path.stem == "1":
                frame["annotations"] = [{**each, "instance_id": 0} for each in frame["annotations"]]
            else:
                frame["annotations"] = []
        path.write_text(json.dumps(tree))
    bbox_sub.train.main(options("work", phases((6, 2, "last"))))
    folder = tmp_path / "work" / "weights" / "detector"
    assert all(0 <= float(row["loss"]) < 100 for row in rows_of(folder) if row["loss"])
    assert json.loads((folder / "model.json").read_text())["data"] == {
        "pictures": 10,
        "pictures_without_boxes": 8,
        "boxes": 4,
        "boxes_clipped": 0,
        "boxes_dropped": 0,
    }


def test_the_log_has_every_loss_of_every_iteration_and_the_rate(options, tmp_path):
    rates = "detector_train.warmup_iterations=2"
    bbox_sub.train.main(options("work", phases((3, 2, "last"), (3, 2, "last")), rates))
    rows = [row for row in rows_of(tmp_path / "work" / "weights" / "detector") if row["loss"]]
    assert [int(row["step"]) for row in rows] == list(range(6))
    for row in rows:
        losses = [float(value) for name, value in row.items() if name.startswith("loss_")]
        assert len(losses) == 4 and sum(losses) == pytest.approx(float(row["loss"]))
    assert [float(row["rate"]) for row in rows] == pytest.approx([0.0005, 0.001, 0.001] * 2)


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
