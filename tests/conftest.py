"""Fixtures for all tests."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from shared.config import Config, Data, load_config
from tests.drawing import draw_dataset

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


@pytest.fixture(autouse=True)
def _denormals():
    """Entries that run inside a test flush denormal numbers to zero, for the whole process; the next test gets them back."""
    yield
    torch.set_flush_denormal(False)
