"""How good an embedder is: recall@1 of video crops against photo crops, by pytorch-metric-learning's AccuracyCalculator."""

import numpy as np
import pandas as pd
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from metric_sub.crops import crops_of_boxes
from metric_sub.embed import embed_crops
from metric_sub.embedder import TrainedEmbedder
from shared.frames import read_picture


def recall_at_1(embedder: TrainedEmbedder, crops: pd.DataFrame, batch_size: int, max_pixels: int) -> float:
    """The share, 0..1, of video crops whose nearest photo crop shows the same product. 0 where either side is empty.

    Video crops of products without a photo are left out: no photo could be right.
    """
    cut, groups = [], []
    for row in crops.itertuples():
        crop, group = crops_of_boxes(
            read_picture(row.crop, max_pixels), [[row.x1, row.y1, row.x2, row.y2]], embedder.crop_rule
        )
        cut += crop
        groups.append(group)
    if not cut:
        return 0.0
    vectors = embed_crops(embedder, cut, np.concatenate(groups), batch_size)
    return recall_of_vectors(vectors, crops["product"].to_numpy(), (crops.kind == "photo").to_numpy())


def recall_of_vectors(vectors: np.ndarray, products: np.ndarray, is_photo: np.ndarray) -> float:
    """recall@1 of the rows that are not photos against those that are: vectors (N, D), products (N,), is_photo (N,) bool."""
    query = ~is_photo & np.isin(products, products[is_photo])
    if not query.any():
        return 0.0
    calculator = AccuracyCalculator(include=("precision_at_1",), k=1)
    return float(
        calculator.get_accuracy(vectors[query], products[query], vectors[is_photo], products[is_photo])[
            "precision_at_1"
        ]
    )
