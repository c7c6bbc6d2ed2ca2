"""The full recipe's networks by configs/wab.yaml, ten steps each on the drawn set.

Phases, losses, optimiser and augmentation are the recipe's own. What differs: random weights, one aspect group, float32, and the
size of crops and batches.
"""

import numpy as np
import pytest
import torch

import metric_sub.train
from metric_sub.embed import CropEmbedder
from metric_sub.embedder import load_embedders
from shared.config import dump_config, load_config
from shared.runtime import PLAIN
from tests.conftest import PROJECT

SMALL = [
    "data.validation_parts=[validation]",
    "detector_train.parts=[train]",
    "embed_train.parts=[train]",
    "embed_train.frames={start: 0, stop: 16, step: 8}",
    "embed_train.workers=0",
    "embed_train.precision=no",  # fp16 wants a GPU
]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name", "n_features"), [(0, "b5-a", 2048), (2, "b6", 2304), (3, "b7", 2560)])
def test_ten_steps_and_a_batch_of_vectors(tiny_data, tmp_path, number, name, n_features):
    recipe = load_config(PROJECT / "configs" / "wab.yaml", SMALL)
    small = {"input_size": 64, "aspect_groups": 1, "batch_size": 4, "epochs": 5, "pretrained": False}
    model = recipe.embedders[number].model_copy(update=small)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(recipe.model_copy(update={"embedders": [model]})))
    work = tmp_path / "work"
    metric_sub.train.main(["--config", str(path), "--data", str(tiny_data), "--work", str(work)])
    steps = [line.split(",") for line in (work / "weights" / name / "log.csv").read_text().splitlines()]
    column = steps[0].index("loss")
    losses = [float(row[column]) for row in steps[1:] if row[column]]
    assert len(losses) >= 10 and np.isfinite(losses).all()
    [embedder] = load_embedders(work / "weights" / name, runtime=PLAIN, flip=False)
    assert embedder.net.project.weight.shape == (512, n_features)
    crops = CropEmbedder([[embedder]], 32)
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    crops.add(image, np.float32([[0, 0, 30, 60], [5, 5, 65, 35], [20, 20, 60, 60]]))
    with torch.inference_mode():
        vectors = crops.take()
    assert vectors.shape == (3, 512) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
