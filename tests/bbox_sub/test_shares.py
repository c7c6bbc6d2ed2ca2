"""A batch shared by several processes: the shares' losses and gradients are those of the whole batch."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from bbox_sub.detector import build_detector
from bbox_sub.shares import SAMPLED_BY, BatchShares, PictureSampler


@dataclass
class OneOf:
    """Stands for an Accelerator in one of several processes; `sums` gives what their reductions come to."""

    process_index: int
    num_processes: int
    sums: torch.Tensor | None = None
    device: str = "cpu"

    def reduce(self, values, how):
        assert how == "sum"
        self.own = values
        return values if self.sums is None else self.sums


def targets_of(*boxes):
    return [{"boxes": torch.tensor(each).reshape(-1, 4), "labels": torch.ones(len(each), dtype=int)} for each in boxes]


IMAGES = [torch.rand(3, *size, generator=torch.Generator().manual_seed(k)) for k, size in enumerate(
    [(64, 96), (80, 64), (120, 70), (64, 64)]
)]  # fmt: skip
TARGETS = targets_of([[5.0, 5.0, 40.0, 40.0], [30.0, 10.0, 90.0, 60.0]], [], [[2.0, 2.0, 60.0, 110.0]], [])
CANVAS = (120, 96)


@pytest.fixture
def network(tiny_config):
    """A detector whose pictures have fewer proposals than it would sample: shares then have unequal numbers of them."""
    torch.manual_seed(0)
    few = tiny_config.detector.model_copy(update={"proposals": 50})
    network = build_detector(few, load_pretrained=False, proposals_sampled=64)
    for part in network.modules():  # normalise by running means, as frozen ones do: a share's own would be others
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    return network


def losses_of(network, process, n_processes, sums=None):
    """The weighed losses of one process, and what it gave to the reduction."""
    accelerator = OneOf(process, n_processes, sums)
    shares = BatchShares(network, accelerator, seed=3)
    own = slice(process, None, n_processes)
    shares.begin(7, len(IMAGES[own]), CANVAS)
    losses = shares.weigh(network(IMAGES[own], [dict(target) for target in TARGETS[own]]))
    return losses, accelerator.own


@pytest.mark.parametrize("n_processes", [2, 4])
def test_the_mean_of_the_shares_is_the_whole_batch(network, n_processes):
    whole, n_sampled = losses_of(network, 0, 1)
    assert set(whole) == set(SAMPLED_BY)
    sum(whole.values()).backward()
    gradients = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.requires_grad}
    network.zero_grad()
    counts = [losses_of(network, process, n_processes)[1] for process in range(n_processes)]
    assert torch.equal(sum(counts), n_sampled)
    assert len({tuple(count.tolist()) for count in counts}) > 1  # else nothing would have to be weighed
    shares = [losses_of(network, process, n_processes, n_sampled)[0] for process in range(n_processes)]
    for name, loss in whole.items():
        assert torch.isclose(sum(share[name] for share in shares) / n_processes, loss, rtol=1e-5), name
    (sum(sum(share.values()) for share in shares) / n_processes).backward()
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_one_process_changes_nothing_but_the_draw(network):
    for name, loss in losses_of(network, 0, 1)[0].items():
        again = losses_of(network, 0, 1)[0][name]
        assert torch.equal(loss, again) and torch.isfinite(loss)


def test_a_pictures_sample_depends_on_its_seed_alone():
    rng = np.random.default_rng(0)
    matched = [torch.from_numpy(rng.integers(-1, 2, size)) for size in (500, 300, 40)]
    sampler = PictureSampler(BalancedPositiveNegativeSampler(64, 0.25))
    sampler.seeds = [1, 2, 3]
    positive, negative = sampler(matched)
    assert sampler.n_sampled == sum(int(mask.sum()) for mask in positive + negative)
    for of_picture, kind in ((positive, 1), (negative, 0)):
        for mask, match in zip(of_picture, matched, strict=True):
            assert (match[mask.bool()] == kind).all()
    assert [int(mask.sum()) for mask in positive[:2]] == [16, 16] and int(negative[0].sum()) == 48
    torch.rand(5)  # whatever was drawn before
    sampler.seeds = [3, 1]
    again = sampler([matched[2], matched[0]])
    assert torch.equal(again[0][0], positive[2]) and torch.equal(again[1][1], negative[0])
    sampler.seeds = [4]
    assert not torch.equal(sampler(matched[:1])[1][0], negative[0])
