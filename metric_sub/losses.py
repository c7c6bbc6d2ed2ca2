"""The losses of stage 2, by pytorch-metric-learning: a classifier, a pair loss, or both, and the embeddings that they remember."""

import math

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import (
    ArcFaceLoss,
    CircleLoss,
    ContrastiveLoss,
    MultiSimilarityLoss,
    SubCenterArcFaceLoss,
    SupConLoss,
)
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.reducers import MeanReducer
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn

from shared.config import EmbedLoss


def build_loss(settings: EmbedLoss, n_classes: int, dimension: int, memory: int) -> "EmbeddingLoss":
    """The loss for `n_classes` products and embeddings of `dimension` values, of which it remembers `memory`."""
    has_pairs = settings.pair != "none" and settings.pair_weight > 0
    return EmbeddingLoss(
        None if settings.classifier == "none" else _build_classifier(settings, n_classes, dimension),
        settings.margin,
        settings.margin_warmup,
        _build_pair_loss(settings.pair) if has_pairs else None,
        MultiSimilarityMiner(epsilon=0.1) if has_pairs and settings.pair == "multi_similarity" else None,
        settings.pair_weight,
        EmbeddingMemory(memory, dimension),
        settings.memory_for,
    )


def views_loss(embeddings: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, SimCLR): each view must tell its other view from all the rest of the batch. A scalar, float32.

    `embeddings` (B, D); `classes` (B,): equal ones are views of one crop. A view without another one only serves as the
    rest; with more than two it is the supervised contrastive loss (Khosla et al. 2020), which for two is NT-Xent: the
    library's NTXentLoss has the same values and takes memory in the order of B^3.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return SupConLoss(temperature, reducer=MeanReducer())(embeddings.float(), classes)


class EmbeddingMemory(nn.Module):
    """The last `size` embeddings and their classes, first in, first out (Wang et al. 2020, cross-batch memory).

    They carry no gradient to the network. All of it is in the state_dict, the part that is not filled yet too: the
    library's CrossBatchMemory leaves its place in the queue out, and serves pair losses alone.
    """

    def __init__(self, size: int, dimension: int):
        super().__init__()
        self.size = size
        self.register_buffer("embeddings", torch.zeros(size, dimension))
        self.register_buffer("classes", torch.full((size,), -1))  # -1: not filled yet

    def join(self, embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The batch (B, D), (B,) and after it what is remembered: (B + M, D), (B + M,)."""
        filled = self.classes >= 0
        return torch.cat([embeddings, self.embeddings[filled]]), torch.cat([classes, self.classes[filled]])

    def remember(self, embeddings: Tensor, classes: Tensor) -> None:
        """Takes in a batch; its last rows are the newest."""
        if self.size:
            self.embeddings.copy_(torch.cat([self.embeddings, embeddings.detach()])[-self.size :])
            self.classes.copy_(torch.cat([self.classes, classes])[-self.size :])


class EmbeddingLoss(nn.Module):
    """The classifier's loss plus `pair_weight` times the pair loss, in float32 also under autocast.

    Class matrix and memory are its state, and no part of the embedder. `memory_for` says for whom the remembered embeddings
    are: for the classifier they are further samples (they move the class matrix), for the pair loss further partners of
    the batch's embeddings, which alone are anchors.
    """

    def __init__(
        self,
        classifier: ArcFaceLoss | None,
        margin: float,
        margin_warmup: float,
        pair_loss: nn.Module | None,
        miner: nn.Module | None,
        pair_weight: float,
        memory: EmbeddingMemory,
        memory_for: str,
    ):
        super().__init__()
        self.classifier = classifier
        self.margin = margin
        self.margin_warmup = margin_warmup
        self.pair_loss = pair_loss
        self.miner = miner
        self.pair_weight = pair_weight
        self.memory = memory
        self.memory_for = memory_for
        self.set_margin(0.0)

    def set_margin(self, done: float) -> None:
        """The classifier's margin where a share `done` (0..1) of the model's steps is done: a line from 0 up to the full one."""
        if self.classifier is not None:
            rise = min(1.0, done / self.margin_warmup) if self.margin_warmup else 1.0
            self.classifier.margin = self.margin * rise

    def forward(self, embeddings: Tensor, classes: Tensor, other_classes: Tensor, share: float) -> Tensor:
        """A scalar, float32; the batch is remembered after it.

        `embeddings` (B, D) of unit length, `classes` and `other_classes` (B,) int64 from 0. Below 1, `share` is that of
        `classes` in crops mixed of two (Zhang et al. 2018, mixup): the classifier's loss is the weighted mean for both
        classes. Such embeddings belong to no one product: the pair loss leaves them out and they are not remembered.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.float()
            batch, joined = (embeddings, classes), self.memory.join(embeddings, classes)
            loss = embeddings.new_zeros(())
            if self.classifier is not None:
                samples, own = batch if self.memory_for == "pair" else joined
                loss = self.classifier(samples, own)
                if share < 1:
                    other = torch.cat([other_classes, own[len(classes) :]])
                    loss = share * loss + (1 - share) * self.classifier(samples, other)
            if share < 1:
                return loss
            if self.pair_loss is not None:
                partners = batch if self.memory_for == "classifier" else joined
                loss = loss + self.pair_weight * self._loss_of_pairs(*batch, *partners)
            self.memory.remember(embeddings, classes)
            return loss

    def _loss_of_pairs(self, embeddings: Tensor, classes: Tensor, partners: Tensor, partner_classes: Tensor) -> Tensor:
        """The pair loss of the batch's embeddings (B, D) with `partners` (B + M, D), whose first B rows are the batch."""
        if self.miner is None:
            anchors, positives, others, negatives = get_all_pairs_indices(classes, partner_classes)
        else:
            anchors, positives, others, negatives = self.miner(embeddings, classes, partners, partner_classes)
            # The library's miner counts an embedding that stands in both tensors as its own positive: where it has no
            # other one, there is nothing that its negatives could be too near for.
            has_positive = (classes[:, None] == partner_classes).sum(dim=1) > 1  # (B,)
            mined = has_positive[others]
            others, negatives = others[mined], negatives[mined]
        two = anchors != positives
        return self.pair_loss(
            embeddings, classes, (anchors[two], positives[two], others, negatives), partners, partner_classes
        )


def _build_classifier(settings: EmbedLoss, n_classes: int, dimension: int) -> ArcFaceLoss:
    """ArcFace (Deng et al. 2019): cross-entropy of s * cos(angle to the class, + m for the true one).

    With sub-centres (Deng et al. 2020) each class has several, of which the nearest counts. The class matrix W has a column
    for each of them, those of one class side by side.
    """
    keys = {
        "num_classes": n_classes,
        "embedding_size": dimension,
        "margin": math.degrees(settings.margin),
        "scale": settings.scale,
    }
    if settings.classifier == "subcenter":
        loss = SubCenterArcFaceLoss(sub_centers=settings.centers, **keys)
    else:
        loss = ArcFaceLoss(**keys)
    loss.cross_entropy = nn.CrossEntropyLoss(reduction="none", label_smoothing=settings.label_smoothing)
    return loss


def _build_pair_loss(name: str) -> nn.Module:
    """A loss over pairs by their cosine similarity, with the constants of its paper for image retrieval.

    multi_similarity: Wang et al. 2019, alpha 2, beta 50, epsilon 0.1 (of the miner); lambda 0.5 as in the authors' code (in
    the paper 1, where a negative counts only close to a similarity of 1).
    contrastive: as in Wang et al. 2020 (cross-batch memory), positives cost 1 - similarity, negatives what they have above
    0.5; the library takes the mean of the positives that cost something plus that of such negatives. (Its defaults, margins
    of the distance 0 and 1, start to push negatives at the same similarity of 0.5.)
    circle: Sun et al. 2020, m 0.4, gamma 80.
    """
    if name == "multi_similarity":
        return MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    if name == "contrastive":
        return ContrastiveLoss(pos_margin=1, neg_margin=0.5, distance=CosineSimilarity())
    return CircleLoss(m=0.4, gamma=80)
