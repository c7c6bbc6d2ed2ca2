"""The batches that an embedder trains on: one aspect group and one scale per batch, several crops per product."""

from bisect import bisect_right
from itertools import permutations
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from metric_sub.augment import build_augmentation, mix_crops
from metric_sub.backdrop import replace_paper
from metric_sub.crops import cut_crop
from metric_sub.embedder import InputRule
from shared.boxes import expand_boxes
from shared.config import Config, Embedder, EmbedPhase
from shared.errors import UserError
from shared.frames import read_picture
from shared.tables import BOX

SWAPS = list(permutations(range(3)))  # of the colour channels; the first leaves them as they are
COLOURFUL = 30  # a product's median chroma (of 255) from which a swap makes another colour of it


class Batch(NamedTuple):
    """images (B, 3, H, W) float32 of 0..1 and their classes (B,) int64. Where MixUp or CutMix acted, other_classes (B,) are
    those of the crops that were mixed in and `share`, 0..1, is what is left of the first; else they equal classes, and 1."""

    images: Tensor
    classes: Tensor
    other_classes: Tensor
    share: float


class EmbedderBatches(TorchDataset):
    """Item k is what one of several processes sees of the batch of step k.

    A batch depends on the model's seed and k alone, and each of its crops on its place in it, whatever ran before and
    however many processes share it: that makes an interrupted run go on exactly. Process i has every n-th crop from the i-th
    on; MixUp and CutMix mix within a process, with one share for all.

    In phases with task `products` classes are those of `classes` (N,), which numbers the products of the table's rows from 0
    (-1: a distractor, which is never shown there; one on a track is a product with `distractor_tracks`). With `recolour`, each
    batch shows that share of its colourful products with their colour channels swapped: class n * k + c is product c of n by
    the k-th swap. So the network must tell recoloured products apart, and has more of them to learn from. In phases with task
    `views` each batch has half its size of crops of any kind, twice, and classes number the crops: equal ones are views of
    one crop, and both are in one process.

    `groups` (N,) are the rows' aspect groups of `rule`.

    `crops` is a table as `cut_training_crops` gives it. Raises UserError where batches cannot be shared evenly.
    """

    def __init__(
        self, crops: pd.DataFrame, config: Config, model: Embedder, process_index: int = 0, n_processes: int = 1
    ):
        self._config = config
        self._train = config.train_of(model)
        self._model = model
        check_batch_size(model, self._train.phases, n_processes)
        self._places = slice(process_index, None, n_processes)
        self._crops = crops.crop.tolist()
        self._boxes = crops[BOX].to_numpy("float32")
        self._media = pd.factorize(crops.media_id)[0]
        self._is_photo = (crops.kind == "photo").to_numpy()
        # Any crop's surroundings are a scene where there are no videos.
        self._scenes = np.flatnonzero(~self._is_photo) if not self._is_photo.all() else np.arange(len(crops))
        product = crops["product"].to_numpy()
        is_product = product != 0 if self._train.distractor_tracks else product > 0
        self.classes = np.full(len(crops), -1, np.int64)
        self.classes[is_product], products = pd.factorize(crops["product"][is_product], sort=True)
        self._n_products = len(products)
        self._shown = np.flatnonzero(is_product)  # rows that phases with task products draw from
        chroma = crops.chroma[is_product].groupby(self.classes[is_product]).median()  # by class
        self._colourful = (chroma > COLOURFUL).to_numpy()
        self.rule = InputRule.of(model, config.embed).crop_rule(config.embed)
        self.groups = self.rule.groups_of(expand_boxes(self._boxes, self.rule.margin))
        self._augmentations = {
            phase.augment: build_augmentation(self._train.augment[phase.augment]) for phase in self._train.phases
        }
        self.phase_begins = begins_of(
            [phase.share for phase in self._train.phases], model.epochs * self.steps_per_epoch
        )

    @property
    def n_classes(self) -> int:
        return self._n_products * (len(SWAPS) if self._train.recolour else 1)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._shown) // self._model.batch_size)

    def __len__(self) -> int:
        return self.phase_begins[-1]

    def phase_of(self, step: int) -> EmbedPhase:
        return self._train.phases[bisect_right(self.phase_begins, step) - 1]

    def rows_of(self, step: int) -> np.ndarray:
        """The rows (batch_size,) of the table in the whole batch of a step, before any mixing, all of one aspect group."""
        return self._choose(step, np.random.default_rng([self._model.seed, step]))

    def __getitem__(self, step: int) -> Batch:
        phase = self.phase_of(step)
        rng = np.random.default_rng([self._model.seed, step])
        rows = self._choose(step, rng)
        if phase.task == "products":
            classes = self.classes[rows]
            swaps = self._swaps_of_products(rng)[classes]
            classes = classes + self._n_products * swaps
        else:
            classes, swaps = np.unique(rows, return_inverse=True)[1], np.zeros(len(rows), np.int64)
        size_hw = self.rule.size_of(self.groups[rows[0]], self._train.scales[step % len(self._train.scales)])
        images = [
            self.augmented(
                rows[place],
                size_hw,
                phase.augment,
                SWAPS[swaps[place]],
                np.random.default_rng([self._model.seed, step, 1 + place]),
            )
            for place in range(len(rows))[self._places]
        ]
        return Batch(
            *mix_crops(
                torch.stack(images),  # (B, 3, H, W)
                torch.from_numpy(classes)[self._places],
                self._train.augment[phase.augment],
                rng,
            )
        )

    def _swaps_of_products(self, rng: np.random.Generator) -> np.ndarray:
        """(n products,): which of SWAPS each would be shown with in one batch."""
        if not self._train.recolour:
            return np.zeros(self._n_products, np.int64)
        recoloured = self._colourful & (rng.random(self._n_products) < self._train.recolour)
        return np.where(recoloured, rng.integers(1, len(SWAPS), self._n_products), 0)

    def augmented(
        self,
        row: int,
        size_hw: tuple[int, int],
        augment: str,
        channels: tuple[int, int, int],
        rng: np.random.Generator,
    ) -> Tensor:
        """A row's crop, its box jittered, its colour channels in the order of `channels`, as the augmentation of that name
        leaves it: (3, h, w) float32 of 0..1."""
        settings = self._train.augment[augment]
        picture = self._picture(row)
        box = jitter_box(expand_boxes(self._boxes[row], self.rule.margin)[0], settings.box_jitter, rng)
        crop = cut_crop(picture, box, size_hw, self.rule.interpolation)  # (h, w, 3)
        if rng.random() < settings.backdrop:
            other = rng.choice(self._scenes)
            crop = replace_paper(
                crop, lambda: cv2.resize(self._picture(other), size_hw[::-1], interpolation=cv2.INTER_AREA)
            )
        torch.default_generator.manual_seed(int(rng.integers(2**63)))  # the augmentation draws from torch
        return self._augmentations[augment](torch.from_numpy(crop[..., channels]).permute(2, 0, 1))

    def _picture(self, row: int) -> np.ndarray:
        return read_picture(self._crops[row], self._config.data.max_pixels)

    def _choose(self, step: int, rng: np.random.Generator) -> np.ndarray:
        if self.phase_of(step).task == "views":
            return choose_views(rng, self._media, self.groups, self._model.batch_size)
        shown = self._shown
        chosen = choose_rows(
            rng,
            self.classes[shown],
            self._is_photo[shown],
            self.groups[shown],
            self._model.batch_size,
            self._train.per_product,
        )
        return shown[chosen]


def begins_of(shares: list[float], n_steps: int) -> list[int]:
    """The first step of each phase, by its rounded share of n_steps, and the number of all steps at the end.

    Each phase has one step at least, taken from its neighbours; with fewer steps than phases there are as many as phases.
    """
    n_phases = len(shares)
    n_steps = max(n_steps, n_phases)
    begins = [0]
    for number, done in enumerate(np.cumsum(shares) / np.sum(shares), 1):
        begins.append(max(begins[-1] + 1, min(round(done * n_steps), n_steps - (n_phases - number))))
    return begins


def choose_rows(
    rng: np.random.Generator,
    classes: np.ndarray,
    is_photo: np.ndarray,
    groups: np.ndarray,
    batch_size: int,
    per_product: int,
) -> np.ndarray:
    """Rows (batch_size,) of one batch, all from one group, drawn in proportion to the groups' sizes.

    Products come in random order, each with up to per_product of its rows in that group, photos and frames by turns, and come
    again with other rows when all had their turn; rows come again when all were there. Where per_product is 2 or more, each
    product in the batch is there twice at least: one with a single row comes with it twice.
    """
    group = rng.choice(groups)
    rows = rng.permutation(np.flatnonzero(groups == group))
    product = classes[rows]
    photo_first = rng.random(product.max() + 1) < 0.5
    place = pd.DataFrame({"product": product, "photo": is_photo[rows]}).groupby(["product", "photo"]).cumcount()
    rows = rows[np.lexsort([is_photo[rows] ^ photo_first[product], place, product])]  # by product, kinds by turns
    if per_product > 1:
        counts = np.bincount(classes[rows])
        rows = np.repeat(rows, 1 + (counts[classes[rows]] == 1))
    order = pd.Series(classes[rows])
    turn = order.groupby(order).cumcount().to_numpy() // per_product  # which of its product's turns a row belongs to
    rank = rng.permutation(order.max() + 1)[order]  # the product's place within a turn
    rows = rows[np.lexsort([rank, turn])]  # a stable sort: kinds stay by turns
    batch = np.resize(rows, batch_size)
    others = batch[:-1]
    # The batch's end may have cut its last product's turn short.
    if per_product > 1 and len(others) and classes[batch[-1]] not in classes[others]:
        spare = rows[batch_size:][np.isin(classes[rows[batch_size:]], classes[others])]
        batch[-1] = spare[0] if len(spare) else others[-1]
    return batch


def choose_views(rng: np.random.Generator, media: np.ndarray, groups: np.ndarray, batch_size: int) -> np.ndarray:
    """Rows (batch_size,) of one batch, all from one group, drawn in proportion to the groups' sizes: batch_size / 2 different
    ones where the group has them, then the same once more.

    They are of different `media` (N,), photos or videos, while there are such: frames of one video show one thing many times,
    which could not be told apart.
    """
    rows = rng.permutation(np.flatnonzero(groups == rng.choice(groups)))
    of_media = pd.Series(media[rows])
    turn = of_media.groupby(of_media).cumcount().to_numpy()
    rows = rows[np.argsort(turn, kind="stable")]
    return np.tile(np.resize(rows, batch_size // 2), 2)


def jitter_box(box_xyxy: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The box with every side moved by up to `share` of the box's width or height."""
    width, height = box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]
    return box_xyxy + rng.uniform(-share, share, 4) * [width, height, width, height]


def check_batch_size(model: Embedder, phases: list[EmbedPhase], n_processes: int) -> None:
    """Raises UserError where a batch cannot be shared evenly, or leaves a process one crop alone, which batch norms cannot use."""
    unit, reason = n_processes, f"{n_processes} processes share a batch evenly"
    if any(phase.task == "views" for phase in phases):
        unit, reason = 2 * n_processes, f"two views of a crop stay in one of {n_processes} processes"
    if model.batch_size % unit:
        raise UserError(
            f"embedders.{model.name}.batch_size: expected a multiple of {unit} ({reason}), found {model.batch_size}. "
            "Change it, or start another number of processes."
        )
    if model.batch_size < 2 * n_processes:
        raise UserError(
            f"embedders.{model.name}.batch_size: expected {2 * n_processes} or more (a batch norm wants two crops in each process), found "
            f"{model.batch_size}. Raise it, or start fewer processes."
        )
