"""Running embedders and descriptors over crops: batches of one size, several models side by side, one unit vector per crop."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from metric_sub.crops import crops_of_boxes, to_input
from metric_sub.descriptors import unit_rows
from metric_sub.embedder import TrainedEmbedder
from metric_sub.whitening import Descriptors


@dataclass(frozen=True)
class Crops:
    """The crops of N boxes as each model wants them: per model a list of N pictures, uint8 (h, w, 3), and their groups (N,); and what
    each descriptor gives of them, (N, its length) float32."""

    n: int
    of_models: list[tuple[list[np.ndarray], np.ndarray]]
    described: list[np.ndarray]

    def __len__(self) -> int:
        return self.n

    @property
    def nbytes(self) -> int:
        return sum(crop.nbytes for crops, _ in self.of_models for crop in crops) + sum(each.nbytes for each in self.described)


class CropEmbedder:
    """Cuts boxes out of pictures and embeds the crops with every model.

    A model is a list: one network, or its snapshots, whose vectors are joined first. The models' unit vectors are
    concatenated and normalised again (the design's ensemble), with those of the descriptors behind them.
    """

    def __init__(self, models: list[list[TrainedEmbedder]], batch_size: int, descriptors: Descriptors | None = None):
        self._models = models
        self._batch_size = batch_size
        self._descriptors = descriptors or Descriptors()
        lengths = [embedder.dimension for model in models for embedder in model]
        self.dimension = sum(lengths) + sum(self._descriptors.lengths)
        self._added: list[Crops] = []

    def cut(self, image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> Crops:
        """The crops of a picture's boxes (N, 4)."""
        of_models = [crops_of_boxes(image_rgb, boxes_xyxy, model[0].crop_rule) for model in self._models]
        return Crops(len(boxes_xyxy), of_models, self._descriptors.of_boxes(image_rgb, boxes_xyxy))

    def embed(self, cuts: list[Crops]) -> np.ndarray:
        """(N, dimension) float32 unit vectors of all crops, in their order; those of one size share a batch."""
        if not cuts:
            return np.zeros((0, self.dimension), np.float32)
        vectors = []
        for k, model in enumerate(self._models):
            crops = [crop for cut in cuts for crop in cut.of_models[k][0]]
            groups = np.concatenate([cut.of_models[k][1] for cut in cuts])
            vectors.append(embed_by_model(model, crops, groups, self._batch_size))
        vectors += [np.concatenate(of_descriptor) for of_descriptor in zip(*(cut.described for cut in cuts), strict=True)]
        return join_vectors(vectors, [1.0] * len(self._models) + list(self._descriptors.weights.values()))

    def add(self, image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> None:
        """Takes the crops of a picture's boxes (N, 4) until the next `take`."""
        self._added.append(self.cut(image_rgb, boxes_xyxy))

    def take(self) -> np.ndarray:
        """(N, dimension) float32 unit vectors of all boxes since the last call, in the order they were added."""
        added, self._added = self._added, []
        return self.embed(added)


def embed_by_model(
    model: list[TrainedEmbedder], crops_rgb: list[np.ndarray], groups: np.ndarray, batch_size: int
) -> np.ndarray:
    """(N, sum of the networks' dimensions) float32 unit vectors, those of a model's networks joined; else as `embed_crops`."""
    return join_vectors([embed_crops(embedder, crops_rgb, groups, batch_size) for embedder in model])


@torch.inference_mode()
def embed_crops(
    embedder: TrainedEmbedder, crops_rgb: list[np.ndarray], groups: np.ndarray, batch_size: int
) -> np.ndarray:
    """(N, D) float32 unit vectors of crops whose sizes go by `groups` (N,)."""
    embed = _embed_by_torch if isinstance(embedder.net, nn.Module) else _embed_compiled
    vectors = np.zeros((len(crops_rgb), embedder.dimension), np.float32)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            vectors[chosen] = embed(embedder, [crops_rgb[k] for k in chosen])
    return vectors


def _embed_by_torch(embedder: TrainedEmbedder, crops_rgb: list[np.ndarray]) -> np.ndarray:
    net = embedder.net
    batch = to_input(crops_rgb).to(net.mean.device)  # (B, 3, H, W)
    vectors = net(batch)  # (B, D)
    if embedder.flip:
        vectors = nn.functional.normalize(vectors + net(batch.flip(-1)), dim=1)
    return vectors.cpu().numpy()


def _embed_compiled(embedder: TrainedEmbedder, crops_rgb: list[np.ndarray]) -> np.ndarray:
    batch = np.stack(crops_rgb)  # (B, H, W, 3)
    if not embedder.flip:
        return embedder.net(batch)
    return unit_rows(embedder.net(batch) + embedder.net(batch[:, :, ::-1]))


def join_vectors(vectors: list[np.ndarray], weights: list[float] | None = None) -> np.ndarray:
    """Each model's (N, D_k) normalised, concatenated, normalised again: (N, sum D_k) float32. A zero vector stays zero.

    weights: what each counts in the squared distances, 1 where none are given. Where no vector is zero, the squared distance
    between two rows is the weighted mean of those that the models give.
    """
    factors = np.sqrt(weights if weights is not None else np.ones(len(vectors)), dtype=np.float32)
    parts = [unit_rows(vector) * factor for vector, factor in zip(vectors, factors, strict=True)]
    return unit_rows(np.concatenate(parts, axis=1)).astype(np.float32)
