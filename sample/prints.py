"""Printed motifs: flat shapes in a square from -1 to 1, y down."""

from dataclasses import dataclass

import cv2
import numpy as np

KINDS = ("star", "ring", "target", "letters", "heart", "triangle", "hexagon", "cross", "moon", "bolt", "flower", "sun", "waves",
         "mountain", "arrow", "smile", "tiles", "blob", "fish", "house", "diamonds", "bars")  # fmt: skip


@dataclass(frozen=True)
class Print:
    """kind: one of KINDS; seed: decides its proportions, letters and turn; plate: laid on a plain disc, for busy fabrics."""

    kind: str
    seed: int
    plate: bool = False


Shapes = list[tuple[np.ndarray, int]]  # outline (N, 2), ink: 0 fabric, 1 first colour, 2 second colour


def draw_print(picture: np.ndarray, where: np.ndarray, motif: Print, centre: tuple[float, float], radius: float, inks: np.ndarray) -> None:
    """Prints onto `picture` (H, W, 3) in place, where `where` (H, W) is not 0. inks: (3, 3) uint8, RGB of inks 0, 1, 2."""
    rng = np.random.default_rng(motif.seed)
    x, y = (max(0, int(c - 1.4 * radius)) for c in centre)
    window = np.s_[y : int(centre[1] + 1.4 * radius), x : int(centre[0] + 1.4 * radius)]
    printed, middle = picture[window].copy(), np.subtract(centre, (x, y))
    for outline, ink in ([(_round(1.3), 0)] if motif.plate else []) + _shapes(motif.kind, rng):
        points = ((outline * radius + middle) * 16).round().astype(np.int32)
        cv2.fillPoly(printed, [points], inks[ink].tolist(), cv2.LINE_8, 4)
    if motif.kind == "letters":
        _letters(printed, rng, middle, radius, inks[1])
    inside = where[window] > 0
    picture[window][inside] = printed[inside]


def _shapes(kind: str, rng: np.random.Generator) -> Shapes:
    turn = rng.uniform(-0.3, 0.3)
    match kind:
        case "star":
            n = int(rng.integers(4, 8))
            outer = _burst(n, 1.0, rng.uniform(0.36, 0.55), turn)
            return [(outer, 1), (outer * 0.5, 2)] if rng.uniform() < 0.5 else [(outer, 1)]
        case "ring":
            return [(_round(1.0), 1), (_round(rng.uniform(0.55, 0.72)), 0)]
        case "target":
            return [(_round(r), 1 + i % 2) for i, r in enumerate((1.0, 0.74, 0.5, 0.25))]
        case "letters":
            return []
        case "heart":
            t = np.linspace(0, 2 * np.pi, 60)
            return [(np.stack([np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16], 1), 1)]
        case "triangle":
            outer = _burst(3, 1.1, None, 0)
            return [(outer, 1), (outer * 0.55, int(rng.choice([0, 2])))]
        case "hexagon":
            outer = _burst(6, 1.0, None, turn)
            return [(outer, 1), (outer * 0.72, 0), (outer * 0.46, 2)]
        case "cross":
            w = rng.uniform(0.24, 0.38)
            return [(_box(-w, -1, w, 1), 1), (_box(-1, -w, 1, w), 1)]
        case "moon":
            return [(_round(1.0), 1), (_round(0.86) + (0.42, -0.12), 0)]
        case "bolt":
            return [(np.array([(0.25, -1.1), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1.1), (0.6, -0.25), (0.05, -0.25)]), 1)]
        case "flower":
            n = int(rng.integers(5, 9))
            t = np.linspace(0, 2 * np.pi, 120)
            r = 0.66 + 0.34 * np.cos(n * t)
            return [(np.stack([r * np.cos(t), r * np.sin(t)], 1), 1), (_round(0.26), 2)]
        case "sun":
            return [(_burst(14, 1.1, 0.7, turn), 2), (_round(0.6), 1)]
        case "waves":
            x = np.linspace(-1.1, 1.1, 60)
            crest = 0.16 * np.sin(x * rng.uniform(5, 8))
            rows = [np.concatenate([np.stack([x, crest + y], 1), np.stack([x, crest + y + 0.3], 1)[::-1]]) for y in (-0.9, -0.25, 0.4)]
            return [(row, 1 + i % 2) for i, row in enumerate(rows)]
        case "mountain":
            return [
                (_round(0.3) + (0.5, -0.7), 2),
                (np.array([(-1.1, 0.8), (-0.3, -0.7), (0.5, 0.8)]), 1),
                (np.array([(-0.1, 0.8), (0.5, -0.2), (1.1, 0.8)]), 1),
                (np.array([(-0.53, -0.25), (-0.3, -0.7), (-0.06, -0.25)]), 2),
            ]
        case "arrow":
            a = turn * 3
            points = np.array([(-1.1, -0.25), (0.1, -0.25), (0.1, -0.75), (1.1, 0), (0.1, 0.75), (0.1, 0.25), (-1.1, 0.25)])
            return [(points @ np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))]), 1)]
        case "smile":
            t = np.linspace(0.1 * np.pi, 0.9 * np.pi, 20)
            arc = np.stack([np.cos(t), np.sin(t)], 1)
            return [(_round(1.0), 1), (_round(0.14) + (-0.35, -0.3), 2), (_round(0.14) + (0.35, -0.3), 2),
                    (np.concatenate([arc * 0.72, arc[::-1] * 0.5]), 2)]  # fmt: skip
        case "tiles":
            return [(_box(x, y, x + 0.85, y + 0.85), 1 + int((x > -0.5) != (y > -0.5))) for x in (-0.95, 0.1) for y in (-0.95, 0.1)]
        case "blob":
            t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
            waves = sum(rng.uniform(-0.22, 0.22) * np.cos(k * t + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
            outer = np.stack([(0.8 + waves) * np.cos(t), (0.8 + waves) * np.sin(t)], 1)
            return [(outer, 1), (outer * 0.45 + (rng.uniform(-0.2, 0.2), 0.1), 2)]
        case "fish":
            t = np.linspace(0, 2 * np.pi, 40)
            return [
                (np.array([(0.45, 0), (1.1, -0.55), (1.1, 0.55)]), 2),
                (np.stack([0.85 * np.cos(t) - 0.25, 0.5 * np.sin(t)], 1), 1),
                (_round(0.1) + (-0.7, -0.1), 2),
            ]
        case "house":
            return [(_box(-0.75, -0.1, 0.75, 0.95), 1), (np.array([(-1.05, -0.1), (0, -1.05), (1.05, -0.1)]), 2), (_box(-0.2, 0.35, 0.2, 0.95), 2)]
        case "diamonds":
            diamond = np.array([(0, -0.95), (0.48, 0), (0, 0.95), (-0.48, 0)])
            return [(diamond - (0.52, 0), 1), (diamond + (0.52, 0), 2)]
        case "bars":
            n = int(rng.integers(3, 6))
            heights = rng.uniform(0.5, 2.0, n)
            edges = np.linspace(-1, 1, n + 1)
            return [(_box(a + 0.05, 1 - h, b - 0.05, 1), 1 + i % 2) for i, (a, b, h) in enumerate(zip(edges, edges[1:], heights, strict=False))]
    raise ValueError(f"unknown print {kind!r}: expected one of {KINDS}")


def _letters(picture: np.ndarray, rng: np.random.Generator, middle: np.ndarray, radius: float, ink: np.ndarray) -> None:
    text = "".join(rng.choice(list("ABCEFGHKLMNPRSTUVWXYZ2345789"), size=int(rng.integers(1, 4))))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)
    scale = 2.1 * radius / max(width, height * 1.2)
    origin = round(middle[0] - width * scale / 2), round(middle[1] + height * scale / 2)
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_DUPLEX, scale, ink.tolist(), max(2, round(radius * 0.16)))


def _round(radius: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return radius * np.stack([np.cos(t), np.sin(t)], axis=1)


def _box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def _burst(n: int, outer: float, inner: float | None, turn: float) -> np.ndarray:
    """A polygon of n points, or a star of n where `inner` is given; the first point is up."""
    count = n if inner is None else 2 * n
    radii = np.where(np.arange(count) % 2, outer if inner is None else inner, outer)
    t = np.arange(count) * 2 * np.pi / count - np.pi / 2 + turn
    return np.stack([radii * np.cos(t), radii * np.sin(t)], axis=1)
