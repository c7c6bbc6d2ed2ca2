"""recall@1 against brute force and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from metric_sub.crops import CropRule
from metric_sub.embedder import TrainedEmbedder
from metric_sub.evaluate import recall_at_1, recall_of_vectors
from shared.frames import write_jpeg


def unit(angles):
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("photos", "videos", "expected"),
    [
        # (angle in degrees, product) of each
        ([(0, 1), (90, 2)], [(10, 1), (80, 2)], 1.0),
        ([(0, 1), (90, 2)], [(80, 1), (10, 2)], 0.0),
        ([(0, 1), (90, 2)], [(10, 1), (20, 2)], 0.5),
        ([(0, 1), (90, 2)], [(10, 1), (20, 2), (70, 2), (89, 2)], 0.75),
        ([(0, 1), (90, 2)], [(10, 1), (20, 3)], 1.0),  # product 3 has no photo: nothing could be right
        ([(0, 1), (50, 1), (90, 2)], [(60, 1)], 1.0),  # the nearest of several photos
        ([(0, 1)], [(10, 2)], 0.0),
        ([], [(10, 2)], 0.0),
        ([(0, 1)], [], 0.0),
    ],
)
def test_by_hand(photos, videos, expected):
    angles, products = np.array([*photos, *videos], float).reshape(-1, 2).T
    is_photo = np.arange(len(angles)) < len(photos)
    assert recall_of_vectors(unit(angles), products.astype(np.int64), is_photo) == pytest.approx(expected)


def test_equals_brute_force_in_any_order():
    rng = np.random.default_rng(0)
    products = rng.integers(0, 12, 80) * 1_000_003 + 20_000_101  # instance ids, not small numbers
    vectors = rng.normal(size=(80, 8)).astype(np.float32) + rng.normal(size=(13, 8)).astype(np.float32)[products % 13]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    is_photo = rng.random(80) < 0.4
    distances = np.linalg.norm(vectors[~is_photo, None] - vectors[None, is_photo], axis=2)
    right = products[is_photo][distances.argmin(axis=1)] == products[~is_photo]
    has_photo = np.isin(products[~is_photo], products[is_photo])
    assert recall_of_vectors(vectors, products, is_photo) == pytest.approx(right[has_photo].mean())


class MeanColour(nn.Module):
    """Embeds a crop as its mean colour."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.project = nn.Linear(3, 3)

    def forward(self, crops):
        return nn.functional.normalize(crops.mean(dim=(2, 3)), dim=1)


def test_crops_are_cut_at_their_boxes(tmp_path):
    rows = []
    for k, (product, kind, colour) in enumerate(
        [
            (1, "photo", (250, 20, 20)),
            (2, "photo", (20, 250, 20)),
            (1, "video", (240, 40, 30)),
            (2, "video", (40, 240, 60)),
            (2, "video", (250, 30, 20)),
        ]
    ):
        image = np.zeros((60, 40 + 10 * k, 3), np.uint8)
        image[...] = (20, 20, 250)  # what stands around the boxes would deceive
        image[10:40, 5:35] = colour
        write_jpeg(tmp_path / f"{k}.jpg", image)
        rows.append((product, kind, str(tmp_path / f"{k}.jpg"), 6.0, 11.0, 34.0, 39.0))
    crops = pd.DataFrame(rows, columns=["product", "kind", "crop", "x1", "y1", "x2", "y2"])
    embedder = TrainedEmbedder(MeanColour().eval(), CropRule(32, 0.0, (0.5, 1.0, 2.0), "bilinear"), False)
    assert recall_at_1(embedder, crops, 2, 10**6) == pytest.approx(2 / 3)
    assert recall_at_1(embedder, crops.iloc[:0], 2, 10**6) == 0.0
