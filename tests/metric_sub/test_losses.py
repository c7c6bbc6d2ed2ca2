"""ArcFace against its written formula, and the memory of earlier batches."""

import math

import pytest
import torch
from torch.nn import functional as F

from metric_sub.losses import EmbeddingMemory, build_arcface
from shared.config import EmbedTrain


def settings(tiny_config, **keys):
    return EmbedTrain.model_validate({**tiny_config.embed_train.model_dump(), **keys})


def formula(embeddings, classes, weights, scale, margin, smoothing):
    """Cross-entropy over s cos(angle), where the true class's angle grows by the margin (Deng et al. 2019, equation 3).

    Where the angle would pass half a turn, the authors' code goes on by a line that keeps falling: cos(angle) - m sin(m).
    """
    cosine = (F.normalize(embeddings, dim=1) @ F.normalize(weights, dim=0)).double()
    angle = torch.arccos(cosine.clamp(-1, 1))
    moved = torch.where(angle + margin <= math.pi, torch.cos(angle + margin), cosine - margin * math.sin(margin))
    logits = scale * torch.where(F.one_hot(classes, weights.shape[1]).bool(), moved, cosine)
    return F.cross_entropy(logits, classes, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.3), (64.0, 0.5), (10.0, 0.0)])
def test_arcface_by_its_formula(tiny_config, scale, margin, smoothing):
    torch.manual_seed(0)
    loss = build_arcface(
        settings(tiny_config, arcface_scale=scale, arcface_margin=margin, label_smoothing=smoothing), 7, 16
    )
    assert loss.W.shape == (16, 7)
    embeddings, classes = torch.randn(12, 16), torch.arange(12) % 7
    expected = formula(embeddings, classes, loss.W.detach(), scale, margin, smoothing)
    assert loss(embeddings, classes).item() == pytest.approx(expected.item(), rel=1e-4)


def test_angles_over_half_a_turn(tiny_config):
    loss = build_arcface(settings(tiny_config, arcface_scale=30.0, arcface_margin=0.5, label_smoothing=0.0), 2, 2)
    with torch.no_grad():
        loss.W.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    embeddings, classes = torch.tensor([[-1.0, 0.05], [-1.0, -0.6]]), torch.tensor([0, 0])
    assert loss(embeddings, classes).item() == pytest.approx(
        formula(embeddings, classes, loss.W.detach(), 30.0, 0.5, 0.0).item(), rel=1e-3
    )


def test_the_margin_makes_it_harder(tiny_config):
    torch.manual_seed(0)
    embeddings, classes, losses = torch.randn(12, 16), torch.arange(12) % 7, []
    for margin in (0.0, 0.2, 0.4):
        torch.manual_seed(1)
        losses.append(build_arcface(settings(tiny_config, arcface_margin=margin), 7, 16)(embeddings, classes).item())
    assert losses[0] < losses[1] < losses[2]


def test_lengths_do_not_count(tiny_config):
    torch.manual_seed(0)
    loss = build_arcface(settings(tiny_config), 7, 16)
    embeddings, classes = torch.randn(12, 16), torch.arange(12) % 7
    assert loss(embeddings, classes).item() == pytest.approx(loss(3 * embeddings, classes).item(), rel=1e-4)


def batch(k, size=4, dimension=3):
    """Batch k: its samples carry their number, so that they can be told apart."""
    numbers = torch.arange(size * k, size * (k + 1))
    return numbers[:, None].float().repeat(1, dimension), numbers


@pytest.mark.parametrize(
    ("size", "remembered"),
    [(4, {12, 13, 14, 15}), (8, set(range(8, 16))), (12, set(range(4, 16))), (100, set(range(16)))],
)
def test_memory_keeps_the_last_ones(size, remembered):
    memory = EmbeddingMemory(size, 3)
    for k in range(4):
        memory.join(*batch(k))
    embeddings, classes = memory.join(*batch(4))
    assert (
        classes[:4].tolist() == batch(4)[1].tolist()
        and set(classes[4:].tolist()) == remembered
        and len(classes) == 4 + len(remembered)
    )
    assert torch.equal(embeddings[:, 0], classes.float())  # each embedding has kept its class


def test_memory_between_whole_batches_never_holds_more_nor_older_ones():
    memory = EmbeddingMemory(6, 3)
    for k in range(5):
        memory.join(*batch(k))
    remembered = memory.join(*batch(5))[1][4:].tolist()
    assert len(remembered) == 6 and set(range(16, 20)) < set(remembered) and set(remembered) <= set(range(12, 20))


def test_the_first_batch_stands_alone_and_no_memory_is_no_memory():
    for size in (0, 5):
        memory = EmbeddingMemory(size, 3)
        embeddings, classes = memory.join(*batch(0))
        assert torch.equal(embeddings, batch(0)[0]) and torch.equal(classes, batch(0)[1])
    memory = EmbeddingMemory(0, 3)
    memory.join(*batch(0))
    assert memory.join(*batch(1))[1].tolist() == batch(1)[1].tolist()


def test_gradients_reach_the_batch_and_the_classes_but_not_the_past(tiny_config):
    torch.manual_seed(0)
    loss, memory = build_arcface(settings(tiny_config), 3, 4), EmbeddingMemory(8, 4)
    old, new = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    memory.join(old, torch.zeros(4, dtype=torch.long))
    joined = memory.join(new, torch.ones(4, dtype=torch.long))
    loss(*joined).backward()
    assert old.grad is None and new.grad.abs().sum() > 0 and loss.W.grad.abs().sum() > 0
    alone = build_arcface(settings(tiny_config), 3, 4)
    with torch.no_grad():
        alone.W.copy_(loss.W)
    expected = (
        alone(new.detach(), torch.ones(4, dtype=torch.long)) + alone(old.detach(), torch.zeros(4, dtype=torch.long))
    ) / 2
    assert loss(*joined).item() == pytest.approx(
        expected.item(), rel=1e-5
    )  # what is remembered counts as further samples


@pytest.mark.parametrize("n_batches", [1, 2, 5])
def test_memory_comes_back_from_a_checkpoint(n_batches):
    memory, other = EmbeddingMemory(6, 3), EmbeddingMemory(6, 3)
    for k in range(n_batches):
        memory.join(*batch(k))
    other.load_state_dict(memory.state_dict())
    for mine, theirs in zip(memory.join(*batch(9)), other.join(*batch(9)), strict=True):
        assert torch.equal(mine, theirs)
