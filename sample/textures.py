"""The patterns of a fabric: where its second colour shows."""

from dataclasses import dataclass

import cv2
import numpy as np

KINDS = ("plain", "stripes", "bars", "diagonals", "checks", "panes", "dots", "zigzag", "camouflage", "knit", "gradient", "halves", "scatter")
QUIET = ("plain", "knit", "gradient")  # a print is still well seen on these


@dataclass(frozen=True)
class Texture:
    """kind: one of KINDS; seed: decides its scale, phase and proportions."""

    kind: str
    seed: int


def second_colour(texture: Texture, size: int) -> np.ndarray:
    """The second colour's share at each pixel of a square: (size, size) float32 in 0..1."""
    rng = np.random.default_rng(texture.seed)
    y, x = (np.mgrid[0:size, 0:size] / size).astype(np.float32)
    period, duty, phase = rng.uniform(0.075, 0.16), rng.uniform(0.32, 0.58), rng.uniform()

    def band(along: np.ndarray, share: float = duty) -> np.ndarray:
        return ((along / period + phase) % 1 < share).astype(np.float32)

    match texture.kind:
        case "plain":
            return np.zeros((size, size), np.float32)
        case "stripes":
            return band(y)
        case "bars":
            return band(x)
        case "diagonals":
            return band((x + y * rng.choice([-1.0, 1.0])) / np.sqrt(2))
        case "checks":
            return (band(x, 0.5) + band(y, 0.5)) / 2
        case "panes":
            return np.maximum(band(x, 0.16), band(y, 0.16))
        case "dots":
            row = np.floor(y / period)
            dx, dy = (x / period + row % 2 / 2) % 1 - 0.5, (y / period) % 1 - 0.5
            return (dx**2 + dy**2 < (0.24 + 0.3 * (duty - 0.32)) ** 2).astype(np.float32)
        case "zigzag":
            return band(y + np.abs((x / period / 1.6) % 1 - 0.5) * period * 1.6)
        case "camouflage":
            return (smooth_noise(rng, size, cells=int(rng.integers(6, 10))) > 0.52).astype(np.float32)
        case "knit":
            rib = np.abs((x / (period / 2.2)) % 1 - 0.5)
            return (((y / (period / 3.0) + 2 * rib) % 1) * 0.5 * (0.4 + rib)).astype(np.float32)
        case "gradient":
            along = y if rng.uniform() < 0.7 else x
            return np.clip((along - rng.uniform(0.15, 0.3)) / rng.uniform(0.45, 0.6), 0, 1)
        case "halves":
            return (y + (x - 0.5) * rng.uniform(-1, 1) > rng.uniform(0.42, 0.58)).astype(np.float32)
        case "scatter":
            return _scatter(rng, size)
    raise ValueError(f"unknown texture {texture.kind!r}: expected one of {KINDS}")


def smooth_noise(rng: np.random.Generator, size: int, cells: int, tall: float = 1.0) -> np.ndarray:
    """Soft clouds: (size, size) float32 stretched to 0..1. cells: bumps across; tall: how much taller than wide a bump is."""
    grid = rng.uniform(size=(max(2, round(cells / tall)), cells)).astype(np.float32)
    noise = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.min()) / max(float(np.ptp(noise)), 1e-6)


def _scatter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Small crosses, triangles or diamonds, each turned its own way."""
    corners = int(rng.choice([3, 4, 10]))
    step = rng.uniform(0.13, 0.19)
    mask = np.zeros((size, size), np.uint8)
    for row, cy in enumerate(np.arange(0, 1.1, step)):
        for cx in np.arange(row % 2 * step / 2, 1.1, step):
            angles = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 2 * np.pi)
            radii = step * (0.33 if corners < 10 else np.where(np.arange(corners) % 2, 0.16, 0.4))
            points = np.stack([cx + radii * np.cos(angles), cy + radii * np.sin(angles)], axis=1) * size
            cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    return mask.astype(np.float32) / 255
