"""Running embedders over crops: batches of one size, several models side by side, one unit vector per crop."""

import numpy as np
import torch
from torch import nn

from metric_sub.crops import crops_of_boxes, to_input
from metric_sub.embedder import TrainedEmbedder


class CropEmbedder:
    """Collects boxes of pictures, then embeds all their crops with every model.

    A model is a list: one network, or its snapshots, whose vectors are joined first. The models' unit vectors are
    concatenated and normalised again (the design's ensemble).
    """

    def __init__(self, models: list[list[TrainedEmbedder]], batch_size: int):
        self._models = models
        self._batch_size = batch_size
        self.dimension = sum(embedder.dimension for model in models for embedder in model)
        self._crops: list[list[np.ndarray]] = [[] for _ in models]
        self._groups: list[list[int]] = [[] for _ in models]

    def add(self, image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> None:
        """Takes the crops of a picture's boxes (N, 4)."""
        for k, model in enumerate(self._models):
            crops, groups = crops_of_boxes(image_rgb, boxes_xyxy, model[0].crop_rule)
            self._crops[k] += crops
            self._groups[k] += groups.tolist()

    def take(self) -> np.ndarray:
        """(N, dimension) float32 unit vectors of all boxes since the last call, in the order they were added."""
        vectors = [
            embed_by_model(model, crops, np.asarray(groups, np.int64), self._batch_size)
            for model, crops, groups in zip(self._models, self._crops, self._groups, strict=True)
        ]
        self._crops, self._groups = [[] for _ in self._models], [[] for _ in self._models]
        return join_vectors(vectors)


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
    return _unit(embedder.net(batch) + embedder.net(batch[:, :, ::-1]))


def join_vectors(vectors: list[np.ndarray]) -> np.ndarray:
    """Each model's (N, D_k) normalised, concatenated, normalised again: (N, sum D_k) float32. A zero vector stays zero."""
    return _unit(np.concatenate([_unit(vector) for vector in vectors], axis=1)).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
