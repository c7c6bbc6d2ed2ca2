"""What a GPU computes beside what the CPU does; every test here skips where torch finds none."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
import torch

import bbox_sub.train
import infer
import metric_sub.train
from bbox_sub.detect import detect_boxes
from bbox_sub.detector import load_detector
from bbox_sub.rcnn import BoxPool
from metric_sub.embed import embed_by_model
from metric_sub.embedder import load_embedders
from metric_sub.result import read_result
from shared.config import Config, dump_config
from shared.errors import UserError
from shared.runtime import PLAIN, Runtime
from shared.training import Checkpoint
from tests.drawn_networks import write_detector, write_embedder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

PRECISIONS = ["f32", "bf16", "f16"]


@pytest.fixture
def full_float32():
    """Products of float32 as they are on a CPU: a GPU rounds their factors to 10 bits where it is not told otherwise."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def on_gpu(precision: str) -> Runtime:
    return Runtime("torch", precision, "cuda", "")


def pictures(*sizes_hw) -> list[np.ndarray]:
    """Of noise in squares of four pixels, of which networks make something."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h // 4, w // 4, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1) for h, w in sizes_hw]


@pytest.mark.parametrize("vote_iou", [0.0, 0.5])
def test_the_detector_finds_the_boxes_of_the_cpu(tmp_path, full_float32, vote_iou):
    folder, images = write_detector(tmp_path / "detector"), pictures((96, 64), (96, 64), (64, 120))
    of_cpu, of_gpu = (
        detect_boxes(
            load_detector(folder, runtime=runtime, least_score=0.1, vote_iou=vote_iou)[0],
            images,
            short_side=96,
            max_side=200,
            batch_size=2,
        )
        for runtime in (PLAIN, on_gpu("f32"))
    )
    assert len({label for _, _, labels in of_cpu for label in labels}) == 3
    for (boxes, scores, labels), (gpu_boxes, gpu_scores, gpu_labels) in zip(of_cpu, of_gpu, strict=True):
        assert len(boxes) > 5 and scores.max() - scores.min() > 0.1 and labels.tolist() == gpu_labels.tolist()
        assert np.abs(boxes - gpu_boxes).max() < 0.05 and np.abs(scores - gpu_scores).max() < 1e-3


@pytest.mark.parametrize(("precision", "least"), [("f32", 0.9999), ("bf16", 0.998), ("f16", 0.9999)])
def test_vectors_are_those_of_the_cpu_up_to_the_precision(tiny_config, tmp_path, precision, least):
    folder = write_embedder(tmp_path / "embedder", tiny_config)
    crops, groups = pictures(*[(64, 64)] * 3, *[(96, 48)] * 2), np.array([2, 2, 2, 4, 4])
    of_cpu, of_gpu = (
        embed_by_model(load_embedders(folder, runtime=runtime, flip=True), crops, groups, 2)
        for runtime in (PLAIN, on_gpu(precision))
    )
    assert np.allclose(np.linalg.norm(of_gpu, axis=1), 1, atol=1e-5)
    assert (of_cpu * of_gpu).sum(axis=1).min() > least
    assert (of_cpu @ of_cpu.T)[~np.eye(len(crops), dtype=bool)].max() < 0.99  # the crops are not all alike


def test_roi_align_of_the_gpu_is_the_look_up_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    levels = {str(k): torch.randn(2, 8, 64 >> k, 96 >> k, generator=generator) for k in range(4)}
    corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([384.0, 256.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    pool = BoxPool(7)
    of_cpu = pool(levels, [boxes[:25], boxes[25:]], [])
    of_gpu = pool({name: level.cuda() for name, level in levels.items()}, [boxes[:25].cuda(), boxes[25:].cuda()], [])
    assert of_gpu.is_cuda and torch.allclose(of_cpu, of_gpu.cpu(), atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_run_on_the_gpu(plain_data, untrained, tmp_path, precision):
    work = tmp_path / "work"
    overrides = [
        f"runtime={{engine: auto, precision: {precision}, device: cuda}}",
        "descriptors={gradient_histogram: 1, colour_histogram: 0.5, fine_colour_histogram: 0, whitening: null}",
        "detect.vote_iou=0.8",
    ]
    infer.main(["--data", str(plain_data), "--weights", str(untrained), "--work", str(work), *overrides])
    vectors = np.load(work / "embeddings" / "videos" / "vectors.npy")
    assert len(vectors) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert set(read_result(work / "result.json")) <= {"shoe A", "käse-7", "-dash"}
    assert len(pd.read_parquet(work / "matches" / "votes.parquet"))


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [bbox_sub.train, metric_sub.train], ids=["detector", "embedders"])
def test_a_training_that_is_interrupted_goes_on(tiny_data, tiny_config: Config, tmp_path, monkeypatch, stage, precision):
    """Ten steps or more, stopped after four; the moments of all steps come once, the losses are numbers, and the weights infer."""
    phase = tiny_config.detector_train.phases[0].model_copy(update={"iterations": 10})
    detector_train = {"phases": [phase], "checkpoint_every": 2, "warmup_iterations": 1, "precision": precision, "ema": 0.9}
    embed_train = {"checkpoint_every": 2, "precision": precision, "ema": 0.9, "replay_every": 3, "accumulate": 2}
    config = tiny_config.model_copy(
        update={
            "detector_train": tiny_config.detector_train.model_copy(update=detector_train),
            "embed_train": tiny_config.embed_train.model_copy(update=embed_train),
            "embedders": [tiny_config.embedders[0].model_copy(update={"epochs": 5, "memory": 6})],
        }
    )
    path, work = tmp_path / "config.yaml", tmp_path / "work"
    path.write_text(dump_config(config))
    arguments = ["--config", str(path), "--data", str(tiny_data), "--work", str(work)]
    save = Checkpoint.save

    def save_then_stop(self, step):
        save(self, step)
        if step >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            stage.main(arguments)
    stage.main(arguments)
    name = "detector" if stage is bbox_sub.train else "a"
    folder = work / "weights" / name
    with (folder / "log.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    steps = [int(row["step"]) for row in rows]
    assert len(steps) >= 10 and steps == sorted(set(steps))
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    if name == "detector":
        load_detector(folder, runtime=PLAIN, least_score=0.0)
    else:
        load_embedders(folder, runtime=PLAIN, flip=False)


def test_engine_openvino_is_refused_on_the_gpu_in_words(plain_data, untrained, tmp_path):
    override = "runtime={engine: openvino, precision: auto, device: cuda}"
    with pytest.raises(UserError, match="openvino runs on the CPU"):
        infer.main(["--data", str(plain_data), "--weights", str(untrained), "--work", str(tmp_path / "work"), override])
