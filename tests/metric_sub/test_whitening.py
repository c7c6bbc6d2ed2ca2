"""The whitening of colour descriptors: against scipy's matrix functions, hand-worked weights, and as training makes and inference takes it."""

import argparse
import contextlib
import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.linalg import inv, sqrtm
from scipy.spatial.distance import cdist

import metric_sub.train
from metric_sub import whitening
from metric_sub.descriptors import DESCRIPTORS, descriptors_of_boxes
from metric_sub.embeddings import read_trained
from metric_sub.train import prepare
from metric_sub.whitening import Descriptors, fit_whitening, load_descriptors, read_whitening, train_whitening
from shared.config import DescriptorSettings, Whitening
from shared.errors import UserError
from shared.frames import write_jpeg
from shared.weights import file_sha256
from tests.drawn_networks import write_embedder

SETTINGS = Whitening(shrinkage=0.5, values=20)


def of_products(seed, n_products=6, each=5, dimension=8):
    """(vectors, products, kinds), shuffled; every product has two photos and its other boxes in a video."""
    rng = np.random.default_rng(seed)
    products = np.repeat(np.arange(n_products) * 7 + 3, each)
    centres = rng.normal(size=(n_products, dimension)).repeat(each, axis=0)
    vectors = centres + rng.normal(size=centres.shape) * rng.uniform(0.1, 1, dimension)
    kinds = np.where(np.tile(np.arange(each), n_products) < 2, "photo", "video")
    order = rng.permutation(len(products))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[order].astype(np.float32), products[order], kinds[order]


def within_by_loops(vectors, products, kinds):
    """The covariance around the own product's mean, box by box."""
    total, n = np.zeros((vectors.shape[1],) * 2), 0
    for product in set(products):
        own = [(vectors[k].astype(float), kinds[k]) for k in np.flatnonzero(products == product)]
        if len(own) < 2:
            continue
        counts = {kind: sum(other == kind for _, other in own) for _, kind in own}
        weights = [1 / (counts[kind] * len(counts)) for _, kind in own]
        mean = sum(weight * vector for weight, (vector, _) in zip(weights, own, strict=True))
        total += sum(weight * np.outer(vector - mean, vector - mean) for weight, (vector, _) in zip(weights, own, strict=True))
        n += 1
    return total / n


@pytest.mark.parametrize("shrinkage", [1e-6, 0.3, 5.0])
def test_distances_are_those_of_the_inverse_root_of_the_shrunk_covariance(shrinkage):
    vectors, products, kinds = of_products(0)
    products[-1] = 1000  # a product with one box says nothing of how boxes differ
    within = within_by_loops(vectors, products, kinds)
    expected = inv(sqrtm(within + shrinkage * np.trace(within) / 8 * np.eye(8)))
    linear_map = fit_whitening(vectors, products, kinds, shrinkage, 100)
    assert linear_map.shape == (8, 8) and linear_map.dtype == np.float32
    assert cdist(vectors @ linear_map, vectors @ linear_map) == pytest.approx(cdist(vectors @ expected, vectors @ expected), rel=1e-3)


def test_without_shrinkage_boxes_of_a_product_differ_alike_in_every_direction():
    vectors, products, kinds = of_products(1, n_products=40)
    mapped = vectors @ fit_whitening(vectors, products, kinds, 1e-9, 8)
    assert within_by_loops(mapped, products, kinds) == pytest.approx(np.eye(8), abs=1e-3)


def test_fewer_values_are_the_directions_of_most_energy():
    vectors, products, kinds = of_products(2)
    whole, part = (fit_whitening(vectors, products, kinds, 1.0, values) for values in (8, 3))
    mapped = vectors @ whole
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    energies = (mapped**2).sum(axis=0)
    assert part.shape == (8, 3) and np.array_equal(part, whole[:, :3]) and (np.diff(energies) <= 0).all()
    assert energies == pytest.approx(np.linalg.svd(mapped, compute_uv=False) ** 2, rel=1e-3)


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_neither_the_order_of_boxes_nor_the_names_of_products_matter(seed, data):
    vectors, products, kinds = of_products(seed)
    order = data.draw(st.permutations(range(len(products))))
    linear_map = fit_whitening(vectors, products, kinds, 0.7, 8)
    other = fit_whitening(vectors[order], 500 - products[order] * 2, kinds[order], 0.7, 8)
    assert cdist(vectors @ other, vectors @ other) == pytest.approx(cdist(vectors @ linear_map, vectors @ linear_map), rel=1e-3)


def test_boxes_that_tell_nothing_are_refused():
    vectors, products, kinds = of_products(3)
    with pytest.raises(ValueError, match="no product has two boxes that differ"):
        fit_whitening(vectors, np.arange(len(products)), kinds, 1.0, 8)
    with pytest.raises(ValueError, match="no product has two boxes that differ"):
        fit_whitening(vectors[:1].repeat(4, axis=0), np.zeros(4), kinds[:4], 1.0, 8)


def test_light_that_changes_all_products_alike_counts_less():
    """Along four axes the boxes of every product differ far more than products do, along twelve not at all."""
    rng = np.random.default_rng(4)
    products = np.repeat(np.arange(20), 6)
    vectors = rng.normal(0, 0.3, (20, 16)).repeat(6, axis=0)
    vectors[:, :4] += rng.normal(0, 1, (120, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def recall(vectors):
        distances = cdist(vectors, vectors) + 9 * np.eye(120)
        return (products[distances.argmin(axis=1)] == products).mean()

    linear_map = fit_whitening(vectors, products, np.full(120, "photo"), 0.01, 16)
    assert recall(whitening.whiten(vectors, linear_map)) == 1 > recall(vectors) + 0.2


@pytest.fixture
def config(tiny_config):
    descriptors = DescriptorSettings(gradient_histogram=1, colour_histogram=0, fine_colour_histogram=2, whitening=SETTINGS)
    return tiny_config.model_copy(update={"descriptors": descriptors})


def prepare_in(folder, data, config, fresh=False):
    """All of the training but the embedders'."""
    options = argparse.Namespace(data=data, work=folder / "work", weights=folder / "weights", fresh=fresh)
    with contextlib.ExitStack() as held:
        prepare(options, config, 1, held)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Where it is learnt once for all: it takes a while."""
    return tmp_path_factory.mktemp("whitening") / "once"


@pytest.fixture
def trained(once, tiny_data, config, tmp_path):
    """Weights of which all but the embedders' training is done, and what does it again."""
    if not once.exists():
        prepare_in(once, tiny_data, config)
    shutil.copytree(once, tmp_path / "trained")
    return tmp_path / "trained" / "weights", functools.partial(prepare_in, tmp_path / "trained", tiny_data)


def test_training_learns_it_and_learns_it_again_where_something_changed(trained, config):
    weights, train = trained
    path = weights / "whitening" / "model.json"
    made, sha256 = path.stat().st_mtime_ns, json.loads(path.read_text())["sha256"]
    train(config)
    assert path.stat().st_mtime_ns == made
    (path.parent / "weights.safetensors").unlink()
    train(config)
    assert path.stat().st_mtime_ns > made and json.loads(path.read_text())["sha256"] == sha256  # the same bits
    made = path.stat().st_mtime_ns
    assert not (weights / "earlier").exists()
    changed = config.descriptors.model_copy(update={"whitening": Whitening(shrinkage=0.6, values=20)})
    train(config.model_copy(update={"descriptors": changed}))
    assert path.stat().st_mtime_ns > made and json.loads(path.read_text())["sha256"] != sha256
    [kept] = (weights / "earlier").iterdir()  # though no embedder had been trained
    assert load_descriptors(config.descriptors, kept).settings["whitening"] == sha256


def test_other_training_crops_and_fresh_learn_it_again(trained, config, monkeypatch):
    weights, train = trained
    learnt = []
    monkeypatch.setattr(metric_sub.train, "train_whitening", lambda *_: learnt.append(1) or 1 / (len(learnt) - 1))
    train(config)
    assert not learnt
    with pytest.raises(ZeroDivisionError):  # --fresh is cut short
        train(config, fresh=True)
    train(config)
    assert len(learnt) == 2
    train(config)
    assert len(learnt) == 2
    train(config.model_copy(update={"embed": config.embed.model_copy(update={"crop_margin": 0.3})}))
    assert len(learnt) == 3


def test_descriptors_are_whitened_with_what_training_learnt(trained, config):
    weights, _ = trained
    descriptors = load_descriptors(config.descriptors, weights)
    assert descriptors.weights == {"gradient_histogram": 1, "fine_colour_histogram": 2} and descriptors.lengths == [576, 20]
    assert set(load_file(weights / "whitening" / "weights.safetensors")) == {"colour_histogram", "fine_colour_histogram"}
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    boxes = np.float32([[0, 0, 70, 90], [10, 3, 40, 60]])
    gradients, colours = descriptors.of_boxes(image, boxes)
    raw = descriptors_of_boxes(image, boxes, list(descriptors.weights))
    mapped = raw[1] @ load_file(weights / "whitening" / "weights.safetensors")["fine_colour_histogram"].numpy()
    assert np.array_equal(gradients, raw[0])
    assert colours == pytest.approx(mapped / np.linalg.norm(mapped, axis=1, keepdims=True), abs=1e-5)
    assert np.array_equal(descriptors.of_boxes(image, boxes[1:])[1][0], colours[1])  # the same bits in any company
    assert [alone.lengths for alone in descriptors.alone().values()] == [[576], [20]]
    assert descriptors.settings == {**descriptors.weights, "whitening": file_sha256(weights / "whitening" / "weights.safetensors")}
    assert [each.shape for each in descriptors.of_boxes(image, boxes[:0])] == [(0, 576), (0, 20)]


def test_what_was_not_learnt_so_is_refused(trained, config, tmp_path):
    weights, _ = trained
    for model in config.embedders:
        write_embedder(weights / model.name, config.model_copy(update={"embedders": [model]}))
    read_trained(config, weights)
    other = config.descriptors.model_copy(update={"whitening": Whitening(shrinkage=0.5, values=21)})
    with pytest.raises(UserError, match=r"whitening: trained with values 20 \(config: 21\)"):
        read_trained(config.model_copy(update={"descriptors": other}), weights)
    (weights / "whitening").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"whitening: no whitening here .*`bash run.sh train`.*or set descriptors.whitening to null"):
        read_trained(config, weights)
    for change in ({"whitening": None}, {"fine_colour_histogram": 0}):  # nothing that would be whitened
        assert read_whitening(config.descriptors.model_copy(update=change), weights) is None


@pytest.mark.parametrize("fault", ["bytes", "nan", "shape"])
def test_a_damaged_file_is_told(trained, config, fault):
    weights, _ = trained
    path = weights / "whitening" / "weights.safetensors"
    maps = load_file(path)
    if fault == "bytes":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        own = maps["fine_colour_histogram"]
        maps["fine_colour_histogram"] = {"nan": own * torch.nan, "shape": own[:, :5].contiguous()}[fault]
        save_file(maps, path)
        description = json.loads((path.parent / "model.json").read_text())
        (path.parent / "model.json").write_text(json.dumps({**description, "sha256": file_sha256(path)}))
    with pytest.raises(UserError, match=str(path)):
        load_descriptors(config.descriptors, weights)


def test_a_product_seen_once_is_nothing_to_learn_from(tmp_path):
    write_jpeg(tmp_path / "crop.jpg", np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    crop = {"product": 5, "kind": "photo", "crop": str(tmp_path / "crop.jpg"), "x1": 2, "y1": 2, "x2": 18, "y2": 28}
    with pytest.raises(UserError, match=r"descriptors.whitening: no product has two boxes that differ.*set it to null"):
        train_whitening(pd.DataFrame([crop]), SETTINGS, 0, 10**6, tmp_path)


def test_no_more_boxes_than_the_limit_are_looked_at(monkeypatch):
    monkeypatch.setattr(whitening, "MOST_BOXES", 10)
    crops = pd.DataFrame({"product": np.arange(300) % 100, "place": range(300)})
    drawn = whitening._drawn(crops, seed=0)
    assert len(drawn) == 10 and drawn["product"].nunique() == 4  # whole products but the last
    assert set(whitening._drawn(crops, seed=1).place) != set(drawn.place)


def test_descriptors_without_a_map_stay_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    descriptors = Descriptors(dict.fromkeys(DESCRIPTORS, 1.0))
    box = np.float32([[0, 0, 40, 40]])
    for vectors, raw in zip(descriptors.of_boxes(image, box), descriptors_of_boxes(image, box, list(DESCRIPTORS)), strict=True):
        assert np.array_equal(vectors, raw)
    assert descriptors.settings == {**dict.fromkeys(DESCRIPTORS, 1.0), "whitening": None}
