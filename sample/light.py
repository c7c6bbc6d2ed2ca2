"""Light: colour curves and maps that change how bright, how warm and how contrasty a scene is."""

import numpy as np

from sample.difficulty import Difficulty


def wander(rng: np.random.Generator, seconds: np.ndarray, slowest: float = 9.0, fastest: float = 3.0) -> np.ndarray:
    """A smooth random curve over time, about -1..1: three sines with periods between `fastest` and `slowest` seconds."""
    periods, phases = rng.uniform(fastest, slowest, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.sin(2 * np.pi * np.asarray(seconds)[:, None] / periods + phases).sum(axis=1) / 2


def light_curves(rng: np.random.Generator, seconds: np.ndarray, difficulty: Difficulty, strength: float = 1.0) -> np.ndarray:
    """Colour curves (n, 3, 256) uint8 for red, green, blue. strength: 0 neutral, 1 as the difficulty says."""
    sway = difficulty.light_change
    brightness = 1 + strength * (rng.uniform(*difficulty.brightness) - 1 + sway * 0.2 * wander(rng, seconds))
    contrast = 1 + strength * (rng.uniform(*difficulty.contrast) - 1)
    warmth = strength * difficulty.warmth * np.clip((1 - sway) * rng.uniform(-1, 1) * 1.4 + sway * wander(rng, seconds), -1, 1)
    tint = strength * difficulty.tint * rng.uniform(-1, 1)
    gains = brightness[:, None] * np.stack([1 + warmth, np.full_like(warmth, 1 + tint), 1 - warmth], axis=1)  # (n, 3)
    values = np.arange(256, dtype=np.float64) / 255
    curves = (values - 0.5) * contrast + 0.5
    return np.clip(gains[..., None] * curves * 255, 0, 255).round().astype(np.uint8)


def light_map(rng: np.random.Generator, width: int, height: int, difficulty: Difficulty, strength: float = 1.0) -> np.ndarray:
    """Light that differs over the picture: (height, width, 3) uint8, 128 is neutral. Darker corners, and a colour from one side."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    corners = 1.04 - 0.3 * strength * ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2)
    colour = strength * difficulty.coloured_light * rng.uniform(-1, 1, 3)
    return np.clip(128 * corners[..., None] * (1 + 2 * along[..., None] * colour), 0, 255).round().astype(np.uint8)
