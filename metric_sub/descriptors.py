"""Descriptors, joined with the learned embedders' vectors: edges and colours of a crop.

Learned from a few hundred products an embedder tells less than it could; edges show that a picture of the catalogue is in the video as
it is, colours what no network that was trained against coloured light can go by.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from metric_sub.crops import cut_crop
from shared.config import DescriptorSettings

SIDE = 64  # px: every crop is described as a square of this size
CELLS = 8  # along each side
ORIENTATIONS = 9  # of an edge, over half a turn
NEIGHBOURHOOD = 3  # cells along each side: by their mean energy a cell is normalised
LEAST_ENERGY = 0.01  # of the crop's largest: what a cell is divided by at least

COLOUR_SIDE = 32  # px
BINS = (12, 4, 4)  # hues, saturations, values
FINE_BINS = (24, 8, 8)
BANDS = 3  # from top to bottom
CENTRE = 0.6  # standard deviation of the pixels' weight around the crop's centre, in halves of its side


def gradient_histograms(crops_rgb: np.ndarray) -> np.ndarray:
    """HOG, histograms of oriented gradients: (N, 64, 64, 3) uint8 -> (N, 576) float32 of unit length.

    After Dalal and Triggs (2005), but for how cells are normalised: each by itself and once, not in overlapping blocks.

    Of each of 8 x 8 cells the strengths of its edges by 9 orientations without a sign, each pixel's shared linearly between
    the nearest cells and orientations. A pixel's gradient is that of its steepest channel, of the roots of the values. Cells
    are divided by the root of their 3 x 3 neighbours' mean energy. Order: row, column, orientation, of which bin k
    is around (k + 0.5) * 20 degrees from a gradient to the right. A crop without an edge gives zeros.
    """
    n = len(crops_rgb)
    strength, orientation = _steepest(np.sqrt(crops_rgb.transpose(0, 3, 1, 2), dtype=np.float32))  # (N, 64, 64)
    place = orientation * ORIENTATIONS - 0.5  # in bins
    spread = _spread()
    cells = np.empty((n, CELLS, CELLS, ORIENTATIONS), np.float32)
    for number in range(ORIENTATIONS):
        apart = np.abs(place - number)
        share = np.maximum(1 - np.minimum(apart, ORIENTATIONS - apart), 0)  # half a turn is a circle
        cells[..., number] = spread @ (strength * share) @ spread.T
    energy = (cells**2).sum(axis=3)  # (N, 8, 8)
    near = _mean_of_neighbours(energy)
    near += LEAST_ENERGY * near.max(axis=(1, 2), keepdims=True)
    cells /= np.sqrt(near + np.finfo(np.float32).tiny)[..., None]
    return unit_rows(cells.reshape(n, -1))


def colour_histograms(crops_rgb: np.ndarray) -> np.ndarray:
    """Joint histograms of hue, saturation and value (Swain and Ballard 1991): (N, 64, 64, 3) uint8 -> (N, 576) float32.

    One for each of three bands from top to bottom, 12 x 4 x 4 bins between which a pixel is shared linearly (hue is a circle);
    pixels count the less, the farther they are from the crop's centre. Entries are roots of shares, so that distances are
    Hellinger's. Unit length.
    """
    shrunk = [cv2.resize(crop, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA) for crop in crops_rgb]
    return _soft_histograms(np.stack(shrunk), BANDS, BINS, _central())


def fine_colour_histograms(crops_rgb: np.ndarray) -> np.ndarray:
    """As `colour_histograms`, but one histogram of 24 x 8 x 8 bins of the whole crop, whose pixels all count the same:
    (N, 64, 64, 3) uint8 -> (N, 1536) float32."""
    return _soft_histograms(crops_rgb, 1, FINE_BINS, np.ones(SIDE**2))


def _soft_histograms(crops_rgb: np.ndarray, bands: int, bins: tuple[int, int, int], pixel_weights: np.ndarray) -> np.ndarray:
    """Histograms of hue, saturation and value by bands: (N, S, S, 3) uint8 -> (N, bands * product of bins); pixel_weights (S * S,),
    row by row."""
    n, side, (hues, saturations, values) = len(crops_rgb), crops_rgb.shape[1], bins
    flat = crops_rgb.reshape(n * side, side, 3).astype(np.float32) / 255
    hue, saturation, value = np.moveaxis(cv2.cvtColor(flat, cv2.COLOR_RGB2HSV).reshape(n, -1, 3), 2, 0)  # (N, S * S) each
    sides_hue = _shared(hue / 360 * hues, hues, circle=True)
    sides_saturation = _shared(saturation * saturations - 0.5, saturations)
    sides_value = _shared(value * values - 0.5, values)
    band = np.repeat(np.arange(side) * bands // side, side)  # (S * S,)
    place = np.arange(n)[:, None] * bands + band  # (N, S * S)
    size = n * bands * hues * saturations * values
    counts = np.zeros(size)
    for hue_bin, of_hue in sides_hue:
        for saturation_bin, of_saturation in sides_saturation:
            for value_bin, of_value in sides_value:
                number = ((place * hues + hue_bin) * saturations + saturation_bin) * values + value_bin
                weights = pixel_weights * of_hue * of_saturation * of_value
                counts += np.bincount(number.ravel(), weights.ravel(), size)
    return unit_rows(np.sqrt(counts.reshape(n, -1)).astype(np.float32))


@dataclass(frozen=True)
class Descriptor:
    """What gives the vectors, (N, 64, 64, 3) uint8 -> (N, length) float32 of unit length or zeros. whitens: whether
    `descriptors.whitening` is for it."""

    describe: Callable[[np.ndarray], np.ndarray]
    length: int
    whitens: bool


DESCRIPTORS = {
    "gradient_histogram": Descriptor(gradient_histograms, CELLS * CELLS * ORIENTATIONS, whitens=False),
    "colour_histogram": Descriptor(colour_histograms, BANDS * math.prod(BINS), whitens=True),
    "fine_colour_histogram": Descriptor(fine_colour_histograms, math.prod(FINE_BINS), whitens=True),
}


def descriptor_weights(settings: DescriptorSettings) -> dict[str, float]:
    """Those of the section `descriptors` whose weight is not 0, in DESCRIPTORS' order."""
    of_all = {
        "gradient_histogram": settings.gradient_histogram,
        "colour_histogram": settings.colour_histogram,
        "fine_colour_histogram": settings.fine_colour_histogram,
    }
    return {name: weight for name, weight in of_all.items() if weight}


def descriptors_of_boxes(image_rgb: np.ndarray, boxes_xyxy: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Of each descriptor that is named the vectors of a picture's boxes (N, 4), which no margin widens: (N, its length) float32."""
    if not names:
        return []
    if not len(boxes_xyxy):
        return [np.zeros((0, DESCRIPTORS[name].length), np.float32) for name in names]
    crops = np.stack([cut_crop(image_rgb, box, (SIDE, SIDE), "bilinear") for box in boxes_xyxy])
    return [DESCRIPTORS[name].describe(crops) for name in names]


def _steepest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (N, 3, H, W) the strength of each pixel's gradient, by central differences in its steepest channel, and its
    orientation in 0..1 of half a turn, (N, H, W) each. Beyond the border the picture is mirrored: no gradient across it."""
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]  # (N, 3, H, W)
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    squared = across**2 + down**2
    best = [each[:, 0] for each in (squared, across, down)]  # (N, H, W) each
    for channel in (1, 2):
        steeper = squared[:, channel] > best[0]
        best = [np.where(steeper, each[:, channel], own) for each, own in zip((squared, across, down), best, strict=True)]
    return np.sqrt(best[0]), np.arctan2(best[2], best[1]) / np.pi % 1.0


@cache
def _spread() -> np.ndarray:
    """(8, 64): how each of 64 pixels of a line is shared between the cells whose centres are nearest; beyond the first and the
    last centre a part is lost."""
    place = (np.arange(SIDE) + 0.5) * CELLS / SIDE - 0.5
    return np.maximum(0, 1 - np.abs(np.arange(CELLS)[:, None] - place)).astype(np.float32)


def _mean_of_neighbours(energy: np.ndarray) -> np.ndarray:
    """(N, 8, 8) -> (N, 8, 8): the mean of each cell and the eight around it; beyond the border they are mirrored."""
    reach = NEIGHBOURHOOD // 2
    padded = np.pad(energy, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (NEIGHBOURHOOD, NEIGHBOURHOOD), axis=(1, 2))
    return windows.mean(axis=(3, 4))


def _shared(place: np.ndarray, n: int, circle: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two bins between which each value lies and its share of either: [(bin, share), (next bin, share)]. `place` is in bins; values
    before the first or behind the last bin's centre belong to it alone, on a circle they lie between the last and the first."""
    if not circle:
        place = np.clip(place, 0, n - 1)
    below = np.floor(place)
    share, below = place - below, below.astype(np.int64)
    return [(below % n, 1 - share), ((below + 1) % n, share)]


@cache
def _central() -> np.ndarray:
    """(1024,): the weight of each pixel, by a Gaussian around the centre."""
    offset = (np.arange(COLOUR_SIDE) + 0.5) * 2 / COLOUR_SIDE - 1
    return np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * CENTRE**2)).ravel()


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """(N, D) with each row divided by its length; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
