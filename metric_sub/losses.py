"""The loss of stage 2: ArcFace (Deng et al. 2019) by pytorch-metric-learning, over a batch and what is remembered of earlier ones."""

import math

import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor, nn

from shared.config import EmbedLoss


def build_arcface(settings: EmbedLoss, n_classes: int, dimension: int) -> ArcFaceLoss:
    """Cross-entropy of s * cos(angle + m for the true class). Its class matrix (dimension, n_classes) is no part of the embedder."""
    loss = ArcFaceLoss(n_classes, dimension, margin=math.degrees(settings.margin), scale=settings.scale)
    loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=settings.label_smoothing)
    return loss


class EmbeddingMemory(nn.Module):
    """The last `size` embeddings and their classes, as further samples for the loss (after Wang et al. 2020, cross-batch memory).

    They carry no gradient to the network, only to the class matrix.
    """

    def __init__(self, size: int, dimension: int):
        super().__init__()
        self.size = size
        self.register_buffer("embeddings", torch.zeros(size, dimension))
        self.register_buffer("classes", torch.full((size,), -1))  # -1: not filled yet

    def join(self, embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The batch (B, D), (B,) with what is remembered after it; then the batch is remembered too."""
        filled = self.classes >= 0
        joined = torch.cat([embeddings, self.embeddings[filled]]), torch.cat([classes, self.classes[filled]])
        if self.size:
            self.embeddings = torch.cat([embeddings.detach(), self.embeddings])[: self.size]
            self.classes = torch.cat([classes, self.classes])[: self.size]
        return joined
