"""Embedding crops: order, batches, mirrored crops, and the joined vectors of several models."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from metric_sub.crops import CropRule
from metric_sub.embed import CropEmbedder, embed_crops, join_vectors
from metric_sub.embedder import TrainedEmbedder, build_embedder
from metric_sub.whitening import Descriptors

RULE = CropRule(32, 0.0, (0.5, 1.0, 2.0), "bilinear")


@given(st.integers(0, 1000), st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_joined_vectors_have_unit_length_and_the_mean_of_the_models_cosines(seed, dimensions):
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(6, dimension)).astype(np.float32) * rng.uniform(0.1, 10) for dimension in dimensions]
    joined = join_vectors(vectors)
    assert joined.shape == (6, sum(dimensions)) and joined.dtype == np.float32
    assert np.linalg.norm(joined, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    cosines = []
    for vector in vectors:
        lengths = np.linalg.norm(vector.astype(np.float64), axis=1)
        cosines.append(vector.astype(np.float64) @ vector.T / np.outer(lengths, lengths))
    assert np.allclose(joined @ joined.T, np.mean(cosines, axis=0), atol=1e-5)


def test_one_model_is_normalised_only():
    assert join_vectors([np.float32([[3, 4], [0, 2]])]).tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 1]]))


def test_by_hand():
    joined = join_vectors([np.float32([[3, 4]]), np.float32([[0, 7]])])
    assert joined[0] == pytest.approx(np.array([0.6, 0.8, 0, 1]) / 2**0.5)


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 100), min_size=3, max_size=3))
def test_weights_make_the_squared_distance_a_weighted_mean(seed, weights):
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(5, dimension)).astype(np.float32) for dimension in (3, 8, 2)]
    joined = join_vectors(vectors, weights)

    def squared_distances(rows):
        rows = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
        return ((rows[:, None] - rows) ** 2).sum(axis=2)

    expected = np.average([squared_distances(vector) for vector in vectors], axis=0, weights=weights)
    assert np.linalg.norm(joined, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.allclose(squared_distances(joined), expected, atol=1e-5)


def test_zero_stays_zero_and_none_stays_none():
    joined = join_vectors([np.float32([[0, 0], [0, 0]]), np.float32([[0, 0], [1, 0]])])
    assert joined.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert join_vectors([np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32)]).shape == (0, 5)


class Describe(nn.Module):
    """Embeds a crop as its mean colour and how much brighter its left half is; knows what it was shown."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.project = nn.Linear(3, 4)
        self.shown = []

    def forward(self, crops):
        self.shown.append(tuple(crops.shape))
        half = crops.shape[3] // 2
        tilt = crops[..., :half].mean(dim=(1, 2, 3)) - crops[..., half:].mean(dim=(1, 2, 3))
        return nn.functional.normalize(torch.cat([crops.mean(dim=(2, 3)), tilt[:, None]], dim=1), dim=1)


def described(crop):
    """What Describe says of one uint8 crop, in float64."""
    pixels = crop.astype(np.float64) / 255
    half = crop.shape[1] // 2
    vector = np.array([*pixels.mean(axis=(0, 1)), pixels[:, :half].mean() - pixels[:, half:].mean()])
    return vector / np.linalg.norm(vector)


def random_crops(groups):
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (*RULE.size_of(group), 3)) * rng.random((1, 1, 3))).astype(np.uint8) for group in groups
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_vectors_come_in_the_crops_order_whatever_the_batches(batch_size):
    groups = np.array([1, 0, 2, 1, 1, 0, 1])
    crops, net = random_crops(groups), Describe()
    vectors = embed_crops(TrainedEmbedder(net, RULE, False), crops, groups, batch_size)
    assert vectors.shape == (7, 4) and vectors.dtype == np.float32
    assert np.allclose(vectors, [described(crop) for crop in crops], atol=1e-5)
    assert max(shape[0] for shape in net.shown) <= batch_size and sum(shape[0] for shape in net.shown) == 7


def test_with_flip_a_vector_is_the_mean_of_both_views():
    groups = np.array([1, 2])
    crops = random_crops(groups)
    vectors = embed_crops(TrainedEmbedder(Describe(), RULE, True), crops, groups, 8)
    for vector, crop in zip(vectors, crops, strict=True):
        expected = described(crop) + described(crop[:, ::-1])
        assert vector == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    mirrored = embed_crops(
        TrainedEmbedder(Describe(), RULE, True), [np.ascontiguousarray(crop[:, ::-1]) for crop in crops], groups, 8
    )
    assert np.allclose(vectors, mirrored, atol=1e-6)


def test_no_crops_give_no_vectors():
    assert embed_crops(TrainedEmbedder(Describe(), RULE, True), [], np.zeros(0, np.int64), 8).shape == (0, 4)


def plain(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def test_boxes_of_many_pictures_come_out_in_the_order_they_were_added():
    embedder = CropEmbedder([[TrainedEmbedder(Describe(), RULE, False)]], 2)
    boxes = np.float32([[0, 0, 20, 20], [0, 0, 40, 10], [5, 5, 15, 35]])  # square, wide, tall
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    for colour in colours:
        embedder.add(plain(colour), boxes)
        embedder.add(plain(colour), boxes[:0])
    vectors = embedder.take()
    assert embedder.dimension == 4 and vectors.shape == (9, 4)
    for k, colour in enumerate(colours):
        assert np.allclose(vectors[3 * k : 3 * k + 3], described(plain(colour)), atol=1e-4)


def test_taking_empties():
    embedder = CropEmbedder([[TrainedEmbedder(Describe(), RULE, False)]], 2)
    embedder.add(plain((250, 10, 10)), np.float32([[0, 0, 20, 20]]))
    assert len(embedder.take()) == 1
    assert embedder.take().shape == (0, 4)
    embedder.add(plain((10, 250, 10)), np.float32([[0, 0, 20, 20]]))
    assert np.allclose(embedder.take(), described(plain((10, 250, 10))), atol=1e-4)


def test_several_real_models_side_by_side(tiny_config):
    torch.manual_seed(0)
    trained = [
        TrainedEmbedder(
            build_embedder(model, tiny_config.embed, load_pretrained=False).eval(),
            CropRule(size, 0.0, (0.5, 1.0, 2.0), "bilinear"),
            flip,
        )
        for model, size, flip in zip(tiny_config.embedders, (64, 48), (True, False), strict=True)
    ]
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 20, 20], [0, 0, 60, 25], [5, 5, 25, 75], [30, 30, 55, 60]])
    both, alone = CropEmbedder([[each] for each in trained], 2), [CropEmbedder([[each]], 2) for each in trained]
    for embedder in (both, *alone):
        embedder.add(image, boxes)
    vectors, singles = both.take(), [embedder.take() for embedder in alone]
    assert both.dimension == 32 and vectors.shape == (4, 32)
    assert np.allclose(vectors @ vectors.T, np.mean([single @ single.T for single in singles], axis=0), atol=1e-5)


def test_descriptors_stand_behind_the_models_with_their_weights(tiny_config):
    torch.manual_seed(0)
    network = build_embedder(tiny_config.embedders[0], tiny_config.embed, load_pretrained=False).eval()
    model, weights = [TrainedEmbedder(network, RULE, False)], {"gradient_histogram": 2.0, "colour_histogram": 0.5}
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 20, 20], [0, 0, 60, 25], [5, 5, 25, 75], [30, 30, 55, 60]])
    joined, *alone = CropEmbedder([model], 2, Descriptors(weights)), CropEmbedder([model], 2), *(
        CropEmbedder([], 2, Descriptors({name: 3.0})) for name in weights
    )
    for embedder in (joined, *alone):
        embedder.add(image, boxes[:3])
        embedder.add(image, boxes[:0])
        embedder.add(image, boxes[3:])
    vectors, parts = joined.take(), [embedder.take() for embedder in alone]
    assert joined.dimension == 16 + 576 + 576 and vectors.shape == (4, joined.dimension) and vectors.dtype == np.float32
    assert [part.shape for part in parts] == [(4, 16), (4, 576), (4, 576)]
    cosines = [part.astype(np.float64) @ part.T for part in parts]
    assert np.allclose(vectors @ vectors.T, np.average(cosines, axis=0, weights=[1, 2, 0.5]), atol=1e-5)
    assert joined.take().shape == (0, joined.dimension)


def test_a_models_snapshots_weigh_as_one_model(tiny_config):
    """Two snapshots beside a second model: half of the cosine is the second's, a quarter each snapshot's."""
    torch.manual_seed(0)
    trained = [
        TrainedEmbedder(
            build_embedder(tiny_config.embedders[0], tiny_config.embed, load_pretrained=False).eval(), RULE, False
        )
        for _ in range(3)
    ]
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 20, 20], [0, 0, 60, 25], [5, 5, 25, 75]])
    cosines = []
    for models in ([trained[:2], trained[2:]], *([[each]] for each in trained)):
        embedder = CropEmbedder(models, 8)
        embedder.add(image, boxes)
        vectors = embedder.take()
        cosines.append(vectors @ vectors.T)
    assert np.allclose(cosines[0], 0.25 * cosines[1] + 0.25 * cosines[2] + 0.5 * cosines[3], atol=1e-5)
