"""Snapshots of a network at the ends of cyclic annealing (Huang et al. 2017), kept to be averaged or concatenated."""

import copy
from collections.abc import Iterable

import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from metric_sub.batches import Batch
from metric_sub.embedder import EmbeddingNet


class Snapshots:
    """Weights of a network as they were at some steps, on the CPU. A part of the checkpoint."""

    def __init__(self):
        self._weights: list[dict[str, torch.Tensor]] = []

    def add(self, network: EmbeddingNet) -> None:
        self._weights.append({name: weight.detach().cpu().clone() for name, weight in network.state_dict().items()})

    def networks(self, like: EmbeddingNet) -> list[EmbeddingNet]:
        """Each snapshot as a network of its own, in the order they were taken."""
        found = []
        for weights in self._weights:
            network = copy.deepcopy(like)
            network.load_state_dict(weights)
            found.append(network)
        return found

    def state_dict(self) -> dict:
        return {"weights": self._weights}

    def load_state_dict(self, state: dict) -> None:
        self._weights = state["weights"]


def average_networks(networks: list[EmbeddingNet], batches: Iterable[Batch], device: torch.device) -> EmbeddingNet:
    """The mean of the networks' weights; batch norms take their statistics anew from `batches` (Izmailov et al. 2018)."""
    average = AveragedModel(networks[0])
    for network in networks:
        average.update_parameters(network)
    update_bn(batches, average, device)
    return average.module
