"""A batch shared by several processes: losses and gradients are those of one process that has the whole batch.

Three things would else differ. torchvision samples anchors and proposals at random: here each picture has a seed of its own.
It pads pictures to the largest of those it is given: here to the largest of the whole batch, whose anchors are then the same.
And its losses are means over what was sampled, of which a process may have less than its share: here they are weighted by it.
"""

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

SAMPLED_BY = {
    "loss_objectness": "rpn",
    "loss_rpn_box_reg": "rpn",
    "loss_classifier": "roi_heads",
    "loss_box_reg": "roi_heads",
}


class PictureSampler(BalancedPositiveNegativeSampler):
    """torchvision's choice of anchors or proposals to learn from, each picture's drawn from its own of `seeds`."""

    def __init__(self, like: BalancedPositiveNegativeSampler):
        super().__init__(like.batch_size_per_image, like.positive_fraction)
        self.seeds: list[int] = []
        self.n_sampled = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = [], []
        for seed, matched in zip(self.seeds, matched_idxs, strict=True):
            torch.manual_seed(seed)
            for drawn, of_picture in zip((positive, negative), super().__call__([matched]), strict=True):
                drawn += of_picture
        self.n_sampled = int(sum(mask.sum() for mask in positive + negative))
        return positive, negative


class BatchShares:
    """Makes a torchvision detector's training step the same however many processes share its batch."""

    def __init__(self, network: GeneralizedRCNN, accelerator: Accelerator, seed: int):
        self._accelerator = accelerator
        self._seed = seed
        self._transform = network.transform
        self._samplers = {"rpn": PictureSampler(network.rpn.fg_bg_sampler)}
        self._samplers["roi_heads"] = PictureSampler(network.roi_heads.fg_bg_sampler)
        network.rpn.fg_bg_sampler = self._samplers["rpn"]
        network.roi_heads.fg_bg_sampler = self._samplers["roi_heads"]

    def begin(self, step: int, n_pictures: int, canvas_hw: tuple[int, int]) -> None:
        """To be called before the network sees this process's `n_pictures` of the batch of `step`."""
        first, every = self._accelerator.process_index, self._accelerator.num_processes
        places = [first + every * k for k in range(n_pictures)]
        seeds = [int(np.random.default_rng([self._seed, 2, step, place]).integers(2**31)) for place in places]
        for sampler in self._samplers.values():
            sampler.seeds = seeds
        self._transform.canvas_hw = canvas_hw

    def weigh(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses times this process's share of all that was sampled, so that their mean over processes is the batch's."""
        own = torch.tensor([float(sampler.n_sampled) for sampler in self._samplers.values()])
        own = own.to(self._accelerator.device)
        weights = own * self._accelerator.num_processes / self._accelerator.reduce(own, "sum").clamp(min=1)
        of = dict(zip(self._samplers, weights, strict=True))
        return {name: loss * of[SAMPLED_BY[name]] for name, loss in losses.items()}


class WholeBatch:
    """The same interface for detectron2's network, which has its whole batch in one process."""

    def __init__(self, network: torch.nn.Module, accelerator: Accelerator, seed: int):
        self._seed = seed

    def begin(self, step: int, n_pictures: int, canvas_hw: tuple[int, int]) -> None:
        torch.manual_seed(self._seed + step)  # it samples proposals at random

    def weigh(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        return losses
