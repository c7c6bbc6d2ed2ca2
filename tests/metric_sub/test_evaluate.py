"""recall@k and mAP@R against brute force, by hand, and the two libraries' against each other."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import nn

import metric_sub.embed
import metric_sub.evaluate
from metric_sub.crops import CropRule
from metric_sub.embedder import TrainedEmbedder
from metric_sub.evaluate import Crops, nearest_right_and_wrong, recall_at_1, recall_of_vectors, retrieval_figures
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


def test_crops_are_cut_at_their_boxes_and_few_are_held_at_once(tmp_path, monkeypatch):
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
    assert recall_at_1([embedder], crops, 2, 10**6) == pytest.approx(2 / 3)
    assert recall_at_1([embedder], crops.iloc[:0], 2, 10**6) == 0.0
    held = []

    def embed_by_model(model, crops_rgb, *settings):
        held.append(len(crops_rgb))
        return metric_sub.embed.embed_crops(*model, crops_rgb, *settings)

    monkeypatch.setattr(metric_sub.embed, "embed_by_model", embed_by_model)
    monkeypatch.setattr(metric_sub.evaluate, "CROPS_AT_ONCE", 2)
    assert recall_at_1([embedder], crops, 2, 10**6) == pytest.approx(2 / 3)
    assert held == [2, 2, 1]


def test_ids_that_float32_cannot_tell_apart_are_told_apart():
    products = np.array([24000103, 24000104, 24000103])  # 24000104 twice in float32
    assert recall_of_vectors(unit([0, 90, 80]), products, np.array([True, True, False])) == 0.0
    figures = retrieval_figures(Crops(unit([80]), products[:1]), Crops(unit([0, 90]), products[:2]))
    assert figures["recall_at_1"] == 0 and figures["mAP_at_R"] == 0


def on_circle(*rows):
    """Crops of (angle in degrees, product)."""
    return Crops(unit([angle for angle, _ in rows]), np.array([product for _, product in rows]))


FAR = [(180 + k, f"far {k}") for k in range(8)]


@pytest.mark.parametrize(
    ("queries", "gallery", "expected"),
    [
        # recall@1, @5, @10, mAP@R. Angles from 0 to 180: the nearer angle is the nearer crop.
        ([(0, "a")], [(1, "a"), (9, "b")], (1, 1, 1, 1)),
        ([(0, "a")], [(9, "a"), (1, "b")], (0, 1, 1, 0)),
        ([(0, "a")], [(1, "a"), (2, "b"), (3, "a")], (1, 1, 1, 1 / 2)),  # R = 2: right, wrong -> (1/1 + 0) / 2
        ([(0, "a")], [(2, "a"), (1, "b"), (3, "a")], (0, 1, 1, 1 / 4)),  # R = 2: wrong, right -> (0 + 1/2) / 2
        ([(0, "a")], [(1, "a"), (2, "b"), (3, "a"), (4, "a")], (1, 1, 1, (1 + 2 / 3) / 3)),
        ([(0, "a")], [(k, "bcdefghij"[k - 1]) for k in range(1, 5)] + [(5, "a")], (0, 1, 1, 0)),  # the fifth
        ([(0, "a")], [(k, "bcdefghij"[k - 1]) for k in range(1, 6)] + [(6, "a")], (0, 0, 1, 0)),  # the sixth
        ([(0, "a")], [(k, "bcdefghij"[k - 1]) for k in range(1, 10)] + [(10, "a")], (0, 0, 1, 0)),  # the tenth
        ([(0, "a")], [(k, "bcdefghijk"[k - 1]) for k in range(1, 11)] + [(11, "a")], (0, 0, 0, 0)),  # the eleventh
        ([(0, "a"), (90, "b"), (1, "b"), (91, "b")], [(0, "a"), (90, "b"), *FAR], (0.75, 1, 1, 0.75)),
    ],
)
def test_figures_by_hand(queries, gallery, expected):
    figures = retrieval_figures(on_circle(*queries), on_circle(*gallery))
    assert figures == {
        "queries": len(queries),
        **{
            name: pytest.approx(value)
            for name, value in zip(("recall_at_1", "recall_at_5", "recall_at_10", "mAP_at_R"), expected, strict=True)
        },
    }


def test_kinds_apart():
    queries, gallery = on_circle((0, 1), (90, 2), (10, 2), (91, 2)), on_circle((0, 1), (90, 2))
    by_kind = retrieval_figures(queries, gallery, np.array(["C", "P", "C", "P"]))["by_kind"]
    assert {kind: (of["queries"], of["recall_at_1"]) for kind, of in by_kind.items()} == {"C": (2, 0.5), "P": (2, 1.0)}


def random_crops(seed, n_queries, n_gallery, n_products):
    """Crops scattered about their product's place; some products of the gallery are never asked for."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(n_products, 6))

    def crops(products):
        vectors = places[products] + rng.normal(size=(len(products), 6))
        return Crops(
            (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), products + 20_000_101
        )

    gallery = crops(np.concatenate([np.arange(n_products), rng.integers(0, n_products, n_gallery)]))
    return crops(rng.integers(0, n_products, n_queries)), gallery


def loops(queries, gallery):
    """The figures by their definitions, one query at a time."""
    recalls, precision = {1: [], 5: [], 10: []}, []
    for vector, product in zip(*queries, strict=True):
        distances = np.linalg.norm(gallery.vectors.astype(np.float64) - vector, axis=1)
        right = gallery.products[np.argsort(distances, kind="stable")] == product
        for k, of_k in recalls.items():
            of_k.append(any(right[:k]))
        n_right = right.sum()
        precision.append(sum(right[: i + 1].mean() for i in range(n_right) if right[i]) / n_right)
    return [np.mean(values) for values in (*recalls.values(), precision)]


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 40), st.integers(1, 15))
def test_figures_equal_plain_loops(seed, n_queries, n_gallery, n_products):
    queries, gallery = random_crops(seed, n_queries, n_gallery, n_products)
    figures = retrieval_figures(queries, gallery)
    found = [figures[name] for name in ("recall_at_1", "recall_at_5", "recall_at_10", "mAP_at_R")]
    assert found == pytest.approx(loops(queries, gallery))


def test_recall_at_1_equals_the_accuracy_calculators():
    queries, gallery = random_crops(7, 200, 60, 20)
    small = [products - 20_000_101 for products in (queries.products, gallery.products)]
    answer = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
    ).get_accuracy(queries.vectors, small[0], gallery.vectors, small[1])
    figures = retrieval_figures(queries, gallery)
    assert figures["recall_at_1"] == pytest.approx(answer["precision_at_1"])
    assert figures["mAP_at_R"] == pytest.approx(answer["mean_average_precision_at_r"])


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_more_in_the_gallery_that_is_never_right_helps_nobody(seed, n_more):
    queries, gallery = random_crops(seed, 20, 20, 8)
    more = random_crops(seed + 1, n_more, 0, 8)[0]
    wider = Crops(
        np.concatenate([gallery.vectors, more.vectors]), np.concatenate([gallery.products, -np.arange(n_more)])
    )
    alone, among = retrieval_figures(queries, gallery), retrieval_figures(queries, wider)
    assert all(among[name] <= alone[name] + 1e-12 for name in alone)
    assert alone["recall_at_1"] <= alone["recall_at_5"] <= alone["recall_at_10"]


def test_a_query_that_nothing_could_answer_is_the_callers_fault():
    for queries in (on_circle((0, 1), (5, 3)), Crops(np.zeros((0, 2), np.float32), np.zeros(0, int))):
        with pytest.raises(ValueError, match="expected queries, each of a product that is in the gallery"):
            retrieval_figures(queries, on_circle((0, 1), (90, 2)))


def test_nearest_right_and_wrong_equal_brute_force():
    queries, gallery = random_crops(3, 50, 60, 12)
    found = nearest_right_and_wrong(queries, gallery)
    distances = np.linalg.norm(queries.vectors[:, None].astype(np.float64) - gallery.vectors[None], axis=2)
    same = queries.products[:, None] == gallery.products[None]
    for name, mask in (("right", same), ("wrong", ~same)):
        allowed = np.where(mask, distances, np.inf)
        assert found[name].tolist() == allowed.argmin(axis=1).tolist()
        assert found[f"{name}_distance"].to_numpy() == pytest.approx(allowed.min(axis=1), abs=1e-6)


def test_many_distractors_cost_no_longer_search(monkeypatch):
    queries, gallery = random_crops(3, 50, 60, 12)
    distractors = random_crops(4, 500, 0, 12)[0].vectors
    gallery = Crops(
        np.concatenate([gallery.vectors, distractors]), np.concatenate([gallery.products, np.zeros(500, np.int64)])
    )
    asked = []

    def nearest(query, of, n_neighbours=1):
        asked.append(n_neighbours)
        return metric_sub.search.nearest(query, of, n_neighbours)

    monkeypatch.setattr(metric_sub.evaluate, "nearest", nearest)
    found = nearest_right_and_wrong(queries, gallery)
    assert max(asked) == np.unique(gallery.products[:-500], return_counts=True)[1].max() + 1 < 20
    distances = np.linalg.norm(queries.vectors[:, None].astype(np.float64) - gallery.vectors[None], axis=2)
    wrong = np.where(queries.products[:, None] == gallery.products[None], np.inf, distances)
    assert found.wrong.tolist() == wrong.argmin(axis=1).tolist()


def test_nearest_right_and_wrong_where_there_is_none():
    found = nearest_right_and_wrong(on_circle((0, 1), (5, 3)), on_circle((0, 1), (2, 1)))
    assert found.right.tolist() == [0, -1] and found.wrong.tolist() == [-1, 1]
    assert np.isinf(found.wrong_distance[0]) and np.isinf(found.right_distance[1])
    assert found.wrong_distance[1] == pytest.approx(2 * np.sin(np.deg2rad(1.5)), abs=1e-6)
