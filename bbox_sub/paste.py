"""Products cut out of their photos' white paper are pasted over other pictures: simple copy-paste (Ghiasi et al. 2021).

In a live video somebody holds the product before their own clothes; a detector that saw few such videos takes both for one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bbox_sub.resize import resize_picture
from shared.boxes import clip_boxes, expand_boxes, pairwise_iou
from shared.paper import paper_shares

FITS = 0.3, 0.9  # a product fits into this share of the picture's sides, from and to; one that is smaller stays so
MARGIN = 0.05  # of its sides: a box is cut out with so much more, since a tight one may hold no paper
ON_PAPER = 0.5  # share of a cut's border that is paper, at least: a scene's bright sky or window has less
LEAST_IOU = 0.6  # of the solid pixels' box and the labelled one: of white products on paper only the print is solid
HIDDEN = 0.5  # share of a box under a pasted product from which on the box says too little


@dataclass(frozen=True)
class CutOut:
    """A product without its paper: image (3, h, w) uint8, shares (h, w) float32 in 0..1, how much of each pixel is product."""

    image: torch.Tensor
    shares: torch.Tensor

    @property
    def solid(self) -> torch.Tensor:
        """(h, w) bool: the pixels that are product rather than not."""
        return self.shares > 0.5

    def mirrored(self) -> "CutOut":
        return CutOut(self.image.flip(-1), self.shares.flip(-1))


def cut_out(
    photo_rgb: np.ndarray, box_xyxy: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator
) -> CutOut | None:
    """The product in a photo's box, of a random size that suits a picture of `size_hw`, never enlarged.

    photo_rgb (H, W, 3) uint8; box_xyxy (4,) pixels. None where the box does not stand on paper, or where what is not paper
    does not fill it.
    """
    height, width = photo_rgb.shape[:2]
    x1, y1, x2, y2 = clip_boxes(expand_boxes(box_xyxy, MARGIN), width, height)[0].round().astype(int)
    crop = photo_rgb[y1:y2, x1:x2]
    if not crop.size:
        return None
    fits = float(np.exp(rng.uniform(*np.log(FITS))))
    scale = min(1, fits * min(new / old for new, old in zip(size_hw, crop.shape[:2], strict=True)))
    small = resize_picture(crop, tuple(max(1, round(scale * side)) for side in crop.shape[:2]))  # (3, h, w)
    paper = paper_shares(small.permute(1, 2, 0).numpy())
    if paper is None or np.concatenate([paper[0], paper[-1], paper[:, 0], paper[:, -1]]).mean() < ON_PAPER:
        return None
    product = CutOut(small, torch.from_numpy(1 - paper))
    labelled = scale * (clip_boxes(box_xyxy, width, height) - np.float32([x1, y1, x1, y1]))
    if not product.solid.any() or pairwise_iou(_extents(product.solid), labelled)[0, 0] < LEAST_IOU:
        return None
    return product


def paste(
    image: torch.Tensor, boxes_xyxy: np.ndarray, labels: np.ndarray, product: CutOut, label: int, top: int, left: int
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The image (3, H, W) uint8 with the product over it, its first pixel at row `top`, column `left`, wholly inside; and its boxes.

    Boxes (N, 4) that are hidden by half are left out, with their labels (N,). The product's own comes last, close around
    its solid pixels.
    """
    height, width = product.shares.shape
    window = slice(top, top + height), slice(left, left + width)
    covered = torch.zeros(image.shape[1:], dtype=torch.bool)
    covered[window] = product.solid
    keep = np.array([_share_of(covered, box) < HIDDEN for box in boxes_xyxy], bool)
    below = image[:, *window]
    pasted = image.clone()
    pasted[:, *window] = torch.lerp(below.float(), product.image.float(), product.shares).round().to(torch.uint8)
    return pasted, np.concatenate([boxes_xyxy[keep], _extents(covered)]), np.append(labels[keep], label)


def _extents(solid: torch.Tensor) -> np.ndarray:
    """The box (1, 4) float32 around the pixels (H, W) that are True, of which there is one at least."""
    rows, columns = (np.flatnonzero(solid.any(dim=dim).numpy()) for dim in (1, 0))
    return np.float32([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]])


def _share_of(covered: torch.Tensor, box_xyxy: np.ndarray) -> float:
    """The share of a box's pixels that are covered; covered (H, W) bool. A pixel that the box touches counts as whole."""
    x1, y1 = np.floor(box_xyxy[:2]).astype(int)
    x2, y2 = np.ceil(box_xyxy[2:]).astype(int)
    return float(covered[y1:y2, x1:x2].float().mean())
