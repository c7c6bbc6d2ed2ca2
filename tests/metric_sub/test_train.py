"""The parts of the embedders' training loop: rates, cycles, frozen backbones, replays, snapshots, and a batch that processes share."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import metric_sub.train
from metric_sub.batches import Batch
from metric_sub.embedder import build_embedder, load_embedders, weights_of
from metric_sub.replay import HardestBatch
from metric_sub.snapshots import Snapshots, average_networks
from metric_sub.train import cycle_ends, judge, learning_rates, set_mode
from shared.config import EmbedTrain
from shared.training import Best, mark_finished
from shared.weights import read_description
from tests.conftest import PROJECT

PHASE = {
    "share": 1.0,
    "task": "products",
    "augment": "hard",
    "learning_rate": 1.0,
    "freeze_backbone": False,
    "cycles": 1,
}


def settings(tiny_config, **keys):
    return EmbedTrain.model_validate({**tiny_config.embed_train.model_dump(), **keys})


def test_rates_of_two_phases_by_hand(tiny_config):
    """Ten steps: four with half of them warm-up, then six in two cycles of three, whose warm-up fills the first but one."""
    phases = [{**PHASE, "share": 0.4}, {**PHASE, "share": 0.6, "learning_rate": 0.1, "cycles": 2}]
    rates = learning_rates(settings(tiny_config, phases=phases, warmup=0.5), [0, 4, 10])
    cosine = lambda share: 0.5 * (1 + math.cos(math.pi * share))  # noqa: E731
    first = [0.5, 1.0, cosine(0), cosine(1 / 2)]
    second = [0.1 * each for each in (1 / 2, 1.0, cosine(0), cosine(0), cosine(1 / 3), cosine(2 / 3))]
    assert rates == pytest.approx([*first, *second])


@pytest.mark.parametrize(
    ("first", "end", "cycles", "expected"),
    [(0, 10, 1, [10]), (0, 10, 2, [5, 10]), (4, 10, 3, [6, 8, 10]), (0, 10, 3, [3, 7, 10])],
)
def test_cycles_share_a_phase_evenly(first, end, cycles, expected):
    assert cycle_ends(first, end, cycles) == expected


def test_there_is_a_rate_for_every_step_however_short_a_phase(tiny_config):
    for n_steps in range(1, 8):
        phases = [{**PHASE, "cycles": 3}]
        rates = learning_rates(settings(tiny_config, phases=phases, warmup=1.0), [0, n_steps])
        assert len(rates) == n_steps and all(0 < rate <= 1 for rate in rates)


def test_a_frozen_backbone_keeps_weights_and_statistics(tiny_config):
    config = settings(tiny_config, phases=[{**PHASE, "freeze_backbone": True, "share": 0.5}, {**PHASE, "share": 0.5}])
    network = build_embedder(tiny_config.embedders[0], tiny_config.embed, load_pretrained=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
    images = torch.rand(4, 3, 64, 64)
    for phase, moves in zip(config.phases, (False, True), strict=True):
        before = copy.deepcopy(network.state_dict())
        set_mode(network, phase)
        (network(images) * torch.arange(16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith("backbone.") for name in changed) is moves
        assert {"project.weight", "norm.weight", "norm.running_mean"} <= changed


def batch(number):
    return Batch(torch.full((1,), number), torch.zeros(1), torch.zeros(1), 1.0)


def replayed(hardest, losses, may=lambda step: True, start=0):
    """The batches that come again after the steps with these losses: {step: number of the batch}."""
    given = {}
    for step, loss in enumerate(losses, start):
        if again := hardest.after(step, loss, batch(step), may(step)):
            given[step] = int(again.images)
    return given


def test_the_hardest_of_every_few_steps_comes_again():
    losses = [1, 5, 2, 3, 9, 4, 4, 4, 1]
    assert replayed(HardestBatch(3, None), losses) == {2: 1, 5: 4, 8: 6}  # of equal losses the first
    assert replayed(HardestBatch(0, None), losses) == {}
    assert replayed(HardestBatch(1, None), losses) == dict(zip(range(9), range(9), strict=True))


def test_a_replay_waits_until_the_weights_move():
    assert replayed(HardestBatch(3, None), [1, 5, 2, 7, 1, 1, 1, 1], lambda step: step % 2 == 1) == {3: 3, 7: 4}


def test_the_hardest_batch_survives_a_checkpoint():
    losses, drawn = [1, 5, 2, 3, 9, 4], {step: batch(step) for step in range(6)}
    for cut in range(6):
        before, after = HardestBatch(3, drawn), HardestBatch(3, drawn)
        given = replayed(before, losses[:cut])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())) if cut else before.state_dict())
        assert given | replayed(after, losses[cut:], start=cut) == {2: 1, 5: 4}


@pytest.mark.parametrize(("recalls", "kept"), [([0.4, 0.6], 2), ([0.5, 0.5], 2), ([0.6, 0.4], 1)])
def test_concatenated_snapshots_are_kept_where_they_are_as_good(tiny_config, tmp_path, monkeypatch, recalls, kept):
    values = iter(recalls)
    monkeypatch.setattr(metric_sub.train, "recall_at_1", lambda *given: next(values))
    model, best = tiny_config.embedders[0], Best(keeps_weights=False)
    networks = [build_embedder(model, tiny_config.embed, load_pretrained=False) for _ in range(2)]
    for shown in (networks[1:], networks):
        judge(shown, tiny_config, model, None, tmp_path, best, 1.0)
    mark_finished(tmp_path, {})
    loaded = load_embedders(tmp_path, flip=False)
    images = torch.rand(2, 3, 64, 64)
    expected = networks if kept == 2 else networks[1:]
    assert len(loaded) == kept
    with torch.inference_mode():
        for network, embedder in zip(expected, loaded, strict=True):
            assert torch.equal(embedder.net(images), network(images))
    assert len(weights_of(read_description(tmp_path))) == (3 if kept == 2 else 1)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, rows):
        return self.norm(self.linear(rows))


def test_snapshots_are_averaged_and_their_norms_taken_anew():
    torch.manual_seed(0)
    network, snapshots, seen = Small(), Snapshots(), []
    for _ in range(3):
        nn.init.normal_(network.linear.weight)
        network(torch.randn(8, 3))
        snapshots.add(network)
        seen.append(network.linear.weight.detach().clone())
    again = Snapshots()
    again.load_state_dict(snapshots.state_dict())
    networks = again.networks(network)
    assert all(torch.equal(each.linear.weight, weight) for each, weight in zip(networks, seen, strict=True))
    rows = [torch.randn(50, 3) for _ in range(4)]
    average = average_networks(networks, [Batch(each, None, None, 1.0) for each in rows], torch.device("cpu"))
    weight = torch.stack(seen).mean(dim=0)
    assert torch.allclose(average.linear.weight, weight, atol=1e-6)
    outputs = [each @ weight.T + average.linear.bias for each in rows]
    assert torch.allclose(
        average.norm.running_mean, torch.stack([each.mean(dim=0) for each in outputs]).mean(dim=0), atol=1e-5
    )
    assert torch.allclose(
        average.norm.running_var, torch.stack([each.var(dim=0) for each in outputs]).mean(dim=0), atol=1e-5
    )


SHARED_BATCH = """
import json, sys, torch
from accelerate import Accelerator
import metric_sub.train
from metric_sub.batches import Batch
from metric_sub.losses import build_loss
from metric_sub.train import backward
from shared.config import load_config
from shared.processes import several_processes

with several_processes() as processes:
    config = load_config(sys.argv[1], ["embed_train.loss.pair=contrastive", "embed_train.loss.memory_for=both"])
    settings, accelerator = config.embed_train, Accelerator()
    torch.manual_seed(0)
    rows, classes = torch.randn(3, 8, 3, 1, 1), torch.arange(24).view(3, 8) % 3
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 5), torch.nn.Tanh())
    loss = build_loss(settings.loss, 3, 5, 12)
    shared = accelerator.prepare(net)
    mine = slice(processes.process_index, None, processes.num_processes)
    values = []
    for images, labels in zip(rows, classes):
        batch = Batch(images[mine], labels[mine], labels[mine], 1.0)
        values.append(backward(batch, settings.phases[0], settings, shared, loss, accelerator, 1.0))
    gradients = [weight.grad.flatten().tolist() for weight in (*net.parameters(), *loss.parameters())]
    if processes.is_main_process:
        print(json.dumps([values, sum(gradients, [])]))
"""


def test_a_batch_shared_by_processes_has_the_losses_and_gradients_of_the_whole(tmp_path):
    script = tmp_path / "shared_batch.py"
    script.write_text(SHARED_BATCH)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, str(script)]
    options = [
        "--multi_gpu",
        "--num_processes=2",
        "--main_process_port=0",
        "--mixed_precision=no",
        "--dynamo_backend=no",
    ]
    together = [sys.executable, "-m", "accelerate.commands.launch", *options, "--num_machines=1", str(script)]
    found = []
    for command in (alone, together):
        ended = subprocess.run(
            [*command, str(PROJECT / "configs" / "tiny.yaml")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr
        found.append(json.loads(ended.stdout))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4, abs=1e-6)
