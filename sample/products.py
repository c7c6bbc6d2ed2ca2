"""Draws a product: its front and its back, cut out, lit, on a body or alone."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from sample.body import draw_body, place_of_product
from sample.colours import Scheme, rgb
from sample.outlines import Panel, Shape
from sample.prints import Print, draw_print
from sample.shapes import build_shape
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
    left, top = place_of_product(size)
    canvas = draw_body(shape.body, body_rng, size, view == BACK)
    window = canvas[top : top + size, left : left + size]
    window[:] = own + window * (1 - alpha[..., None] / 255)
    whole = np.zeros(canvas.shape[:2], np.float32)
    whole[top : top + size, left : left + size] = alpha
    return _cropped(canvas.round().astype(np.uint8), whole.round().astype(np.uint8))


def _paint(product: Product, shape: Shape, view: int, size: int, worn: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (size, size, 3) 0..255, alpha (size, size) 0..255, light (size, size) around 1; all float32."""
    big, small = 2 * size, size // 2
    fabric, plain = _fabric(product, big), _plain_paints(product.scheme)
    colour, alpha = np.zeros((big, big, 3), np.uint8), np.zeros((big, big), np.uint8)
    light, cover = np.ones((small, small), np.float32), np.zeros((small, small), np.float32)
    for number, panel in enumerate(shape.panels):
        if panel.paint == "inside" and worn:
            continue
        if panel.paint == "fabric" or panel.clipped or number == shape.printed:
            mask = np.zeros((big, big), np.uint8)
            _fill(mask, panel, 255)
            mask = mask & alpha if panel.clipped else mask
            alpha |= mask
            paint = fabric if panel.paint == "fabric" else np.broadcast_to(np.uint8(plain[panel.paint]), colour.shape).copy()
            cv2.copyTo(paint, mask, colour)
            if number == shape.printed and product.print and (view == FRONT or product.back_print):
                at = (shape.print_at[0] + 0.5) * big, shape.print_at[1] * big
                inks = np.uint8([plain["base"], plain["accent"], plain["trim"]])
                draw_print(colour, mask, product.print, at, shape.print_radius * big, inks)
        else:
            _fill(alpha, panel, 255)
            _fill(colour, panel, plain[panel.paint])
        light, cover = _lay(light, cover, panel, small)
    stitches = np.full((big, big), 255, np.uint8)
    for seam in shape.seams:
        cv2.polylines(stitches, [_pixels(seam, big)], False, 150, max(2, big // 220), cv2.LINE_8, 4)
    for x, y in shape.buttons:
        centre, radius = (round((x + 0.5) * big), round(y * big)), round(shape.button_radius * big)
        cv2.circle(colour, centre, radius, plain["accent"], -1)
        cv2.circle(stitches, centre, radius, 140, max(1, big // 300))
    reduced = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) for image in (colour, alpha, stitches)]
    relief = _relief(shape, cover, np.random.default_rng(product.shape_seed + view))
    shade = cv2.resize(light * relief, (size, size), interpolation=cv2.INTER_LINEAR) * (reduced[2] / 255)
    inside = np.maximum(reduced[1], 1)[..., None] / 255  # reduced colours are mixed with the empty outside: undo
    return np.minimum(reduced[0] / inside, 255), reduced[1], shade


def _plain_paints(scheme: Scheme) -> dict[str, list[int]]:
    names = {"base": scheme.base, "inside": scheme.base, "second": scheme.second, "accent": scheme.accent, "trim": scheme.trim}
    return {paint: rgb(name).tolist() for paint, name in names.items()} | {"dark": [46, 42, 44], "metal": [206, 204, 196]}


def _fabric(product: Product, size: int) -> np.ndarray:
    """The textured cloth: (size, size, 3) uint8."""
    base, second = (rgb(name).astype(np.float32) for name in (product.scheme.base, product.scheme.second))
    if product.texture.kind == "plain":
        return np.broadcast_to(base.astype(np.uint8), (size, size, 3)).copy()
    share = (second_colour(product.texture, size) * 255).astype(np.uint8)
    curves = np.linspace(base, second, 256).round().astype(np.uint8)  # (256, 3)
    return cv2.merge([cv2.LUT(share, np.ascontiguousarray(curve)) for curve in curves.T])


def _lay(light: np.ndarray, cover: np.ndarray, panel: Panel, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays a panel on the light map: rounded towards its edges, with a soft shadow on what lies under it."""
    mask = np.zeros((size, size), np.uint8)
    _fill(mask, panel, 255)
    here = mask.astype(np.float32) / 255
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


def _fill(picture: np.ndarray, panel: Panel, value: int | list[int]) -> None:
    """Draws a panel's form onto a square picture, in place."""
    points = [_pixels(panel.outline, len(picture))]
    if panel.width:
        cv2.polylines(picture, points, False, value, max(1, round(panel.width * len(picture))), cv2.LINE_8, 4)
    else:
        cv2.fillPoly(picture, points, value, cv2.LINE_8, 4)


def _pixels(outline: np.ndarray, size: int) -> np.ndarray:
    """Unit coordinates to OpenCV's fixed point with 4 fractional bits."""
    return ((outline + (0.5, 0)) * size * 16).round().astype(np.int32)


def _cropped(rgba: np.ndarray, own: np.ndarray) -> Sprite:
    x, y, width, height = cv2.boundingRect(rgba[..., 3])
    margin = 2  # so that interpolation finds transparent pixels at the edge
    sides = ((margin, margin), (margin, margin))
    cut = np.s_[y : y + height, x : x + width]
    return Sprite(np.pad(rgba[cut], (*sides, (0, 0))), np.pad(own[cut], sides))
