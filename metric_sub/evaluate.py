"""How good embeddings are at retrieval: recall@k and mAP@R of video crops against photo crops.

mAP@R by pytorch-metric-learning's AccuracyCalculator; recall@k, which it lacks for k above 1, by our own exact search.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from metric_sub.embed import CropEmbedder
from metric_sub.embedder import TrainedEmbedder
from metric_sub.search import nearest
from shared.frames import read_picture
from shared.tables import BOX
from shared.work import chunks

CROPS_AT_ONCE = 1000  # that are held in memory: about 1 GB of crops of 600 x 600 px
RECALL_AT = (1, 5, 10)
FIGURES = (*(f"recall_at_{k}" for k in RECALL_AT), "mAP_at_R")


class Crops(NamedTuple):
    """One side of a retrieval: vectors (N, D) float32 of unit length, and the product of each (N,), ids of any kind."""

    vectors: np.ndarray
    products: np.ndarray

    def of(self, keep: np.ndarray) -> "Crops":
        """The rows that `keep` (N,) bool, or their places, tells."""
        return Crops(self.vectors[keep], self.products[keep])


def recall_at_1(model: list[TrainedEmbedder], crops: pd.DataFrame, batch_size: int, max_pixels: int) -> float:
    """The share, 0..1, of video crops whose nearest photo crop shows the same product. 0 where either side is empty.

    `model`: one network, or its snapshots. Video crops of products without a photo are left out: no photo could be right.
    """
    embedder = CropEmbedder([model], batch_size)
    vectors = []
    for rows in chunks(len(crops), CROPS_AT_ONCE):
        some = crops.iloc[rows]
        for path, box in zip(some.crop, some[BOX].to_numpy("float32"), strict=True):
            embedder.add(read_picture(path, max_pixels), box[None])
        vectors.append(embedder.take())
    if not vectors:
        return 0.0
    return recall_of_vectors(np.concatenate(vectors), crops["product"].to_numpy(), (crops.kind == "photo").to_numpy())


def recall_of_vectors(vectors: np.ndarray, products: np.ndarray, is_photo: np.ndarray) -> float:
    """recall@1 of the rows that are not photos against those that are: vectors (N, D), products (N,), is_photo (N,) bool."""
    query = ~is_photo & np.isin(products, products[is_photo])
    if not query.any():
        return 0.0
    indices = nearest(vectors[query], vectors[is_photo])[1][:, 0]  # (N,)
    return float((products[is_photo][indices] == products[query]).mean())


def retrieval_figures(queries: Crops, gallery: Crops, kinds: np.ndarray | None = None) -> dict:
    """How well the queries find their product in the gallery; kinds (N,): the queries' kinds, where they are known.

    Gives {queries, recall_at_1, recall_at_5, recall_at_10, mAP_at_R, by_kind: {kind: the same}}, shares of 0..1.
    - recall@k: the share of queries with at least one crop of their product among the k nearest of the gallery.
    - mAP@R (Musgrave et al. 2020): of a query with R crops of its product in the gallery, the sum of the precisions at the
      ranks 1..R that are right, divided by R; the mean over the queries.
    Raises ValueError where there is no query, or one whose product is not in the gallery.
    """
    if not len(queries.products) or not np.isin(queries.products, gallery.products).all():
        raise ValueError("expected queries, each of a product that is in the gallery")
    hits = np.zeros((len(queries.products), max(RECALL_AT)), bool)
    indices = nearest(queries.vectors, gallery.vectors, max(RECALL_AT))[1]  # (N, k)
    hits[:, : indices.shape[1]] = gallery.products[indices] == queries.products[:, None]
    found = np.maximum.accumulate(hits, axis=1)
    products = _numbered(np.concatenate([queries.products, gallery.products]))
    products, there = products[: len(hits)], products[len(hits) :]
    calculator = AccuracyCalculator(include=("mean_average_precision_at_r",), k="max_bin_count")

    def figures(chosen: np.ndarray) -> dict:
        answer = calculator.get_accuracy(queries.vectors[chosen], products[chosen], gallery.vectors, there)
        return {
            "queries": int(chosen.sum()),
            **{f"recall_at_{k}": float(found[chosen, k - 1].mean()) for k in RECALL_AT},
            "mAP_at_R": float(answer["mean_average_precision_at_r"]),
        }

    answer = figures(np.ones(len(hits), bool))
    if kinds is not None:
        answer["by_kind"] = {str(kind): figures(kinds == kind) for kind in np.unique(kinds)}
    return answer


def nearest_right_and_wrong(queries: Crops, gallery: Crops) -> pd.DataFrame:
    """For each query (a row) its nearest crop of its own product and its nearest of any other.

    Columns: right, wrong (places in the gallery, int64; -1 for none), right_distance, wrong_distance (float32; inf for none).
    """
    right, wrong = (np.full(len(queries.products), -1) for _ in range(2))
    right_distance, wrong_distance = (np.full(len(queries.products), np.inf, np.float32) for _ in range(2))
    for product in np.unique(queries.products):
        rows = np.flatnonzero(queries.products == product)
        places = np.flatnonzero(gallery.products == product)
        distances, indices = nearest(queries.vectors[rows], gallery.vectors[places])
        if len(places):
            right[rows], right_distance[rows] = places[indices[:, 0]], distances[:, 0]
    # Among one more than a product has crops, one at least is of another. Only products that are asked for count: distractors,
    # which share an id, are many.
    asked = gallery.products[np.isin(gallery.products, queries.products)]
    most = np.unique(asked, return_counts=True)[1].max(initial=0)
    distances, indices = nearest(queries.vectors, gallery.vectors, int(most) + 1)
    others = gallery.products[indices] != queries.products[:, None]
    rows = np.flatnonzero(others.any(axis=1))
    first = others[rows].argmax(axis=1)
    wrong[rows], wrong_distance[rows] = indices[rows, first], distances[rows, first]
    return pd.DataFrame(
        {"right": right, "wrong": wrong, "right_distance": right_distance, "wrong_distance": wrong_distance}
    )


def _numbered(products: np.ndarray) -> np.ndarray:
    """Ids as numbers from 0: AccuracyCalculator compares labels as float32, which does not tell large ids apart."""
    return np.unique(products, return_inverse=True)[1]
