"""Schedule, optimiser groups, average of weights, checkpoints and the record of a training run."""

import argparse
import contextlib
import copy
import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import shared.training
from shared.errors import UserError
from shared.training import (
    Best,
    Checkpoint,
    Record,
    accelerator_of,
    average_of,
    batch_loader,
    begin_anew,
    finished,
    hold_for_training,
    make_optimizer,
    mark_finished,
    running_mean,
    tell_precision,
    training_precision,
    warmup_cosine,
)
from shared.weights import save_weights


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def test_the_work_folder_is_no_weights_folder(tmp_path):
    """Its frames and crops would be kept among earlier models, and its lock be found taken, by the run itself."""
    (tmp_path / "link").symlink_to(tmp_path / "work")
    for weights in ("work", "link", "other/../work"):
        options = argparse.Namespace(work=tmp_path / "work", weights=tmp_path / weights)
        with pytest.raises(UserError, match="expected a folder for the models alone, found the work folder"), contextlib.ExitStack() as held:
            hold_for_training(options, held)
    assert not (tmp_path / "work").exists()


def test_models_of_one_training_may_differ_in_precision():
    for wanted in ("no", "bf16", "no"):
        accelerator = accelerator_of(wanted, "embed_train.precision")
        assert accelerator.mixed_precision == wanted
        with accelerator.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == {"no": torch.float32, "bf16": torch.bfloat16}[wanted]


@pytest.mark.parametrize(("n_steps", "n_warmup"), [(100, 10), (100, 0), (7, 3), (1, 0), (5, 5), (60000, 1000)])
def test_the_schedule_by_its_formula(n_steps, n_warmup):
    for step in range(0, n_steps, max(1, n_steps // 50)):
        expected = (
            (step + 1) / n_warmup
            if step < n_warmup
            else (math.cos(math.pi / 2 * (step - n_warmup) / (n_steps - n_warmup)) ** 2)
        )  # (1 + cos 2x) / 2 = cos^2 x
        assert warmup_cosine(step, n_steps, n_warmup) == pytest.approx(expected, abs=1e-12)


def test_the_schedule_at_its_corners():
    rates = [warmup_cosine(step, 100, 20) for step in range(100)]
    assert rates[0] == 1 / 20 and rates[19] == 1 and rates[20] == 1 and rates[60] == pytest.approx(0.5)
    assert all(a < b for a, b in zip(rates[:20], rates[1:20], strict=False))
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False)) and 0 < rates[99] < 0.001


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_only_matrices_decay_and_only_what_is_trained(name, kind):
    model = small_model()
    model[3].weight.requires_grad_(False)
    optimizer = make_optimizer(name, model, 0.1, 0.25, 0.9)
    assert type(optimizer) is kind
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert decay == {
        id(model[0].weight): 0.25,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
        id(model[3].bias): 0.0,
    }
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)


def test_momentum_reaches_sgd():
    model = nn.Linear(1, 1)
    optimizer = make_optimizer("sgd", model, 0.1, 0.0, 0.9)
    before = model.bias.item()
    for _ in range(2):  # velocity 1, then 0.9 * 1 + 1
        model.bias.grad = torch.ones(1)
        optimizer.step()
    assert model.bias.item() == pytest.approx(before - 0.1 * (1 + 1.9), abs=1e-6)


def test_the_average_of_weights_and_statistics_by_its_formula():
    model, decay = small_model(), 0.75
    average = average_of(model, decay)
    weight, mean = model[0].weight.detach().clone(), model[1].running_mean.clone()
    for k in range(4):
        with torch.no_grad():
            model[0].weight += k
            model[1].running_mean += k
        average.update_parameters(model)
        if k == 0:  # the first one is taken as it is
            weight, mean = model[0].weight.detach().clone(), model[1].running_mean.clone()
        else:
            weight = decay * weight + (1 - decay) * model[0].weight.detach()
            mean = decay * mean + (1 - decay) * model[1].running_mean
    assert torch.allclose(average.module[0].weight, weight, atol=1e-6)
    assert torch.allclose(average.module[1].running_mean, mean, atol=1e-6)
    assert average_of(model, 0.0) is None


def train(steps, folder, depends, save_at=None, stop_at=None):
    """A loop as the entry modules write it: resumes, saves after step `save_at`, is killed after step `stop_at`."""
    model = small_model()
    optimizer = make_optimizer("adamw", model, 0.01, 0.05, 0.9)
    average = average_of(model, 0.9)
    parts = {"model": model, "optimizer": optimizer, "average": average, "memory": None}
    checkpoint = Checkpoint(folder, depends, parts, keep=2)
    start = checkpoint.load()
    for step in range(start, steps):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        if step + 1 == save_at:
            checkpoint.save(step + 1)
        if step + 1 == stop_at:
            break
    return start, {**model.state_dict(), **{f"average.{name}": value for name, value in average.state_dict().items()}}


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    _, whole = train(12, tmp_path / "whole", {"key": 1})
    train(12, tmp_path / "killed", {"key": 1}, save_at=5, stop_at=7)
    start, resumed = train(12, tmp_path / "killed", {"key": 1})
    assert start == 5
    assert list(whole) == list(resumed) and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_with_another_config_starts_anew(tmp_path):
    train(12, tmp_path, {"key": 1}, save_at=5, stop_at=5)
    start, state = train(12, tmp_path, {"key": 2})
    assert start == 0
    assert all(torch.equal(value, state[name]) for name, value in train(12, tmp_path / "new", {"key": 2})[1].items())


def checkpoints_of(folder):
    return sorted(path.name for path in (folder / "resume").iterdir())


def marked(value):
    """A model that tells by its weights when it was saved."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    return model


def test_the_newest_checkpoints_are_kept_and_dropped_in_the_end(tmp_path):
    model = marked(0.0)
    checkpoint = Checkpoint(tmp_path, {}, {"model": model}, keep=2)
    assert checkpoint.load() == 0
    for step in (3, 20, 100):
        nn.init.constant_(model.weight, float(step))
        checkpoint.save(step)
    assert checkpoints_of(tmp_path) == ["00000020.pt", "00000100.pt"]
    resumed = marked(0.0)
    checkpoint = Checkpoint(tmp_path, {}, {"model": resumed}, keep=1)
    assert checkpoint.load() == 100 and resumed.weight.item() == 100
    checkpoint.save(110)
    assert checkpoints_of(tmp_path) == ["00000110.pt"]
    checkpoint.drop()
    assert checkpoint.load() == 0 and not (tmp_path / "resume").exists()


def flip_a_bit(data):
    data = bytearray(data)
    place = data.index(b"fingerprint") - 1  # within the pickled state
    data[place + 40] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", flip_a_bit, lambda data: b"PK" + data[2:-30]]
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(tmp_path, caplog, damage):
    model = marked(1.0)
    checkpoint = Checkpoint(tmp_path, {}, {"model": model}, keep=3)
    for step in (1, 2, 3):
        nn.init.constant_(model.weight, float(step))
        checkpoint.save(step)
    for name in ("00000003.pt", "00000002.pt"):
        path = tmp_path / "resume" / name
        path.write_bytes(damage(path.read_bytes()))
        resumed = marked(0.0)
        checkpoint = Checkpoint(tmp_path, {}, {"model": resumed}, keep=3)
        step = int(name[:8]) - 1
        assert checkpoint.load() == step and resumed.weight.item() == step
        assert f"{name}: damaged" in caplog.text
    checkpoint.save(4)
    assert checkpoints_of(tmp_path) == ["00000001.pt", "00000004.pt"]  # the damaged ones are gone


def test_with_no_whole_checkpoint_a_run_starts_anew(tmp_path):
    checkpoint = Checkpoint(tmp_path, {}, {"model": marked(1.0)}, keep=1)
    checkpoint.save(9)
    (tmp_path / "resume" / "00000009.pt").write_bytes(b"none")
    assert checkpoint.load() == 0


def test_a_run_that_starts_anew_keeps_its_own_checkpoints(tmp_path):
    for depends, step in (({"key": 1}, 500), ({"key": 2}, 7)):
        checkpoint = Checkpoint(tmp_path, depends, {"model": marked(1.0)}, keep=2)
        assert checkpoint.load() == 0
        checkpoint.save(step)
    assert checkpoints_of(tmp_path) == ["00000007.pt"]


def test_a_gradient_scaler_comes_back_as_it_was(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7, growth_interval=3)
    model = marked(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for gradient in (1.0, math.inf, 1.0, 1.0):  # halved once, then two good steps on the way to growth
        scaler.scale(model(torch.ones(1, 1)).sum() * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    Checkpoint(tmp_path, {}, {"scaler": scaler}, keep=1).save(4)
    resumed = torch.amp.GradScaler("cpu")
    Checkpoint(tmp_path, {}, {"scaler": resumed}, keep=1).load()
    assert resumed.state_dict() == scaler.state_dict() and resumed.get_scale() == 2.0**6
    assert resumed.state_dict()["_growth_tracker"] == 2


def test_optimiser_and_average_begin_anew():
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def step(model, optimizer, average):
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)

    model = small_model()
    for name in ("sgd", "adamw"):
        optimizer, average = make_optimizer(name, model, 0.01, 0.05, 0.9), average_of(model, 0.5)
        for _ in range(3):
            step(model, optimizer, average)
        begin_anew(optimizer, average)
        new = copy.deepcopy(model)
        new_optimizer, new_average = make_optimizer(name, new, 0.01, 0.05, 0.9), average_of(new, 0.5)
        for _ in range(3):
            step(model, optimizer, average)
            step(new, new_optimizer, new_average)
        for one, other in ((model, new), (average.module, new_average.module)):
            assert all(
                torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
            )
    begin_anew(optimizer, None)


@pytest.mark.parametrize("keeps_weights", [True, False])
def test_the_best_is_the_last_of_the_highest_and_keeps_its_weights(keeps_weights):
    model, best = marked(1.0), Best(keeps_weights)
    assert best.improved_by(0.0, model)  # even nothing is better than no weights at all
    nn.init.constant_(model.weight, 2.0)
    assert best.improved_by(0.5, model) and not best.improved_by(0.25, model)
    nn.init.constant_(model.weight, 3.0)
    again = Best(keeps_weights)
    again.load_state_dict(best.state_dict())
    assert again.value == 0.5
    assert again.weights["weight"].item() == 2.0 if keeps_weights else again.weights is None
    assert again.improved_by(0.5, model)


def machine(monkeypatch, gpu: int | None, cpu_bf16: bool) -> None:
    """A machine with a GPU of that major compute capability, or none, and a CPU that multiplies bf16 or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (gpu, 0))
    monkeypatch.setattr(shared.training, "cpu_has_bf16", lambda: cpu_bf16)


def test_half_precision_is_refused_without_a_gpu(monkeypatch):
    machine(monkeypatch, None, False)
    for precision in ("no", "bf16"):
        assert training_precision(precision, "x.precision") == precision
    with pytest.raises(UserError, match="x.precision: fp16 wants a GPU"):
        training_precision("fp16", "x.precision")
    machine(monkeypatch, 7, False)
    assert training_precision("fp16", "x.precision") == "fp16"


@pytest.mark.parametrize(
    ("gpu", "cpu_bf16", "chosen"), [(None, False, "no"), (None, True, "bf16"), (7, True, "fp16"), (8, False, "bf16"), (9, False, "bf16")]
)
def test_auto_computes_in_what_the_machine_multiplies(gpu, cpu_bf16, chosen, monkeypatch):
    machine(monkeypatch, gpu, cpu_bf16)
    assert training_precision("auto", "x.precision") == chosen


def test_bf16_that_is_only_emulated_is_told(monkeypatch, caplog):
    machine(monkeypatch, None, True)
    tell_precision("bf16", "x.precision")
    assert not caplog.records
    machine(monkeypatch, None, False)
    tell_precision("bf16", "x.precision")
    assert "x.precision: this CPU only emulates bf16" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_read_from_the_step_that_is_due(workers):
    items = [torch.tensor(k) for k in range(9)]
    assert [int(item) for item in batch_loader(items, 4, workers)] == [4, 5, 6, 7, 8]
    assert list(batch_loader(items, 9, workers)) == []


def test_a_model_is_finished_only_for_what_it_depends_on(tmp_path):
    assert not finished(tmp_path, {"key": 1})
    save_weights(tmp_path, small_model(), {"kind": "x", "architecture": {}})
    assert not finished(tmp_path, {"key": 1})  # the run that writes it may go on
    mark_finished(tmp_path, {"key": 1})
    assert finished(tmp_path, {"key": 1}) and not finished(tmp_path, {"key": 2})
    save_weights(tmp_path, small_model(1), {"kind": "x", "architecture": {}})
    assert not finished(tmp_path, {"key": 1})


def rows_of(folder):
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_record_of_a_resumed_run_has_every_step_once(tmp_path):
    record = Record(tmp_path, 0)
    for step in range(6):
        record.note(step, loss=1 / (step + 1))
    record.flush()
    resumed = Record(tmp_path, 4)  # the last checkpoint was after step 3
    for step in range(4, 8):
        resumed.note(step, loss=0.5)
        if step == 7:
            resumed.note(step, recall=0.75)
    resumed.draw()
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert [float(row["loss"]) for row in rows[:-1]] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 0.5, 0.5, 0.5, 0.5])
    assert rows[-1]["recall"] == "0.75" and rows[0]["recall"] == "" and rows[-1]["loss"] == ""
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"


def test_a_new_run_does_not_keep_the_record_of_the_last(tmp_path):
    first = Record(tmp_path, 0)
    first.note(0, loss=1.0)
    first.draw()
    second = Record(tmp_path, 0)
    second.note(0, loss=2.0)
    second.draw()
    assert [row["loss"] for row in rows_of(tmp_path)] == ["2.0"]


@pytest.mark.parametrize(("n", "width"), [(1, 3), (10, 0), (10, 2), (50, 7), (4, 9)])
def test_the_running_mean_by_its_formula(n, width):
    values = np.random.default_rng(0).random(n)
    expected = [values[max(0, k - width) : k + width + 1].mean() for k in range(n)]
    assert running_mean(values, width) == pytest.approx(expected)


@pytest.mark.parametrize("n_steps", [1, 29, 400])
def test_curves_of_any_length_are_drawn(tmp_path, n_steps):
    record = Record(tmp_path, 0)
    for step in range(n_steps):
        record.note(step, loss=1.0, rate=0.1)
    record.note(n_steps - 1, mAP=0.5)
    record.draw([n_steps // 2])
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height
