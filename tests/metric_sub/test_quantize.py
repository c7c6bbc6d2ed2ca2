"""The entry of `run.sh quantize --stage match`: what it leaves, what inference makes of it, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import metric_sub.quantize
from metric_sub.embed import embed_by_model
from metric_sub.embedder import build_embedder, load_embedders, save_embedder
from metric_sub.quantize import costs_of, main, some_products
from shared.config import dump_config
from shared.errors import UserError
from shared.quantized import read_quantized
from shared.runtime import Runtime

pytest.importorskip("nncf")

FLOAT, INT8 = (Runtime("openvino", precision, "cpu", "") for precision in ("f32", "int8"))


@pytest.fixture
def options(tiny_data, tiny_config, tmp_path):
    """The arguments of the entry, and the folder of two embedders with random weights: a, and b of two snapshots."""
    torch.manual_seed(0)
    for model, n_networks in zip(tiny_config.embedders, (1, 2), strict=True):
        networks = [build_embedder(model, tiny_config.embed, load_pretrained=False) for _ in range(n_networks)]
        for net in networks:
            net.train()(torch.rand(8, 3, 64, 64))  # moves running statistics
        save_embedder(tmp_path / "weights" / model.name, networks, model, tiny_config.embed, {}, 0)
    (tmp_path / "weights" / "config.yaml").write_text(dump_config(tiny_config))
    arguments = ["--data", str(tiny_data), "--weights", str(tmp_path / "weights"), "--work", str(tmp_path / "work")]
    more = ["quantize.calibration_pictures=6", "quantize.float_layers=[0]", "quantize.max_recall_loss=1"]
    return [*arguments, *more], tmp_path / "weights"


def manifest(folder):
    return json.loads((folder / "int8" / "manifest.json").read_text())


def test_int8_weights_are_made_told_reused_and_taken(options, caplog):
    arguments, weights = options
    main(arguments)
    for name, n_networks in (("a", 1), ("b", 2)):
        told = manifest(weights / name)
        assert told["rows"] == 6 and told["depends"]["weights"] == json.loads((weights / name / "model.json").read_text())["sha256"]
        assert set(told["files"]) == {f"network{k}.{end}" for k in range(n_networks) for end in ("xml", "bin")}
        cost = told["cost"]
        assert set(cost["recall_at_1"]) == {"a", "b", "all together"} and cost["loss"] == cost["recall_at_1"][cost["of"]]["loss"]
        assert 0.9 < cost["recall_at_1"][name]["cosine"] < 1
        crops = [np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8) for k in range(3)]
        groups = np.zeros(3, np.int64)
        in_float, in_int8 = (
            embed_by_model(load_embedders(weights / name, runtime=runtime, flip=True), crops, groups, 2)
            for runtime in (FLOAT, INT8)
        )
        assert np.linalg.norm(in_int8, axis=1) == pytest.approx(1, abs=1e-5)
        assert 0.9 < (in_float * in_int8).sum(axis=1).min() < 1
    caplog.set_level("INFO")
    main(arguments)
    assert caplog.text.count("reused") == 2
    damaged = weights / "a" / "int8" / "network0.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    main(arguments)
    read_quantized(weights / "a", "network0")  # a compiled one is kept, and would do without the file


@pytest.mark.parametrize(
    ("recalls", "words"),
    [
        ((0.9, 0.7, 0.9, 0.9, 0.9, 0.9), "recall@1: INT8 costs more than the limit of 0.1: 0.2000 .a. with 0 layers"),
        ((0.9, 0.85, 0.9, 0.7, 0.9, 0.9), "0.2000 .b. with 0"),
        ((0.9, 0.9, 0.9, 0.9, 0.9, 0.7), "0.2000 .all together. with 0"),
    ],
)
def test_past_the_limit_nothing_is_left_of_any_embedder(options, monkeypatch, recalls, words):
    arguments, weights = options
    left = iter(recalls)
    monkeypatch.setattr(metric_sub.quantize, "recall_of_vectors", lambda *_: next(left))
    with pytest.raises(UserError, match=words):
        main([*arguments, "quantize.max_recall_loss=0.1"])
    for name in ("a", "b"):
        with pytest.raises(UserError, match="wants INT8 weights, and there are none"):
            load_embedders(weights / name, runtime=INT8, flip=False)
        assert not (weights / name / "int8").exists()


def test_without_labels_it_is_refused_or_made_of_whole_pictures(options, tiny_data, caplog):
    arguments, weights = options
    for path in tiny_data.glob("*/*_annotation/**/*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no labelled product.*max_recall_loss to null"):
        main(arguments)
    main([*arguments, "quantize.max_recall_loss=null"])
    assert "whole pictures serve" in caplog.text
    assert manifest(weights / "a")["cost"] is None and manifest(weights / "a")["rows"] == 6


@pytest.mark.parametrize("readable", ["photo", "video"])
def test_what_can_be_read_of_photos_or_of_videos_alone_measures_nothing(options, monkeypatch, readable):
    arguments, weights = options
    embed_boxes = metric_sub.quantize.embed_boxes

    def with_damaged_files(networks, boxes, *more):
        found = embed_boxes(networks, boxes, *more)
        return {folder: vectors * (boxes.kind == readable).to_numpy()[:, None] for folder, vectors in found.items()}

    monkeypatch.setattr(metric_sub.quantize, "embed_boxes", with_damaged_files)
    with pytest.raises(UserError, match="no labelled product.*max_recall_loss to null"):
        main(arguments)
    assert not (weights / "a" / "int8" / "manifest.json").exists()


def test_of_too_many_boxes_those_of_some_products_are_judged():
    """Products 1 to 4 with two photos and two frames each, one without a video, and a distractor."""
    rows = [(f"{kind}{product}-{k}", product, kind) for product in (1, 2, 3, 4) for kind in ("photo", "video") for k in (0, 1)]
    rows += [("photo9", 9, "photo"), ("video0", 0, "video")]
    boxes = pd.DataFrame(rows, columns=["media_id", "instance_id", "kind"]).assign(frame_index=0)
    assert some_products(boxes, 18, 0) is boxes
    for n_pictures, n_products in ((17, 4), (15, 3), (8, 2), (3, 1)):
        kept = some_products(boxes, n_pictures, 0)
        assert len(kept) == 4 * n_products and kept.instance_id.nunique() == n_products
        assert set(kept.instance_id) <= {1, 2, 3, 4}


def test_boxes_of_pictures_that_cannot_be_read_cost_nothing():
    boxes = pd.DataFrame({"instance_id": [1, 2, 1, 2, 3], "kind": ["photo", "photo", "video", "video", "video"]})
    expected = np.float32([[1, 0], [0, 1], [1, 0], [0, 1], [0, 0]])
    found = np.float32([[1, 0], [0, 1], [0.8, 0.6], [0.6, 0.8], [0, 0]])
    costs = costs_of(boxes, {Path("a"): expected}, {Path("a"): found})
    assert costs["recall_at_1"]["a"] == {"float": 1, "int8": 1, "loss": 0, "cosine": pytest.approx((1 + 1 + 0.8 + 0.8) / 4)}
