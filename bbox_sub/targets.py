"""What the detector learns from: pictures with their boxes and categories, and the batches of a training run."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from bbox_sub.paste import cut_out, paste
from bbox_sub.resize import resize_picture, resized_size
from shared.boxes import box_areas, clip_boxes
from shared.config import Config
from shared.errors import UserError
from shared.frames import picture_size, read_picture
from shared.progress import progress_bar
from shared.tables import BOX

log = logging.getLogger("detector")

GREY = 114  # of the canvas around a picture that was made smaller
KEPT = 0.3  # share of a box's area that must stay inside, else what is seen of it says too little


@dataclass(frozen=True)
class LabelledPicture:
    """A picture file and its boxes: boxes_xyxy (N, 4) float32 pixels of the file, labels (N,) int64 from 1; N may be 0."""

    picture: str
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    is_photo: bool = False  # of an item, of which products are cut out; training alone asks for it


def labelled_pictures(
    pictures: pd.DataFrame, labels: pd.DataFrame, categories: list[str], aliases: dict[str, str]
) -> list[LabelledPicture]:
    """One LabelledPicture per row of `pictures` (media_id, frame_index, picture), in its order.

    One category takes every box, distractors too: the detector finds products, stage 2 tells which. With several, a box's
    label (or what `aliases` makes of it) must be among them, else UserError names those that are not.
    """
    names = labels.label.map(lambda label: aliases.get(label, label))
    if len(categories) > 1:
        unknown = sorted(set(names) - set(categories))
        if unknown:
            raise UserError(
                f"detector.categories: the data has labels that it lacks: {unknown}. Add them there or under data.label_aliases."
            )
    numbers = (
        names.map({name: k for k, name in enumerate(categories, 1)})
        if len(categories) > 1
        else pd.Series(1, labels.index)
    )
    labels = labels.assign(number=numbers.astype("int64"))
    boxes = {key: group for key, group in labels.groupby(["media_id", "frame_index"], sort=False)}
    none = labels.iloc[:0]
    found = [(row.picture, boxes.get((row.media_id, row.frame_index), none)) for row in pictures.itertuples()]
    return [
        LabelledPicture(picture, group[BOX].to_numpy("float32"), group.number.to_numpy("int64"))
        for picture, group in found
    ]


def fit_boxes(boxes_xyxy: np.ndarray, labels: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to the picture, without those that are then under a pixel wide or high; and their labels."""
    boxes = clip_boxes(boxes_xyxy, width, height)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    return boxes[keep], labels[keep]


def place_on_canvas(
    image: torch.Tensor, boxes_xyxy: np.ndarray, labels: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The second half of scale jitter (Ghiasi et al. 2021): a random window of a larger picture, or a smaller one somewhere on grey.

    image (3, h, w) uint8 becomes (3, *size_hw). Boxes move along and are clipped; those that keep less than KEPT of their
    area are left out, with their labels.
    """
    offsets = [
        int(rng.integers(min(0, new - old), max(0, new - old) + 1))
        for old, new in zip(image.shape[1:], size_hw, strict=True)
    ]
    canvas = torch.full((3, *size_hw), GREY, dtype=torch.uint8)
    (top, left), (height, width) = offsets, image.shape[1:]
    inner = canvas[:, max(0, top) : top + height, max(0, left) : left + width]
    inner.copy_(image[:, max(0, -top) :, max(0, -left) :][:, : inner.shape[1], : inner.shape[2]])
    moved = boxes_xyxy + np.float32([left, top, left, top])
    clipped = clip_boxes(moved, size_hw[1], size_hw[0])
    keep = box_areas(clipped) >= KEPT * box_areas(moved)
    return canvas, clipped[keep], labels[keep]


class DetectorBatches(TorchDataset):
    """Item k is what one of several processes sees of the batch of step k: (images, targets, canvas_hw), the first two as
    torchvision's detectors take them, the last the largest height and width of the whole batch.

    A batch depends on the seed and k alone, and each of its pictures on its place in it, whatever ran before and however
    many processes share it: that makes an interrupted run go on exactly. Pictures come epoch after epoch, each once, in an
    order drawn for the epoch; a batch may end one epoch and begin the next.
    Each process has an equal share: batch sizes are multiples of the number of processes.
    """

    def __init__(self, pictures: list[LabelledPicture], config: Config, process: int = 0, n_processes: int = 1):
        self._pictures = pictures
        self._photos = [picture for picture in pictures if picture.is_photo and len(picture.labels)]
        self._config = config
        self._train = config.detector_train
        self._places = slice(process, None, n_processes)
        self._phases = [phase for phase in self._train.phases for _ in range(phase.iterations)]  # by step
        self._first = np.cumsum([0, *(phase.batch_size for phase in self._phases)])  # pictures shown before a step
        jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05)
        self._colour = v2.RandomApply([jitter], p=self._train.colour_jitter)

    def __len__(self) -> int:
        return len(self._phases)

    def epochs_before(self, step: int) -> float:
        """How many times every picture was shown before a step, 0 <= step <= len(self)."""
        return float(self._first[step] / len(self._pictures))

    def __getitem__(self, step: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]], tuple[int, int]]:
        chosen = self._chosen(step)
        short_side = int(np.random.default_rng([self._config.seed, 1, step]).choice(self._phases[step].short_sides))
        sizes_hw = [
            resized_size(
                *picture_size(labelled.picture, self._config.data.max_pixels), short_side, self._train.max_side
            )
            for labelled in chosen
        ]
        samples = [
            self._sample(chosen[place], sizes_hw[place], np.random.default_rng([self._config.seed, 1, step, place]))
            for place in range(len(chosen))[self._places]
        ]
        canvas_hw = max(height for height, _ in sizes_hw), max(width for _, width in sizes_hw)
        return [image for image, _ in samples], [target for _, target in samples], canvas_hw

    def _chosen(self, step: int) -> list[LabelledPicture]:
        """The pictures of a step's whole batch."""
        epochs, places = np.divmod(np.arange(self._first[step], self._first[step + 1]), len(self._pictures))
        orders = {
            epoch: np.random.default_rng([self._config.seed, 0, epoch]).permutation(len(self._pictures))
            for epoch in np.unique(epochs)
        }
        return [self._pictures[orders[epoch][place]] for epoch, place in zip(epochs, places, strict=True)]

    def _sample(
        self, labelled: LabelledPicture, size_hw: tuple[int, int], rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image_rgb = read_picture(labelled.picture, self._config.data.max_pixels)
        height, width = image_rgb.shape[:2]
        boxes, labels = fit_boxes(labelled.boxes_xyxy, labelled.labels, width, height)
        zoom = float(np.exp(rng.uniform(-1, 1) * np.log(self._train.zoom)))
        zoomed_hw = tuple(max(1, round(side * zoom)) for side in size_hw)
        image = resize_picture(image_rgb, zoomed_hw)  # (3, h, w) uint8
        boxes = boxes * np.tile(np.float32([zoomed_hw[1] / width, zoomed_hw[0] / height]), 2)
        image, boxes, labels = place_on_canvas(image, boxes, labels, size_hw, rng)
        if rng.random() < self._train.flip:
            image = image.flip(-1)
            boxes = np.stack([size_hw[1] - boxes[:, 2], boxes[:, 1], size_hw[1] - boxes[:, 0], boxes[:, 3]], axis=1)
        image = self._recoloured(image, rng)
        if not labelled.is_photo and self._photos and rng.random() < self._train.paste:
            image, boxes, labels = self._with_product(image, boxes, labels, rng)
        image = image.float() / 255
        large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)  # what shrank under a pixel cannot be learnt
        return image, {
            "boxes": torch.from_numpy(boxes[large]).float().reshape(-1, 4),
            "labels": torch.from_numpy(labels[large]),
        }

    def _recoloured(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        torch.manual_seed(int(rng.integers(2**31)))  # torchvision's transforms draw from torch
        return self._colour(image)

    def _with_product(
        self, image: torch.Tensor, boxes_xyxy: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """A product of any photo over the image, with its box; all as it was where the photo has no paper to cut it out of."""
        photo = self._photos[rng.integers(len(self._photos))]
        box = int(rng.integers(len(photo.labels)))
        photo_rgb = read_picture(photo.picture, self._config.data.max_pixels)
        product = cut_out(photo_rgb, photo.boxes_xyxy[box], image.shape[1:], rng)
        if product is None:
            return image, boxes_xyxy, labels
        if rng.random() < self._train.flip:
            product = product.mirrored()
        product = replace(product, image=self._recoloured(product.image, rng))
        top, left = (
            int(rng.integers(whole - part + 1))
            for whole, part in zip(image.shape[1:], product.shares.shape, strict=True)
        )
        return paste(image, boxes_xyxy, labels, product, int(photo.labels[box]), top, left)


def count_boxes(pictures: list[LabelledPicture], max_pixels: int) -> dict[str, int]:
    """What there is to learn from, and what `fit_boxes` does to it: {'pictures', 'pictures_without_boxes', 'boxes',
    'boxes_clipped', 'boxes_dropped'}. Boxes that are dropped count as boxes, not as clipped.

    Reads the headers of the pictures, not their pixels; logs the counts. Raises UserError for a file that is no picture.
    """
    n_clipped = n_dropped = 0
    with progress_bar(total=len(pictures), title="picture sizes", unit="picture") as bar:
        for labelled in pictures:
            height, width = picture_size(labelled.picture, max_pixels)
            kept, places = fit_boxes(labelled.boxes_xyxy, np.arange(len(labelled.labels)), width, height)
            n_clipped += int((kept != labelled.boxes_xyxy[places]).any(axis=1).sum())
            n_dropped += len(labelled.labels) - len(kept)
            bar.update()
    counts = {
        "pictures": len(pictures),
        "pictures_without_boxes": sum(not len(labelled.labels) for labelled in pictures),
        "boxes": sum(len(labelled.labels) for labelled in pictures),
        "boxes_clipped": n_clipped,
        "boxes_dropped": n_dropped,
    }
    log.info(
        "%d pictures, %d of them without a box; %d boxes, %d clipped to their picture, %d under a pixel and dropped",
        *counts.values(),
    )
    return counts
