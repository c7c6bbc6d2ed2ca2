"""Rooms, walls and tables behind the products."""

from collections.abc import Callable

import cv2
import numpy as np

from sample.textures import smooth_noise


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture (height, width, 4) uint8 RGBA of a place where somebody sells live."""
    draw = PLACES[rng.integers(len(PLACES))]
    picture = draw(rng, width, height).astype(np.float32)
    clouds = cv2.resize(smooth_noise(rng, 96, 4), (width, height))
    picture *= (0.88 + 0.24 * clouds)[..., None]
    soft = cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (0, 0), rng.uniform(0.6, 2.0))
    return cv2.cvtColor(soft, cv2.COLOR_RGB2RGBA)


def draw_studio(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A light paper background as of a catalogue photo: (height, width, 4) uint8 RGBA."""
    paper = np.array([(246, 246, 246), (236, 238, 242), (244, 238, 228), (226, 232, 228), (242, 228, 228), (214, 222, 232)][rng.integers(6)], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    glow = 1.02 - 0.22 * (((x / width - rng.uniform(0.35, 0.65)) ** 2) + ((y / height - rng.uniform(0.25, 0.5)) ** 2))
    return cv2.cvtColor(np.clip(paper * glow[..., None], 0, 255).astype(np.uint8), cv2.COLOR_RGB2RGBA)


def _soft_colour(rng: np.random.Generator, low: float = 90, high: float = 235, colourful: float = 0.35) -> np.ndarray:
    """A random colour, mostly muted."""
    return np.clip(rng.uniform(low, high) * (1 + colourful * rng.uniform(-1, 1, 3)), 0, 255).astype(np.float32)


def _filled(width: int, height: int, colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()


def _box(picture: np.ndarray, x1: float, y1: float, x2: float, y2: float, colour: np.ndarray) -> None:
    cv2.rectangle(picture, (round(x1), round(y1)), (round(x2), round(y2)), np.asarray(colour, float).tolist(), -1)


def _room(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    picture = _filled(width, height, _soft_colour(rng, 150, 235, 0.25))
    floor = height * rng.uniform(0.72, 0.86)
    wood = _soft_colour(rng, 80, 190, 0.3)
    _box(picture, 0, floor, width, height, wood)
    for x in np.linspace(-0.6, 1.6, 14) * width:
        cv2.line(picture, (round((x - width / 2) * 0.6 + width / 2), round(floor)), (round(x), height), (wood * 0.82).tolist(), 2, cv2.LINE_AA)
    _box(picture, 0, floor - 12, width, floor, (240, 238, 232))
    if rng.uniform() < 0.5:
        x, y, w, h = (rng.uniform(0, 0.55) * width, rng.uniform(0.05, 0.15) * height, rng.uniform(0.3, 0.45) * width, rng.uniform(0.25, 0.4) * height)
        _box(picture, x - 8, y - 8, x + w + 8, y + h + 8, (238, 236, 230))
        sky = cv2.resize(np.array([[(150, 196, 236)], [(226, 236, 240)]], np.float32), (round(w), round(h)), interpolation=cv2.INTER_LINEAR)
        inside = picture[round(y) : round(y) + round(h), round(x) : round(x) + round(w)]
        inside[:] = sky[: inside.shape[0], : inside.shape[1]]
        _box(picture, x + w / 2 - 3, y, x + w / 2 + 3, y + h, (238, 236, 230))
    else:
        for _ in range(int(rng.integers(1, 4))):
            x, y, w, h = (rng.uniform(0, 0.8) * width, rng.uniform(0.05, 0.35) * height, rng.uniform(0.12, 0.3) * width, rng.uniform(0.1, 0.22) * height)
            _box(picture, x - 4, y - 4, x + w + 4, y + h + 4, _soft_colour(rng, 40, 120))
            _box(picture, x, y, x + w, y + h, _soft_colour(rng, 120, 230, 0.6))
            cv2.circle(picture, (round(x + w / 2), round(y + h / 2)), round(min(w, h) * 0.3), _soft_colour(rng, 60, 230, 0.7).tolist(), -1, cv2.LINE_AA)
    if rng.uniform() < 0.6:
        _plant(rng, picture, rng.choice([0.08, 0.92]) * width, floor + 20)
    if rng.uniform() < 0.5:
        _lamp(picture, rng.choice([0.15, 0.85]) * width, floor)
    return picture


def _plant(rng: np.random.Generator, picture: np.ndarray, x: float, y: float) -> None:
    for angle in rng.uniform(-2.7, -0.4, 16):
        length = rng.uniform(60, 130)
        centre = round(x + np.cos(angle) * length * 0.6), round(y - 70 + np.sin(angle) * length * 0.6)
        cv2.ellipse(
            picture, centre, (round(length * 0.5), 9), np.degrees(angle), 0, 360, (40 + rng.uniform(0, 40), 100 + rng.uniform(0, 60), 56), -1, cv2.LINE_AA
        )
    cv2.fillPoly(
        picture, [np.array([(x - 30, y - 62), (x + 30, y - 62), (x + 22, y), (x - 22, y)], np.int32)], _soft_colour(rng, 120, 220).tolist(), cv2.LINE_AA
    )


def _lamp(picture: np.ndarray, x: float, floor: float) -> None:
    cv2.line(picture, (round(x), round(floor) + 10), (round(x), round(floor) - 200), (60, 58, 56), 5, cv2.LINE_AA)
    cv2.fillPoly(
        picture,
        [np.array([(x - 26, floor - 250), (x + 26, floor - 250), (x + 44, floor - 190), (x - 44, floor - 190)], np.int32)],
        (250, 228, 176),
        cv2.LINE_AA,
    )


def _shop(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Shelves with boxes and jars."""
    wall = _soft_colour(rng, 120, 215, 0.3)
    picture = _filled(width, height, wall)
    for y in np.arange(0.16, 1.05, rng.uniform(0.16, 0.22)) * height:
        x = rng.uniform(-20, 10)
        while x < width:
            w, h = rng.uniform(18, 60), rng.uniform(35, 80)
            colour = _soft_colour(rng, 90, 225, 0.5)
            if rng.uniform() < 0.82:
                _box(picture, x, y - h, x + w, y, colour)
                _box(picture, x + 4, y - h * 0.6, x + w - 4, y - h * 0.35, np.minimum(colour * 1.25 + 15, 255))
            x += w + rng.uniform(2, 14)
        _box(picture, 0, y, width, y + 9, wall * 0.62)
    return picture


def _rack(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A clothes rail."""
    picture = _filled(width, height, _soft_colour(rng, 160, 235, 0.2))
    _box(picture, 0, height * 0.84, width, height, _soft_colour(rng, 90, 180))
    y = height * rng.uniform(0.14, 0.24)
    x = 0.0
    while x < width:
        w, h = rng.uniform(16, 40), height * rng.uniform(0.3, 0.5)
        colour = _soft_colour(rng, 60, 225, 0.5)
        cv2.fillPoly(
            picture,
            [np.array([(x + w / 2 - 3, y + 6), (x + w, y + 26), (x + w * 1.05, y + h), (x - w * 0.05, y + h), (x, y + 26)], np.int32)],
            colour.tolist(),
            cv2.LINE_AA,
        )
        cv2.line(picture, (round(x + w / 2), round(y + 30)), (round(x + w * 0.55), round(y + h)), (colour * 0.8).tolist(), 2)
        x += w * rng.uniform(0.75, 1.4)
    _box(picture, 0, y, width, y + 6, (170, 170, 174))
    return picture


def _curtain(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    x = np.linspace(0, 1, width, dtype=np.float32)
    folds = 1 + 0.16 * np.sin(x * rng.uniform(40, 90) + 2 * np.sin(x * 9 + rng.uniform(0, 6)))
    return _filled(width, height, _soft_colour(rng, 90, 220, 0.45)) * folds[None, :, None]


def _bricks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    colour = np.array([(178, 104, 82), (200, 194, 186), (150, 140, 134), (216, 206, 190)][rng.integers(4)], np.float32)
    picture = _filled(width, height, colour * 0.74)
    h, w = rng.uniform(18, 26), rng.uniform(44, 70)
    for row, y in enumerate(np.arange(0, height, h)):
        for x in np.arange(-w * (row % 2) / 2, width, w):
            _box(picture, x + 2, y + 2, x + w - 2, y + h - 2, colour * rng.uniform(0.86, 1.1))
    return picture


def _planks(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A wooden table or wall."""
    colour = np.array([(172, 126, 84), (206, 174, 132), (122, 88, 64), (188, 184, 176)][rng.integers(4)], np.float32)
    y = np.arange(height, dtype=np.float32)
    grain = cv2.resize(rng.uniform(0.9, 1.08, (height // 3, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    plank = rng.uniform(40, 80)
    tone = rng.uniform(0.88, 1.08, int(height / plank) + 2)[(y // plank).astype(int)] * np.where(y % plank < 2.5, 0.6, 1)
    return np.clip(colour * (grain * tone[:, None])[..., None], 0, 255)


def _studio(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A coloured gradient with soft circles of light."""
    ends = np.stack([_soft_colour(rng, 70, 230, 0.5), _soft_colour(rng, 110, 240, 0.5)])[:, None]
    picture = cv2.resize(ends.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(int(rng.integers(4, 14))):
        spot = np.zeros((height, width), np.float32)
        cv2.circle(spot, (int(rng.integers(width)), int(rng.integers(height))), int(rng.integers(10, 50)), 1.0, -1, cv2.LINE_AA)
        picture += 30 * spot[..., None] * _soft_colour(rng, 150, 255, 0.4) / 200
    return np.clip(picture, 0, 255)


def _outdoors(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    sky = np.array([[(118, 176, 232)], [(222, 234, 240)]], np.float32)
    picture = cv2.resize(sky, (width, height), interpolation=cv2.INTER_LINEAR)
    x = np.linspace(0, 1, 40)
    for depth, green in enumerate(((146, 178, 150), (104, 150, 96), (84, 132, 66))):
        crest = height * (0.5 + 0.12 * depth + 0.06 * np.sin(x * rng.uniform(4, 9) + rng.uniform(0, 6)))
        line = np.concatenate([np.stack([x * width, crest], 1), [(width, height), (0, height)]]).astype(np.int32)
        cv2.fillPoly(picture, [line], green, cv2.LINE_AA)
    for _ in range(int(rng.integers(2, 7))):
        tx, ty, r = rng.uniform(0, width), height * rng.uniform(0.45, 0.6), rng.uniform(20, 55)
        _box(picture, tx - r * 0.12, ty, tx + r * 0.12, ty + r * 2.2, (98, 74, 54))
        cv2.circle(picture, (round(tx), round(ty)), round(r), (62 + rng.uniform(0, 30), 118 + rng.uniform(0, 30), 62), -1, cv2.LINE_AA)
    return picture


PLACES: tuple[Callable[[np.random.Generator, int, int], np.ndarray], ...] = (_room, _room, _shop, _rack, _curtain, _bricks, _planks, _studio, _outdoors)
