"""The photos of an item, as scenes of one frame."""

import cv2
import numpy as np

from sample.backgrounds import draw_background, draw_studio
from sample.difficulty import Difficulty
from sample.light import light_curves, light_map
from sample.motion import place
from sample.products import BACK, FRONT, Product, Sprite, draw_product
from sample.scene import Layer, Scene
from sample.shapes import build_shape

SPRITE_SIZE = 400
OTHER_VIEWS = ("back", "angle", "worn", "close-up")


def photo_scenes(rng: np.random.Generator, product: Product, instance_id: int, front: Sprite, back: Sprite, difficulty: Difficulty) -> list[Scene]:
    """Two to four photos of a product: first its front on paper, then some of OTHER_VIEWS. front, back: its sprites of SPRITE_SIZE."""
    views = ["front", *rng.permutation(OTHER_VIEWS)[: int(rng.integers(1, 4))].tolist()]
    return [_photo(rng, view, product, instance_id, front, back, difficulty) for view in views]


def _photo(rng: np.random.Generator, view: str, product: Product, instance_id: int, front: Sprite, back: Sprite, difficulty: Difficulty) -> Scene:
    width, height = int(rng.integers(400, 481)), int(rng.integers(400, 561))
    side, sprite, worn = (BACK, back, False) if view == "back" else (FRONT, front, False)
    if view == "worn" and build_shape(product.category, product.shape_seed, False).body is not None:
        sprite, worn = draw_product(product, FRONT, SPRITE_SIZE, rng), True
    share, tilt, lean = {
        "front": (0.86, 3, 0.0),
        "back": (0.84, 5, 0.02),
        "angle": (0.8, 24, 0.28),
        "worn": (0.5 if worn else 0.66, 5, 0.05),
        "close-up": (1.35, 10, 0.06),
    }[view]
    _, _, w, h = sprite.own_box
    scale = share * rng.uniform(0.88, 1.0) * min(width / w, height / h)
    centre = np.array([[width / 2, height / 2]]) + rng.uniform(-1, 1, (1, 2)) * (0.02 if view == "front" else 0.05) * (width, height)
    homography = place(
        sprite,
        centre,
        np.array([scale]),
        np.radians(rng.uniform(-tilt, tilt, 1)),
        rng.uniform(0.8 if view == "angle" else 0.97, 1.0, 1),
        rng.uniform(-lean, lean, (1, 2)),
    )
    layers = [Layer((sprite, sprite), np.array([side]), homography, np.array([True]), product.category, instance_id, int(worn))]
    if not worn:
        shadow = _shadow(sprite)
        aside = np.array([(1, 0, rng.uniform(-8, 8)), (0, 1, rng.uniform(4, 12)), (0, 0, 1)])
        layers.insert(0, Layer((shadow, shadow), np.array([side]), (aside @ homography[0])[None], np.array([True])))
    on_paper = view in ("front", "close-up") or (view == "back" and rng.uniform() < 0.6)
    background = draw_studio(rng, width, height) if on_paper else draw_background(rng, width, height)
    strength = difficulty.photo_light * (0.4 if view == "front" else 1.0)
    return Scene(width, height, background, np.float64([[(1, 0, 0), (0, 1, 0)]]), tuple(layers), light_curves(rng, np.zeros(1), difficulty, strength),
                 light_map(rng, width, height, difficulty, strength), np.ones((1, 2), int))  # fmt: skip


def _shadow(sprite: Sprite) -> Sprite:
    alpha = cv2.blur(cv2.blur(sprite.rgba[..., 3], (13, 13)), (13, 13)) // 3
    return Sprite(np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha]), alpha)
