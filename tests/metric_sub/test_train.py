"""The parts of the embedders' training loop: rates, cycles, frozen backbones, replays, snapshots, and a batch that processes share."""

import copy
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import nn

import metric_sub.train
from metric_sub.batches import Batch, check_batch_size
from metric_sub.embedder import build_embedder, load_embedders
from metric_sub.losses import build_loss
from metric_sub.plan import plan_of
from metric_sub.replay import HardestBatch
from metric_sub.snapshots import Snapshots, average_networks
from metric_sub.train import backward, judge, set_mode, training_network
from shared.config import EmbedTrain
from shared.errors import UserError
from shared.runtime import PLAIN
from shared.training import Best
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


def cosine(share):
    return 0.5 * (1 + math.cos(math.pi * share))


def test_the_plan_of_two_phases_by_hand(tiny_config):
    """Four steps, half of them warm-up; then six in two cycles of three, of which the warm-up fills two steps of the first."""
    phases = [{**PHASE, "share": 0.4}, {**PHASE, "share": 0.6, "learning_rate": 0.1, "cycles": 2}]
    config = settings(tiny_config, phases=phases, warmup=0.5, accumulate=2, snapshots="average")
    plan = plan_of(config, [0, 4, 10])
    first = [0.5, 1.0, cosine(0), cosine(1 / 2)]
    second = [0.1 * each for each in (1 / 2, 1.0, cosine(0), cosine(0), cosine(1 / 3), cosine(2 / 3))]
    assert [step.rate for step in plan] == pytest.approx([*first, *second])
    assert [step.phase for step in plan] == [config.phases[0]] * 4 + [config.phases[1]] * 6
    assert [k for k, step in enumerate(plan) if step.begins] == [0, 4]
    assert [k for k, step in enumerate(plan) if step.moves] == [1, 3, 5, 6, 8, 9]  # every second of a cycle, and its last
    assert [k for k, step in enumerate(plan) if step.snapshot] == [6, 9]  # at the ends of the last phase's cycles
    assert not any(step.snapshot for step in plan_of(settings(tiny_config, phases=phases), [0, 4, 10]))


@pytest.mark.parametrize(("n_steps", "cycles", "expected"), [(10, 1, [9]), (10, 2, [4, 9]), (10, 3, [2, 6, 9])])
def test_cycles_share_a_phase_evenly(tiny_config, n_steps, cycles, expected):
    config = settings(tiny_config, phases=[{**PHASE, "cycles": cycles}], warmup=0.0, accumulate=100)
    assert [k for k, step in enumerate(plan_of(config, [0, n_steps])) if step.moves] == expected


@pytest.mark.parametrize("n_steps", range(3, 9))
def test_a_short_phase_has_a_rate_for_every_step(tiny_config, n_steps):
    plan = plan_of(settings(tiny_config, phases=[{**PHASE, "cycles": 3}], warmup=1.0), [0, n_steps])
    assert len(plan) == n_steps and all(0 < step.rate <= 1 for step in plan)


def test_more_cycles_than_steps_are_refused(tiny_config):
    with pytest.raises(UserError, match=r"embed_train\.phases\.0\.cycles: expected at most 2, .* found 3"):
        plan_of(settings(tiny_config, phases=[{**PHASE, "cycles": 3}]), [0, 2])


def test_an_average_of_snapshots_with_a_frozen_backbone_is_refused(tiny_config):
    frozen = {**PHASE, "freeze_backbone": True, "cycles": 2}
    with pytest.raises(ValidationError, match="average takes the statistics of all batch norms anew"):
        settings(tiny_config, phases=[frozen], snapshots="average")
    settings(tiny_config, phases=[frozen], snapshots="concatenate")


@pytest.mark.parametrize(("batch_size", "n_processes", "least"), [(1, 1, 2), (2, 2, 4), (3, 3, 6)])
def test_batch_norms_want_two_crops_in_each_process(batch_size, n_processes, least, tiny_config):
    model = tiny_config.embedders[0].model_copy(update={"batch_size": batch_size})
    with pytest.raises(UserError, match=rf"embedders\.a\.batch_size: expected {least} or more .*found {batch_size}"):
        check_batch_size(model, tiny_config.embed_train.phases, n_processes)
    check_batch_size(model.model_copy(update={"batch_size": least}), tiny_config.embed_train.phases, n_processes)


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


def test_nothing_of_a_phase_is_replayed_in_the_next():
    hardest = HardestBatch(5, None)
    assert replayed(hardest, [9, 1, 1]) == {}
    hardest.forget(3)
    assert replayed(hardest, [1, 1, 2, 1, 1, 1], start=3) == {7: 5}  # five steps after the phase began


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
        judge(shown, 1.0, tiny_config, model, None, tmp_path, best)
    loaded = load_embedders(tmp_path, runtime=PLAIN, flip=False)
    images = torch.rand(2, 3, 64, 64)
    expected = networks if kept == 2 else networks[1:]
    assert len(loaded) == kept
    with torch.inference_mode():
        for network, embedder in zip(expected, loaded, strict=True):
            assert torch.equal(embedder.net(images), network(images))


def test_norms_that_see_all_processes_keep_their_activations(tiny_config, monkeypatch):
    """torch's own conversion of an EfficientNet drops them: timm's norms hold the activation that follows."""
    model = tiny_config.embedders[0].model_copy(update={"backbone": "efficientnet_b0"})
    config = tiny_config.model_copy(update={"embedders": [model]})
    images, outputs = torch.rand(2, 3, 64, 64), []
    for n_processes in (1, 2):
        torch.manual_seed(0)
        accelerator = SimpleNamespace(num_processes=n_processes, device=torch.device("cuda"))
        network = training_network(config, model, accelerator).eval()
        assert any(isinstance(part, nn.SyncBatchNorm) for part in network.modules()) is (n_processes == 2)
        with torch.inference_mode():
            outputs.append(network(images))
    assert torch.equal(*outputs)


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


def test_two_accumulated_batches_have_the_mean_of_their_gradients(tiny_config):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.Tanh())
    rows, classes, phase = (
        torch.randn(2, 6, 3, 1, 1),
        torch.arange(12).view(2, 6) % 3,
        tiny_config.embed_train.phases[0],
    )
    config = settings(tiny_config, accumulate=2)
    accumulated, expected = [], []
    for total in (accumulated, expected):
        loss = build_loss(config.loss, 3, 5, 0)
        torch.manual_seed(1)
        nn.init.normal_(loss.classifier.W)
        net.zero_grad()
        if total is accumulated:
            for images, labels in zip(rows, classes, strict=True):
                given = Batch(images, labels, labels, 1.0)
                backward(given, phase, config, net, loss, Accelerator(), 1 / config.accumulate)
        else:
            values = [loss(net(images), labels, labels, 1.0) for images, labels in zip(rows, classes, strict=True)]
            torch.stack(values).mean().backward()
        total += [weight.grad.clone() for weight in (*net.parameters(), *loss.parameters())]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(accumulated, expected, strict=True))


def test_a_loss_that_is_no_number_is_told(tiny_config):
    net, phase = nn.Sequential(nn.Flatten(), nn.Linear(3, 5)), tiny_config.embed_train.phases[0]
    given = Batch(torch.full((2, 3, 1, 1), math.nan), torch.zeros(2).long(), torch.zeros(2).long(), 1.0)
    loss = build_loss(tiny_config.embed_train.loss, 3, 5, 0)
    with pytest.raises(UserError, match="embed_train.phases: the loss became nan. Lower the learning_rate"):
        backward(given, phase, tiny_config.embed_train, net, loss, Accelerator(), 1.0)


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
