"""The video of an item, as a scene: a product that somebody shows live."""

import numpy as np

from sample.backgrounds import draw_background
from sample.difficulty import Difficulty
from sample.light import light_curves, light_map, wander
from sample.motion import bump, place
from sample.overlays import draw_banners, draw_hand
from sample.photos import SPRITE_SIZE
from sample.products import BACK, FRONT, Product, Sprite, draw_product
from sample.scene import Layer, Scene
from sample.shapes import build_shape

WIDTH, HEIGHT, FPS = 288, 512, 25
LABELLED_EVERY = 20


def video_scene(
    rng: np.random.Generator, product: Product | None, extras: tuple[Product, ...], instance_id: int, n_frames: int, difficulty: Difficulty
) -> Scene:
    """A clip of n_frames that shows `product` (None: nothing but `extras`, the other products)."""
    seconds = np.arange(n_frames) / FPS
    camera, follow = _camera(rng, seconds)
    low, high = difficulty.distractors
    count = int(rng.integers(max(low, 0 if product else 1), high + 1))
    corners = rng.permutation([(0.16, 0.82), (0.84, 0.8), (0.15, 0.3), (0.86, 0.32), (0.5, 0.9)])
    layers = [_distractor(rng, extra, corner * (WIDTH, HEIGHT), follow, difficulty) for extra, corner in zip(extras[:count], corners, strict=False)]
    if product is not None:
        absent = np.zeros(n_frames)
        if rng.uniform() < difficulty.absent:
            length = rng.uniform(*difficulty.absent_length)
            absent = bump(n_frames, rng.uniform(-0.1, 1.1 - length), length)
            if rng.uniform() < difficulty.replaced:
                layers.append(_shown(rng, extras[-1], 0, seconds, 1 - absent, difficulty))
        layers.append(_shown(rng, product, instance_id, seconds, absent, difficulty))
        if rng.uniform() < difficulty.hand:
            layers.append(_hand(rng, n_frames, difficulty))
    banners = draw_banners(rng, WIDTH, HEIGHT) if rng.uniform() < difficulty.banner else []
    background = draw_background(rng, round(WIDTH * 1.5), round(HEIGHT * 1.3))
    return Scene(WIDTH, HEIGHT, background, camera, tuple(layers), light_curves(rng, seconds, difficulty), light_map(rng, WIDTH, HEIGHT, difficulty),
                 _blurs(rng, n_frames, difficulty), tuple(banners), difficulty.smallest_visible)  # fmt: skip


def _shown(rng: np.random.Generator, product: Product, instance_id: int, seconds: np.ndarray, absent: np.ndarray, difficulty: Difficulty) -> Layer:
    """The product in the seller's hands: it sways, turns, comes nearer, and leaves where absent (n,) goes to 1."""
    n = len(seconds)
    worn = build_shape(product.category, product.shape_seed, False).body is not None and rng.uniform() < difficulty.worn
    turned = np.zeros(n)
    if rng.uniform() < difficulty.turned_round:
        length = rng.uniform(*difficulty.turned_length)
        turned = bump(n, rng.uniform(0, 1 - length), length, 0.3)
    yaw = np.pi * turned + np.radians(difficulty.yaw_deg) * wander(rng, seconds)
    sides = np.where(np.cos(yaw) < 0, BACK, FRONT)
    person = int(rng.integers(1 << 31))
    sprites = [draw_product(product, side, SPRITE_SIZE, np.random.default_rng(person) if worn else None) for side in range(int(sides.max()) + 1)]
    _, _, w, h = sprites[0].own_box
    size = min(rng.uniform(*difficulty.height) * HEIGHT / h, difficulty.largest_width * WIDTH / w)
    scale = size * (1 + difficulty.zoom * wander(rng, seconds))
    centre = np.stack([WIDTH * (0.5 + 0.08 * wander(rng, seconds)), HEIGHT * (rng.uniform(0.46, 0.58) + 0.06 * wander(rng, seconds))], axis=1)
    centre[:, 0] += rng.choice([-1, 1]) * absent * 1.5 * WIDTH
    tilt = np.radians(difficulty.tilt_deg * (0.4 if worn else 1.0)) * wander(rng, seconds)
    lean = difficulty.perspective * np.stack([wander(rng, seconds), wander(rng, seconds)], axis=1)
    squeeze = np.maximum(np.abs(np.cos(yaw)), 0.12)
    sprites, scale = _reduced(sprites, scale)
    homographies = np.stack([place(sprite, centre, scale, tilt, squeeze, lean) for sprite in sprites])[sides, np.arange(n)]
    return Layer(tuple(sprites), sides, homographies, absent < 0.999, product.category, instance_id, int(worn))


def _distractor(rng: np.random.Generator, product: Product, centre: np.ndarray, follow: np.ndarray, difficulty: Difficulty) -> Layer:
    """A product that stands in the room and moves with the camera only. follow: (n, 2, 3) maps of the still room to the frame."""
    sprite = draw_product(product, FRONT, SPRITE_SIZE // 2)
    _, _, w, h = sprite.own_box
    scale = min(rng.uniform(*difficulty.distractor_height) * HEIGHT / h, 0.45 * WIDTH / w)
    sprites, scales = _reduced([sprite], np.array([scale]))
    still = place(sprites[0], (centre + rng.uniform(-15, 15, 2))[None], scales, rng.uniform(-0.2, 0.2, 1), np.ones(1), np.zeros((1, 2)))[0]
    n = len(follow)
    full = np.concatenate([follow, np.broadcast_to([[[0, 0, 1]]], (n, 1, 3))], axis=1)
    return Layer(tuple(sprites), np.zeros(n, int), full @ still, np.ones(n, bool), product.category)


def _hand(rng: np.random.Generator, n_frames: int, difficulty: Difficulty) -> Layer:
    """A hand that reaches into the picture and leaves again."""
    sprite = draw_hand(rng, round(HEIGHT * rng.uniform(0.4, 0.6)))
    length = rng.uniform(*difficulty.hand_length)
    reach = bump(n_frames, rng.uniform(0.05, 0.95 - length), length, 0.45)[:, None]
    side = rng.choice([-1, 1])
    outside = np.array([WIDTH * (0.5 + side * rng.uniform(0.4, 0.9)), HEIGHT * 1.4])
    target = np.array([WIDTH * (0.5 + side * rng.uniform(0.0, 0.3)), HEIGHT * rng.uniform(0.66, 0.85)])
    centre = outside + (target - outside) * reach
    tilt = -side * rng.uniform(0.2, 0.7) * np.ones(n_frames)
    return Layer(
        (sprite,), np.zeros(n_frames, int), place(sprite, centre, np.ones(n_frames), tilt, np.ones(n_frames), np.zeros((n_frames, 2))), reach[:, 0] > 0
    )


def _camera(rng: np.random.Generator, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affine maps (n, 2, 3) of the background, and of what stands in the room, to the frame: drift, zoom and a slight roll."""
    n = len(seconds)
    zoom, roll = 1.04 + 0.05 * wander(rng, seconds), np.radians(1.5) * wander(rng, seconds)
    drift = np.stack([0.08 * WIDTH * wander(rng, seconds), 0.05 * HEIGHT * wander(rng, seconds)], axis=1)
    turn = zoom[:, None, None] * np.stack([np.stack([np.cos(roll), -np.sin(roll)], 1), np.stack([np.sin(roll), np.cos(roll)], 1)], 1)  # (n, 2, 2)
    middle = np.array([WIDTH, HEIGHT]) / 2

    def onto(source: np.ndarray) -> np.ndarray:
        return np.concatenate([turn, (middle + drift - turn @ source)[..., None]], axis=2).reshape(n, 2, 3)

    return onto(middle * (1.5, 1.3)), onto(middle)


def _blurs(rng: np.random.Generator, n_frames: int, difficulty: Difficulty) -> np.ndarray:
    """Box filters (n, 2) of some spans: motion (one direction) or defocus (both)."""
    blurs = np.ones((n_frames, 2), int)
    spans = int(rng.integers(2, 5))
    length = max(1, round(rng.uniform(*difficulty.blurred) * n_frames / spans))
    for start in rng.integers(0, max(1, n_frames - length + 1), spans):
        width = 1 + 2 * round(rng.uniform(0.5, 1) * difficulty.blur_px)
        blurs[start : start + length] = [(width, 1), (1, width), (max(1, width - 2),) * 2][rng.integers(3)]
    return blurs


def _reduced(sprites: list[Sprite], scale: np.ndarray) -> tuple[list[Sprite], np.ndarray]:
    """Sprites no larger than the largest scale needs: sharp when reduced, and quick to warp."""
    largest = min(1.0, float(scale.max()))
    return [sprite.resized(largest) for sprite in sprites] if largest < 1 else sprites, scale / largest
