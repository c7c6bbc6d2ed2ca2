"""A plain person behind what is worn."""

import cv2
import numpy as np

from sample.colours import SKINS
from sample.outlines import Body

LEFT, ABOVE, WIDTH, HEIGHT = 0.25, 0.75, 1.5, 2.35  # of the canvas, in units of the product's square


def place_of_product(size: int) -> tuple[int, int]:
    """x and y of the product's square, `size` pixels wide, in the canvas of the body."""
    return round(LEFT * size), round(ABOVE * size)


def draw_body(body: Body, rng: np.random.Generator, size: int, back: bool) -> np.ndarray:
    """The person who wears a product: (HEIGHT size, WIDTH size, 4) float32, 0..255, colours multiplied by alpha."""
    figure = _Figure(size)
    skin = np.array(SKINS[rng.integers(len(SKINS))], np.float32)
    hair = np.array([(44, 34, 30), (92, 62, 40), (176, 136, 84), (120, 52, 36)][rng.integers(4)], np.float32)
    cloth = np.array([(70, 76, 92), (110, 108, 104), (52, 52, 56), (196, 190, 180)][rng.integers(4)], np.float32)
    shirt = np.array([(236, 234, 228), (150, 154, 160), (62, 64, 70), (204, 190, 170)][rng.integers(4)], np.float32)
    long_hair = bool(rng.uniform() < 0.5)
    if body.head_only_y is not None:
        radius = body.head_width * 0.92
        _head(figure, 0, body.head_only_y + radius * 0.25, radius, skin, hair, long_hair, back, shirt)
        return figure.finished()
    hips, hip = body.hips_y, body.hip_width
    for sign in (1, -1):
        x = sign * hip * 0.55
        figure.limb(skin if body.legs_bare else cloth, [(x, hips + 0.02), (x * 1.05, hips + 0.5), (x, hips + 1.0)], hip * 0.95, 0.94)
        figure.limb(cloth * 0.6, [(x, hips + 1.0), (x * 1.3, hips + 1.03)], hip * 0.9)
    if body.neck_y is not None:
        start, end = np.array(body.arm)
        reach = np.linalg.norm(end - start)
        hand = start + (end - start) / max(reach, 1e-6) * max(0.47, reach + 0.06)
        for side in ((1, 1), (-1, 1)):
            figure.limb(skin, [start * side * (0.92, 1), hand * side], 0.062, 0.96)
            figure.oval(skin, (hand + (0, 0.01)) * side, (0.036, 0.045))
        figure.polygon(skin, [start * (-0.9, 1), start * (0.9, 1), (hip * 0.5, hips), (-hip * 0.5, hips)], 0.95)
        figure.limb(skin, [start * (-0.8, 1), start * (0.8, 1)], 0.05, 0.95)
        _head(figure, 0, body.neck_y - 0.17, 0.115, skin, hair, long_hair, back, None)
        return figure.finished()
    shoulder = hip * 1.15 + 0.02
    for sign in (1, -1):
        figure.limb(shirt, [(sign * shoulder * 0.9, hips - 0.44), (sign * (shoulder + 0.05), hips - 0.24)], 0.075, 0.9)
        figure.limb(skin, [(sign * (shoulder + 0.05), hips - 0.24), (sign * (shoulder + 0.03), hips + 0.08)], 0.055, 0.94)
    _head(figure, 0, hips - 0.63, 0.115, skin, hair, long_hair, back, None)
    figure.limb(shirt, [(-shoulder * 0.8, hips - 0.44), (shoulder * 0.8, hips - 0.44)], 0.06)
    figure.polygon(shirt, [(-shoulder, hips - 0.45), (shoulder, hips - 0.45), (hip * 0.95, hips + 0.08), (-hip * 0.95, hips + 0.08)])
    return figure.finished()


class _Figure:
    """A canvas, in product units, on which each stroke is shaded towards its edges. Half as fine as the product: nothing on it is small."""

    def __init__(self, size: int) -> None:
        self.shape = round(HEIGHT * size), round(WIDTH * size)
        self.unit = size / 2
        height, width = self.shape[0] // 2, self.shape[1] // 2
        self.colour, self.alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)

    def limb(self, colour: np.ndarray, points: list, thick: float, tone: float = 1.0) -> None:
        mask = np.zeros_like(self.alpha)
        cv2.polylines(mask, [self._at(points)], False, 255, max(1, round(thick * self.unit)), cv2.LINE_AA, 4)
        self._lay(mask, colour * tone)

    def polygon(self, colour: np.ndarray, points: list, tone: float = 1.0) -> None:
        mask = np.zeros_like(self.alpha)
        cv2.fillPoly(mask, [self._at(points)], 255, cv2.LINE_AA, 4)
        self._lay(mask, colour * tone)

    def oval(self, colour: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], tone: float = 1.0, arc: tuple[int, int] = (0, 360)) -> None:
        angles = np.radians(np.linspace(*arc, 60))
        self.polygon(colour, np.asarray(centre) + np.asarray(radii) * np.stack([np.cos(angles), np.sin(angles)], axis=1), tone)

    def finished(self) -> np.ndarray:
        rgba = np.dstack([self.colour * (self.alpha[..., None] / np.float32(255)), self.alpha.astype(np.float32)])
        return cv2.resize(rgba, self.shape[::-1], interpolation=cv2.INTER_LINEAR)

    def _at(self, points: list) -> np.ndarray:
        return ((np.asarray(points) + (0.5 + LEFT, ABOVE)) * self.unit * 16).round().astype(np.int32)

    def _lay(self, mask: np.ndarray, colour: np.ndarray) -> None:
        x, y, w, h = cv2.boundingRect(mask)
        if not w:
            return
        cut = np.s_[y : y + h, x : x + w]
        weight = mask[cut][..., None].astype(np.float32) / 255
        width = max(3, round(self.unit / 16))
        round_ = 0.8 + 0.2 * np.clip(2 * cv2.blur(mask, (width, width))[cut].astype(np.float32) / 255 - 0.9, 0, 1)
        self.colour[cut] = self.colour[cut] * (1 - weight) + np.minimum(colour, 255) * round_[..., None] * weight
        np.maximum(self.alpha[cut], mask[cut], out=self.alpha[cut])


def _head(figure: _Figure, x: float, y: float, r: float, skin: np.ndarray, hair: np.ndarray, long_hair: bool, back: bool, shirt: np.ndarray | None) -> None:
    """A head of radius r; with a shirt: also the shoulders under it."""
    if long_hair:
        figure.oval(hair, (x, y + r * 0.55), (r * 1.12, r * 1.6), 0.85)
    if shirt is not None:
        figure.oval(shirt, (x, y + r * 3.2), (r * 2.1, r * 1.5))
    figure.limb(skin, [(x, y + r * 0.7), (x, y + r * 1.75)], r * 0.8, 0.86)
    figure.oval(skin, (x, y), (r * 0.86, r * 1.1))
    if back:
        figure.oval(hair, (x, y - r * 0.05), (r * 0.96, r * (1.5 if long_hair else 1.1)))
        return
    figure.oval(hair, (x, y - r * 0.2), (r * 0.95, r * 1.0), 1.0, (185, 355))
    dark = np.array((52, 40, 38), np.float32)
    for sign in (1, -1):
        figure.oval(dark, (x + sign * r * 0.33, y + r * 0.1), (r * 0.08, r * 0.1))
    figure.oval(np.array((176, 84, 84), np.float32), (x, y + r * 0.55), (r * 0.3, r * 0.16), 1.0, (0, 180))
