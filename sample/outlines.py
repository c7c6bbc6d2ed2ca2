"""What shapes are made of: panels, the body that wears them, and helpers for outlines.

Units: x from -0.5 to 0.5 around the middle, y from 0 (top) to 1; what is worn hangs from the body's anchors.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Panel:
    """A filled outline (N, 2), or where width > 0 a stroke of that width along it.

    paint: fabric (base and texture), base, second, accent, trim, inside (base in shadow, not drawn when worn), dark, metal.
    clipped: drawn only on the panels under it.
    """

    outline: np.ndarray
    paint: str = "fabric"
    tone: float = 1.0
    width: float = 0.0
    clipped: bool = False


@dataclass(frozen=True)
class Body:
    """Where a body stands in the product: neck and hips (x is 0), limbs as (start, end) of the right-hand side."""

    neck_y: float | None = None
    hips_y: float = 0.75
    hip_width: float = 0.15
    arm: tuple[tuple[float, float], tuple[float, float]] | None = None
    legs_bare: bool = False
    head_only_y: float | None = None
    head_width: float = 0.0


@dataclass(frozen=True)
class Shape:
    """panels, back to front; the print lies on panel number `printed` at print_at (x, y) with print_radius, under all later panels."""

    panels: list[Panel]
    printed: int
    print_at: tuple[float, float]
    print_radius: float
    seams: list[np.ndarray] = field(default_factory=list)
    buttons: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    button_radius: float = 0.012
    surface: str = "cloth"  # cloth, round (an upright cylinder) or stiff
    body: Body | None = None


def mirror(right_side: list[tuple[float, float]]) -> np.ndarray:
    """The left-hand side of a right-hand one: x turned round, order reversed; (N, 2)."""
    return np.array(right_side)[::-1] * (-1, 1)


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """A closed outline (40, 2)."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def round_corners(outline: np.ndarray, times: int = 2) -> np.ndarray:
    """Chaikin's corner cutting of a closed outline; a short cut, so that the form stays."""
    for _ in range(times):
        after, before = np.roll(outline, -1, axis=0), np.roll(outline, 1, axis=0)
        outline = np.stack([outline * 0.82 + before * 0.18, outline * 0.82 + after * 0.18], axis=1).reshape(-1, 2)
    return outline


def x_at(side: np.ndarray, y: float) -> float:
    """Where a side (N, 2), y rising, stands at height y."""
    return float(np.interp(y, side[:, 1], side[:, 0]))
