"""The batches that an embedder trains on: one aspect group and one scale per batch, several crops per product."""

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset as TorchDataset

from metric_sub.augment import build_augmentation
from metric_sub.crops import CropRule, cut_crop
from shared.boxes import expand_boxes
from shared.config import Config, Embedder
from shared.frames import read_picture


class EmbedderBatches(TorchDataset):
    """Item k is the whole batch of step k: crops (B, 3, H, W) float32 in 0..1 and classes (B,) int64.

    A batch depends on the model's seed and k alone, so that an interrupted run goes on exactly. `classes` (N,) numbers
    the products of the table's rows from 0.
    """

    def __init__(self, crops: pd.DataFrame, config: Config, model: Embedder):
        self._crops = crops.crop.tolist()
        self._boxes = crops[["x1", "y1", "x2", "y2"]].to_numpy("float32")
        self.classes, products = pd.factorize(crops["product"], sort=True)
        self.n_classes = len(products)
        self._config = config
        self._settings = config.embed_train.augment[config.embed_train.phases[0].augment]
        self._model = model
        self._rule = CropRule.of(model.input_size, config.embed)
        self._groups = self._rule.groups_of(expand_boxes(self._boxes, self._rule.margin))
        self._augment = build_augmentation(self._settings)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._crops) // self._model.batch_size)

    def __len__(self) -> int:
        return self._model.epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self._config.embed_train
        rng = np.random.default_rng([self._model.seed, step])
        torch.manual_seed(int(rng.integers(2**31)))  # the augmentation draws from torch
        rows = choose_rows(rng, self.classes, self._groups, self._model.batch_size, settings.per_product)
        size_hw = self._rule.size_of(self._groups[rows[0]], settings.scales[step % len(settings.scales)])
        images = torch.stack([self._augment(self._crop(row, size_hw, rng)) for row in rows])  # (B, 3, H, W)
        return images, torch.from_numpy(self.classes[rows])

    def _crop(self, row: int, size_hw: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
        picture = read_picture(self._crops[row], self._config.data.max_pixels)
        box = jitter_box(expand_boxes(self._boxes[row], self._rule.margin)[0], self._settings.box_jitter, rng)
        return torch.from_numpy(cut_crop(picture, box, size_hw)).permute(2, 0, 1).contiguous()  # (3, h, w)


def choose_rows(
    rng: np.random.Generator, classes: np.ndarray, groups: np.ndarray, batch_size: int, per_product: int
) -> np.ndarray:
    """Rows (batch_size,) of one batch, all from one group, drawn in proportion to the groups' sizes.

    Products come in random order, each with up to per_product of its rows in that group, and come again with other rows
    when all had their turn; a product with one row may so be drawn twice.
    """
    group = rng.choice(groups)
    rows = rng.permutation(np.flatnonzero(groups == group))
    order = pd.Series(classes[rows])
    turn = order.groupby(order).cumcount().to_numpy() // per_product  # which of its product's turns a row belongs to
    rank = pd.Series(rng.permutation(order.max() + 1))[order].to_numpy()  # the product's place within a turn
    ordered = rows[np.lexsort([rank, turn])]
    return np.resize(ordered, batch_size)


def jitter_box(box_xyxy: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The box with every side moved by up to `share` of the box's width or height."""
    width, height = box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]
    return box_xyxy + rng.uniform(-share, share, 4) * [width, height, width, height]
