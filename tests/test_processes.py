"""A training in several real processes: the losses of one, one voice, one lock, one end."""

import contextlib
import csv
import os
import subprocess
import sys

import pytest
import torch
from accelerate.utils import set_seed
from PIL import Image

import bbox_sub.train
import metric_sub.train
from metric_sub.batches import EmbedderBatches
from metric_sub.embedder import build_embedder, load_embedders
from metric_sub.losses import build_loss
from metric_sub.training_crops import crops_for
from shared.cli import config_of, parse_options
from shared.config import Config, dump_config
from shared.errors import UserError
from shared.lock import locked
from shared.runtime import PLAIN
from tests.conftest import PROJECT


@pytest.fixture
def options(tiny_data, tiny_config: Config, tmp_path):
    """The arguments of an entry: 20 iterations in two phases, on pictures of differing sizes, with frozen norms."""
    for name, box in (("000000/1", (0, 0, 64, 110)), ("000001/0", (0, 0, 50, 96))):
        path = tiny_data / "train" / "image" / f"{name}.jpg"
        with Image.open(path) as picture:
            picture.crop(box).save(path)
    tree = tiny_config.model_dump()
    tree["detector"]["norm"] = "frozen"
    phase = {"short_sides": [64, 80], "learning_rate": 0.001}
    tree["detector_train"] |= {
        "phases": [
            {**phase, "iterations": 12, "batch_size": 4, "start": "last"},
            {**phase, "iterations": 8, "batch_size": 2, "start": "best"},
        ],
        "warmup_iterations": 3,
        "evaluate_every": 2,
        "evaluate_pictures": 2,
    }
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(Config.model_validate(tree)))
    return lambda work: ["--config", str(path), "--data", str(tiny_data), "--work", str(tmp_path / work)]


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PROCESSES": "2"}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)


def losses_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name.startswith("loss")}
            for row in csv.DictReader(file)
            if row["loss"]
        ]


def test_two_processes_have_the_losses_of_one(options, tmp_path):
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"]
    ended = run(sys.executable, "-m", *launch, "--module", "bbox_sub.train", *options("two"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("phase 2 of 2: 8 iterations of 2 pictures from the best weights") == 1
    assert ended.stdout == ""
    bbox_sub.train.main(options("one"))
    one, two = (losses_of(tmp_path / work / "weights" / "detector") for work in ("one", "two"))
    assert len(one) == len(two) == 20 and len(one[0]) == 5
    apart = {name: [abs(a[name] - b[name]) for a, b in zip(one, two, strict=True)] for name in one[0]}
    # Its last bits may take a proposal across the IoU that makes it a product: in a step or two of the later ones the boxes' loss is another.
    boxes = {name: apart.pop(name) for name in ("loss", "loss_box_reg")}
    assert max(map(max, [*apart.values(), *(steps[:10] for steps in boxes.values())])) < 1e-3
    assert all(sorted(steps)[-3] < 1e-3 and max(steps) < 0.2 for steps in boxes.values())
    files = [
        sorted(path.name for path in (tmp_path / work / "weights" / "detector").iterdir()) for work in ("one", "two")
    ]
    assert files[0] == files[1]


def test_what_the_main_process_finds_ends_all_processes_in_words(options, tiny_data):
    path = tiny_data / "train" / "image" / "000001" / "1.jpg"
    path.write_bytes(path.read_bytes()[:1500])
    ended = run("bash", PROJECT / "run.sh", "train", *options("work"))
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.count(f"{path}: not a readable picture") == 1 and ended.stderr.count("error:") == 1
    assert "Traceback" not in ended.stderr


def test_only_the_main_process_holds_the_folder_and_speaks(options, tmp_path):
    with locked(tmp_path / "work"):
        ended = run("bash", PROJECT / "run.sh", "train", *options("work"))
    assert ended.returncode == 1
    assert ended.stderr.count("another run is using this work folder") == 1
    assert ended.stderr.count("error:") == 1 and "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(number, monkeypatch):
    environment = {**os.environ, "PROCESSES": number}
    command = ["bash", str(PROJECT / "run.sh"), "train", "--data", "nowhere"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and f"PROCESSES: expected a number from 1, found '{number}'" in ended.stderr


def test_a_batch_that_cannot_be_shared_is_refused(tiny_config):
    bbox_sub.train.check_batch_sizes(tiny_config.detector_train, 2)
    with pytest.raises(UserError, match=r"phases\.0\.batch_size: expected a multiple of 3.*found 2"):
        bbox_sub.train.check_batch_sizes(tiny_config.detector_train, 3)


def test_batch_norms_in_several_processes_are_told(tiny_config, caplog):
    network = bbox_sub.train.training_network(tiny_config)
    bbox_sub.train.warn_of_batch_norm(network, 1)
    assert not caplog.text
    bbox_sub.train.warn_of_batch_norm(network, 2)
    assert "batch norms in 2 processes: each normalises by its own share" in caplog.text
    caplog.clear()
    frozen = tiny_config.detector.model_copy(update={"norm": "frozen"})
    network = bbox_sub.train.training_network(tiny_config.model_copy(update={"detector": frozen}))
    bbox_sub.train.warn_of_batch_norm(network, 2)
    assert not caplog.text


def first_losses(arguments, n_steps):
    """The losses of the first model's first steps, without moving, as two processes should come to them."""
    with contextlib.ExitStack() as held:
        asked = parse_options("", arguments)
        config = config_of(asked)
        [(model, _), *_], crops, _ = metric_sub.train.prepare(asked, config, 2, held)
    settings = config.train_of(model)
    shares = [EmbedderBatches(crops_for(crops, settings), config, model, index, 2) for index in range(2)]
    set_seed(model.seed)
    network = build_embedder(model, config.embed, load_pretrained=True)
    loss = build_loss(settings.loss, shares[0].n_classes, config.embed.dimension, model.memory)
    losses = []
    for step in range(n_steps):
        metric_sub.train.set_mode(network, settings.phases[0])
        loss.set_margin(step / len(shares[0]))
        batches = [share[step] for share in shares]
        embeddings = torch.cat([network(batch.images) for batch in batches])
        classes, other_classes = (torch.cat([getattr(b, name) for b in batches]) for name in ("classes", "other_classes"))
        losses.append(loss(embeddings, classes, other_classes, batches[0].share).item())
    return losses


def test_embedders_train_in_two_processes(options, tmp_path):
    """With a frozen phase, accumulation and replays, which touch what the processes exchange."""
    phase = "task: products, augment: hard, learning_rate: 0.01, cycles: 1"
    more = [
        f"embed_train.phases=[{{share: 0.5, freeze_backbone: true, {phase}}}, {{share: 0.5, freeze_backbone: false, {phase}}}]",
        "embed_train.accumulate=2",
        "embed_train.replay_every=3",
        "embedders.0.epochs=4",
        "embedders.0.memory=6",
    ]
    ended = run("bash", PROJECT / "run.sh", "train", "--stage", "match", *options("work"), *more)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("embedder: a: phase 2 of 2") == 1
    assert "FutureWarning" not in ended.stderr
    for name, n_steps in (("a", 8), ("b", 2)):
        folder = tmp_path / "work" / "weights" / name
        assert len(losses_of(folder)) == n_steps and all(0 < row["loss"] < 100 for row in losses_of(folder))
        assert len(load_embedders(folder, runtime=PLAIN, flip=False)) == 1
    # The two shares of a batch one after the other, then one loss of both. The weights move after the second step for the first time.
    expected = first_losses(["--fresh", *options("alone"), *more], n_steps=2)
    found = [row["loss"] for row in losses_of(tmp_path / "work" / "weights" / "a")]
    assert found[:2] == pytest.approx(expected, abs=2e-3) and abs(found[0] - found[1]) > 0.01
    again = run("bash", PROJECT / "run.sh", "train", "--stage", "match", *options("work"), *more)
    assert again.returncode == 0 and again.stderr.count("reused, it was trained with this config") == 2
