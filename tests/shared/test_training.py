"""Schedule, optimiser groups, average of weights, checkpoints and the record of a training run."""

import csv
import math

import pytest
import torch
from PIL import Image
from torch import nn

from shared.training import Checkpoint, Record, average_of, finished, make_optimizer, mark_finished, warmup_cosine
from shared.weights import save_weights


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


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
    checkpoint = Checkpoint(
        folder, depends, {"model": model, "optimizer": optimizer, "average": average, "memory": None}
    )
    start = checkpoint.load().get("step", 0)
    for step in range(start, steps):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        if step + 1 == save_at:
            checkpoint.save(step=step + 1, best=0.5)
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


def test_progress_is_given_back_and_dropped(tmp_path):
    checkpoint = Checkpoint(tmp_path, {}, {"model": small_model()})
    assert checkpoint.load() == {}
    checkpoint.save(step=3, best=0.25)
    checkpoint.save(step=4, best=0.5)
    assert checkpoint.load() == {"step": 4, "best": 0.5}
    assert [path.name for path in (tmp_path / "resume").iterdir()] == ["state.pt"]
    checkpoint.drop()
    assert checkpoint.load() == {} and not (tmp_path / "resume").exists()


def test_a_model_is_finished_only_for_what_it_depends_on(tmp_path):
    assert not finished(tmp_path, {"key": 1})
    save_weights(tmp_path, small_model(), {"kind": "x"})
    assert not finished(tmp_path, {"key": 1})  # the run that writes it may go on
    mark_finished(tmp_path, {"key": 1})
    assert finished(tmp_path, {"key": 1}) and not finished(tmp_path, {"key": 2})
    save_weights(tmp_path, small_model(1), {"kind": "x"})
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
