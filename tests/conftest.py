"""Fixtures for all tests."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from bbox_sub.detector import build_detector
from metric_sub.embedder import build_embedder, save_embedder
from shared.config import Config, Data, dump_config, load_config
from shared.weights import save_weights
from tests.drawing import draw_dataset, product_box, scene, write_video

settings.register_profile("vid2shop", deadline=None, derandomize=True)  # a busy machine is no failure; seeds are pinned
settings.load_profile("vid2shop")

PROJECT = Path(__file__).resolve().parents[1]

EMBEDDER = "backbone: resnet10t, pretrained: false, input_size: 64, aspect_groups: 5, epochs: 1, batch_size: 4, memory: 0, train: {}"
SMALLER = [
    "threads=1",
    "runtime={engine: torch, precision: f32, device: cpu}",
    "frames={start: 0, stop: 16, step: 8}",
    "detector.backbone=ese_vovnet19b_slim_dw",
    "detector.pyramid_channels=16",
    "detector.box_head_features=32",
    "detector_train.workers=0",
    "detector_train.evaluate_every=1",
    "detector_train.phases.0.batch_size=2",
    "detector_train.precision=no",
    f"embedders=[{{name: a, seed: 0, {EMBEDDER}}}, {{name: b, seed: 1, {EMBEDDER}}}]",
    "embed.dimension=16",
    "embed_train.frames={start: 0, stop: 16, step: 8}",
    "embed_train.workers=0",
    "embed_train.precision=no",
]


def data_limits(**changes) -> Data:
    """The section `data` of configs/tiny.yaml with some values changed."""
    return Data.model_validate({**load_config(PROJECT / "configs" / "tiny.yaml").data.model_dump(), **changes})


def door_over(script: str, folder: Path) -> Path:
    """run.sh in a folder of its own, over an interpreter that is this script of bash."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)
    for name in ("run.sh", "requirements.lock"):
        shutil.copyfile(PROJECT / name, folder / name)
    mark = subprocess.run(["cksum"], input=(folder / "requirements.lock").read_bytes(), capture_output=True, check=True)
    (folder / ".venv" / ".installed").write_bytes(mark.stdout)
    return folder / "run.sh"


@pytest.fixture(scope="session")
def _drawn_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw_dataset(root)
    return root


@pytest.fixture
def tiny_data(_drawn_data, tmp_path) -> Path:
    """The root of a drawn data set (see tests/drawing.py) of the test's own, to change as it likes."""
    return shutil.copytree(_drawn_data, tmp_path / "tiny_data")


@pytest.fixture
def tiny_config() -> Config:
    """configs/tiny.yaml with still smaller networks, two embedders a and b, and frames that the drawn videos have."""
    return load_config(PROJECT / "configs" / "tiny.yaml", SMALLER)


@pytest.fixture
def untrained(tiny_config: Config, tmp_path: Path) -> Path:
    """A weights folder of networks with random weights, as training would leave it, and the config beside them.

    Thresholds of 0 let every box through: what is tested here is the flow, not the answer.
    """
    config = tiny_config.model_copy(
        update={
            "detect": tiny_config.detect.model_copy(update={"photo_score": 0.0, "video_score": 0.0}),
            "match": tiny_config.match.model_copy(update={"max_distance": 2.0}),
        }
    )
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    save_weights(
        folder / "detector",
        build_detector(config.detector, load_pretrained=False),
        {"kind": "detector", "architecture": config.detector.model_dump()},
    )
    for model in config.embedders:
        net = build_embedder(model, config.embed, load_pretrained=False)
        save_embedder(folder / model.name, [net], model, config.embed, {}, 0)
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two of torch's threads, whatever the machine and other tests have: compiled models then have two inputs at work at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plain_data(tmp_path: Path) -> Path:
    """Two items and two videos with ids and formats of all sorts, without an annotation."""
    root = tmp_path / "plain data"
    rng = np.random.default_rng(0)
    for item_id, name, source in (
        ("shoe A", "side view.png", "000000"),
        ("shoe A", "1.webp", "000000"),
        ("käse-7", "front.PNG", "000001"),
    ):
        (root / "image" / item_id).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(source, (10, 8, 48, 60), rng)).save(root / "image" / item_id / name)
    (root / "video").mkdir()
    for name, source in (("shoe A.mov", "000000"), ("käse-7.mkv", "000001"), ("-dash.mp4", "000002")):
        write_video(root / "video" / name, [scene(source, product_box(source, k), rng) for k in range(20)])
    return root


@pytest.fixture(autouse=True)
def _denormals():
    """Entries that run inside a test flush denormal numbers to zero, for the whole process; the next test gets them back."""
    yield
    torch.set_flush_denormal(False)
