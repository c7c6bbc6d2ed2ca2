"""Draws a product: its front and its back, cut out, lit, on a body or alone."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from sample.colours import SKINS, Scheme, rgb
from sample.prints import Print, draw_print
from sample.shapes import Panel, Shape, build_shape
from sample.textures import Texture, second_colour, smooth_noise

FRONT, BACK = 0, 1


@dataclass(frozen=True)
class Product:
    """category: a key of shapes.CATEGORIES, also its label; shape_seed: its form; back_print: whether the back is printed too."""

    category: str
    shape_seed: int
    scheme: Scheme
    texture: Texture
    print: Print | None
    back_print: bool

    def describe(self) -> str:
        text = f"{self.scheme.base} {self.category}, {self.texture.kind} with {self.scheme.second}, {self.scheme.trim} trim"
        return text + (f", {self.scheme.accent} {self.print.kind} print" if self.print else "")


@dataclass(frozen=True)
class Sprite:
    """rgba: (H, W, 4) uint8, colours already multiplied by alpha; own: (H, W) uint8, alpha of the product without the body."""

    rgba: np.ndarray
    own: np.ndarray

    @cached_property
    def own_box(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the product in the sprite."""
        return cv2.boundingRect((self.own >= 128).astype(np.uint8))

    def resized(self, scale: float) -> "Sprite":
        """A smaller copy; never smaller than 2 pixels."""
        size = max(2, round(self.rgba.shape[1] * scale)), max(2, round(self.rgba.shape[0] * scale))
        return Sprite(*(cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (self.rgba, self.own)))


def draw_product(product: Product, view: int, size: int, body_rng: np.random.Generator | None = None) -> Sprite:
    """The cut-out of a product.

    view: FRONT or BACK. size: pixels of the unit square that holds the product. body_rng: draws the person who wears it, where the
    shape knows how it is worn. Drawn at twice the size and reduced.
    """
    shape = build_shape(product.category, product.shape_seed, view == BACK)
    worn = body_rng is not None and shape.body is not None
    colour, alpha, shade = _paint(product, shape, view, size, worn)
    lit = np.clip(colour * shade[..., None], 0, 255)
    own = np.concatenate([lit * (alpha[..., None] / 255), alpha[..., None]], axis=2)
    if not worn:
        return _cropped(own.round().astype(np.uint8), alpha.round().astype(np.uint8))
    left, top = round(0.25 * size), round(0.42 * size)
    canvas = _draw_body(shape, body_rng, size, left, top)
    window = canvas[top : top + size, left : left + size]
    window[:] = own + window * (1 - alpha[..., None] / 255)
    whole = np.zeros(canvas.shape[:2], np.float32)
    whole[top : top + size, left : left + size] = alpha
    return _cropped(canvas.round().astype(np.uint8), whole.round().astype(np.uint8))


def _paint(product: Product, shape: Shape, view: int, size: int, worn: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (size, size, 3) 0..255, alpha (size, size) 0..255, light (size, size) around 1; all float32."""
    big, small = 2 * size, size // 2
    paints = _paints(product, big)
    colour, alpha = np.zeros((big, big, 3), np.uint8), np.zeros((big, big), np.uint8)
    light, cover = np.ones((small, small), np.float32), np.zeros((small, small), np.float32)
    inks = np.stack([rgb(product.scheme.base), rgb(product.scheme.accent), rgb(product.scheme.trim)])
    for number, panel in enumerate(shape.panels):
        if panel.paint == "inside" and worn:
            continue
        mask = _mask(panel, big)
        cv2.copyTo(paints[panel.paint], mask, colour)
        alpha |= mask
        if number == shape.printed:
            if product.print and (view == FRONT or product.back_print):
                draw_print(colour, mask, product.print, ((shape.print_at[0] + 0.5) * big, shape.print_at[1] * big), shape.print_radius * big, inks)
        light, cover = _lay(light, cover, mask, panel, small)
    stitches = np.full((big, big), 255, np.uint8)
    for seam in shape.seams:
        cv2.polylines(stitches, [_pixels(seam, big)], False, 150, max(2, big // 220), cv2.LINE_8, 4)
    for x, y in shape.buttons:
        centre = round((x + 0.5) * big), round(y * big)
        cv2.circle(colour, centre, round(shape.button_radius * big), rgb(product.scheme.accent).tolist(), -1)
        cv2.circle(stitches, centre, round(shape.button_radius * big), 140, max(1, big // 300))
    colour = cv2.multiply(colour, cv2.cvtColor(stitches, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    reduced = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) for image in (colour, alpha)]
    relief = _relief(shape, cover, np.random.default_rng(product.shape_seed + view))
    shade = cv2.resize(light * relief, (size, size), interpolation=cv2.INTER_LINEAR)
    inside = np.maximum(reduced[1], 1)[..., None] / 255  # reduced colours are mixed with the empty outside: undo
    return np.minimum(reduced[0] / inside, 255), reduced[1], shade


def _paints(product: Product, size: int) -> dict[str, np.ndarray]:
    scheme = product.scheme
    plain = {name: np.broadcast_to(value, (size, size, 3)).copy() for name, value in {
        "base": rgb(scheme.base), "inside": rgb(scheme.base), "second": rgb(scheme.second), "accent": rgb(scheme.accent), "trim": rgb(scheme.trim),
        "dark": np.array((46, 42, 44), np.uint8), "metal": np.array((206, 204, 196), np.uint8)}.items()}  # fmt: skip
    if product.texture.kind == "plain":
        return plain | {"fabric": plain["base"]}
    share = cv2.merge([second_colour(product.texture, size)] * 3)
    fabric = cv2.blendLinear(plain["second"], plain["base"], share[..., 0].copy(), 1 - share[..., 0])
    return plain | {"fabric": fabric}


def _lay(light: np.ndarray, cover: np.ndarray, mask: np.ndarray, panel: Panel, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays a panel on the light map: rounded towards its edges, with a soft shadow on what lies under it."""
    here = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    soft = cv2.blur(cv2.blur(here, (9, 9)), (9, 9))
    rounded = panel.tone * (0.74 + 0.26 * np.clip(2 * soft - 0.7, 0, 1))
    return light * (1 - 0.3 * soft) * (1 - here) + rounded * here, np.maximum(cover, here)


def _relief(shape: Shape, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Folds, roundness and the light's fall, around 1."""
    size = cover.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    fall = 1.06 - 0.16 * y - 0.06 * x
    if shape.surface == "round":
        columns = np.flatnonzero(cover[size * 6 // 10] > 0.5)
        middle, radius = (columns.mean() / size, max(np.ptp(columns) / size / 2, 0.05)) if len(columns) else (0.5, 0.25)
        across = np.clip((x - middle) / radius, -1, 1)
        return fall * (0.62 + 0.46 * np.sqrt(1 - 0.96 * across**2)) + 0.30 * np.exp(-(((across + 0.42) / 0.11) ** 2))
    if shape.surface == "stiff":
        return fall * (0.97 + 0.08 * smooth_noise(rng, size, 3))
    folds = smooth_noise(rng, size, 9, tall=2.6)
    tilt = cv2.Sobel(cv2.GaussianBlur(folds, (0, 0), size / 90), cv2.CV_32F, 1, 0, ksize=3)
    return fall * (1 + 0.13 * tilt / max(float(np.abs(tilt).max()), 1e-6) + 0.10 * (smooth_noise(rng, size, 5, tall=1.5) - 0.5))


def _mask(panel: Panel, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    if panel.width:
        cv2.polylines(mask, [_pixels(panel.outline, size)], False, 255, max(1, round(panel.width * size)), cv2.LINE_8, 4)
    else:
        cv2.fillPoly(mask, [_pixels(panel.outline, size)], 255, cv2.LINE_8, 4)
    return mask


def _pixels(outline: np.ndarray, size: int) -> np.ndarray:
    """Unit coordinates to OpenCV's fixed point with 4 fractional bits."""
    return ((outline + (0.5, 0)) * size * 16).round().astype(np.int32)


def _cropped(rgba: np.ndarray, own: np.ndarray) -> Sprite:
    x, y, width, height = cv2.boundingRect(rgba[..., 3])
    margin = 2  # so that interpolation finds transparent pixels at the edge
    sides = ((margin, margin), (margin, margin))
    cut = np.s_[y : y + height, x : x + width]
    return Sprite(np.pad(rgba[cut], (*sides, (0, 0))), np.pad(own[cut], sides))


def _draw_body(shape: Shape, rng: np.random.Generator, size: int, left: int, top: int) -> np.ndarray:
    """A plain person behind the product: (H, W, 4) float32, premultiplied. left, top: where the product's square begins."""
    skin = np.array(SKINS[rng.integers(len(SKINS))], np.float32)
    hair = np.array([(44, 34, 30), (92, 62, 40), (176, 136, 84), (120, 52, 36)][rng.integers(4)], np.float32)
    cloth = np.array([(70, 76, 92), (110, 108, 104), (52, 52, 56), (196, 190, 180)][rng.integers(4)], np.float32)
    hair_long, body = rng.uniform() < 0.5, shape.body
    height, width = round(2.0 * size), round(1.5 * size)
    picture, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return round((x + 0.5) * size * 8 + left * 8), round(y * size * 8 + top * 8)

    def paint(colour: np.ndarray, tone: float, draw) -> None:
        mask = np.zeros((height, width), np.uint8)
        draw(mask)
        weight = mask[..., None].astype(np.float32) / 255
        edge = 0.8 + 0.2 * np.clip(2 * cv2.blur(mask, (size // 16,) * 2).astype(np.float32) / 255 - 0.9, 0, 1)
        picture[:] = picture * (1 - weight) + colour * tone * edge[..., None] * weight
        np.maximum(alpha, mask, out=alpha)

    def limb(colour: np.ndarray, points: list[tuple[float, float]], thick: float, tone: float = 1.0) -> None:
        line = np.array([at(*point) for point in points], np.int32)
        paint(colour, tone, lambda mask: cv2.polylines(mask, [line], False, 255, max(1, round(thick * size)), cv2.LINE_AA, 3))

    def oval(colour: np.ndarray, x: float, y: float, rx: float, ry: float, tone: float = 1.0, arc: tuple[int, int] = (0, 360)) -> None:
        axes = round(rx * size * 8), round(ry * size * 8)
        paint(colour, tone, lambda mask: cv2.ellipse(mask, at(x, y), axes, 0, *arc, 255, -1, cv2.LINE_AA, 3))

    def head(y: float, r: float) -> None:
        if hair_long:
            oval(hair, 0, y + r * 0.55, r * 1.15, r * 1.75, 0.85)
        limb(skin, [(0, y + r * 0.7), (0, y + r * 2.2)], r * 0.85, 0.88)
        oval(skin, 0, y, r * 0.86, r * 1.12)
        oval(hair, 0, y - r * 0.22, r * 0.98, r * 1.02, 1.0, (180, 360))

    if body.head_only_y is not None:
        y = body.head_only_y
        limb(cloth, [(0, y + 0.72), (0, y + 1.0)], 0.75)
        head(y + 0.16, 0.27)
        return np.dstack([picture * (alpha[..., None] / np.float32(255)), alpha.astype(np.float32)])
    hips = body.hips_y
    thigh = body.hip_width * 0.95
    for sign in (1, -1):
        x = sign * body.hip_width * 0.55
        limb(skin if body.legs_bare else cloth, [(x, hips + 0.02), (x * 1.05, hips + 0.5), (x, hips + 0.98)], thigh, 0.94)
        limb(cloth * 0.6, [(x, hips + 0.98), (x * 1.35, hips + 1.02)], thigh * 0.95)
    if body.neck_y is not None:
        neck, (start, end) = body.neck_y, body.arm
        direction = np.subtract(end, start) / max(np.linalg.norm(np.subtract(end, start)), 1e-6)
        reach = max(0.47, float(np.linalg.norm(np.subtract(end, start))) + 0.06)
        for sign in (1, -1):
            hand = np.array(start) + direction * reach
            limb(skin, [(sign * start[0] * 0.92, start[1] + 0.02), (sign * hand[0], hand[1])], 0.062, 0.96)
            oval(skin, sign * hand[0], hand[1] + 0.01, 0.036, 0.045)
        paint(skin, 0.95, lambda mask: cv2.fillPoly(mask, [np.array([at(-start[0] * 0.9, start[1]), at(start[0] * 0.9, start[1]), at(body.hip_width, hips), at(-body.hip_width, hips)], np.int32)], 255, cv2.LINE_AA, 3))
        limb(skin, [(-start[0] * 0.8, start[1]), (start[0] * 0.8, start[1])], 0.05, 0.95)
        head(neck - 0.17, 0.105)
        return np.dstack([picture * (alpha[..., None] / np.float32(255)), alpha.astype(np.float32)])
    shoulder = body.hip_width * 1.15
    for sign in (1, -1):
        limb(skin, [(sign * shoulder, hips - 0.42), (sign * (shoulder + 0.07), hips - 0.18), (sign * (shoulder + 0.02), hips + 0.12)], 0.06, 0.94)
    paint(cloth, 1.0, lambda mask: cv2.fillPoly(mask, [np.array([at(-shoulder, hips - 0.45), at(shoulder, hips - 0.45), at(body.hip_width * 0.95, hips + 0.08), at(-body.hip_width * 0.95, hips + 0.08)], np.int32)], 255, cv2.LINE_AA, 3))
    return np.dstack([picture * (alpha[..., None] / np.float32(255)), alpha.astype(np.float32)])
