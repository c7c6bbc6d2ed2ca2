"""What lies over the picture: a seller's hand, and the banners of a live show."""

import cv2
import numpy as np

from sample.colours import SKINS
from sample.products import Sprite


def draw_hand(rng: np.random.Generator, length: int) -> Sprite:
    """A forearm with an open hand that points up, `length` pixels long. It is nobody's product: `own` is its outline."""
    skin = np.array(SKINS[rng.integers(len(SKINS))], np.float32)
    sleeve = rng.uniform(30, 220, 3)
    scale, width = 2 * length, length
    mask, cuff = np.zeros((scale, width), np.uint8), np.zeros((scale, width), np.uint8)

    def limb(target: np.ndarray, a: tuple[float, float], b: tuple[float, float], thick: float) -> None:
        points = [tuple(round(c * scale) for c in p) for p in (a, b)]
        cv2.line(target, points[0], points[1], 255, round(thick * scale), cv2.LINE_AA)

    limb(mask, (0.25, 0.36), (0.25, 1.0), 0.13)
    limb(mask, (0.25, 0.27), (0.25, 0.34), 0.18)
    for x, top in ((0.19, 0.10), (0.232, 0.06), (0.276, 0.07), (0.316, 0.12)):
        limb(mask, (x, top), (0.25 + (x - 0.25) * 0.8, 0.26), 0.04)
    limb(mask, (0.17, 0.32), (0.1, 0.2), 0.045)
    limb(cuff, (0.25, 0.72), (0.25, 1.02), 0.17)
    soft = cv2.blur(mask, (scale // 24,) * 2).astype(np.float32) / 255
    colour = skin * (0.72 + 0.3 * soft[..., None])
    colour = np.where(cuff[..., None] > 127, sleeve, colour)
    alpha = np.maximum(mask, cuff)
    rgba = np.dstack([np.clip(colour, 0, 255) * (alpha[..., None] / 255), alpha]).astype(np.uint8)
    rgba = cv2.resize(rgba, (width // 2, scale // 2), interpolation=cv2.INTER_AREA)
    return Sprite(rgba, rgba[..., 3].copy())


def draw_banners(rng: np.random.Generator, width: int, height: int) -> list[tuple[int, int, np.ndarray]]:
    """(x, y, rgba) of each banner of a frame of width x height, premultiplied uint8: pill, chat, price, ribbon, heart."""
    unit = width / 288
    banners = [(round(8 * unit), round(10 * unit), _pill("LIVE", (222, 40, 60), unit))]
    if rng.uniform() < 0.6:
        viewers = _pill(f"{rng.integers(1, 99)}.{rng.integers(10)}k", (30, 30, 34), unit, 0.55)
        banners.append((width - viewers.shape[1] - round(8 * unit), round(10 * unit), viewers))
    if rng.uniform() < 0.6:
        words = ["so pretty", "size M?", "love it", "how much", "hello!", "show back", "mine!", "wow", "again pls"]
        y = height * rng.uniform(0.68, 0.78)
        for _ in range(int(rng.integers(2, 4))):
            line = _pill(str(rng.choice(words)), (20, 20, 24), unit, 0.45)
            banners.append((round(8 * unit), round(y), line))
            y += line.shape[0] + 4 * unit
    if rng.uniform() < 0.6:
        price = _pill(f"NOW {rng.integers(5, 99)}.90", tuple(rng.choice([(230, 60, 40), (240, 170, 30), (60, 60, 200), (30, 140, 90)])), unit * 1.5)
        where = [(round(8 * unit), round(height * 0.9)), (width - price.shape[1] - round(8 * unit), round(height * rng.uniform(0.12, 0.3)))]
        banners.append((*where[rng.integers(2)], price))
    if rng.uniform() < 0.3:
        ribbon = np.zeros((round(30 * unit), width, 4), np.uint8)
        ribbon[:] = (*rng.choice([(200, 30, 60), (40, 40, 120), (20, 110, 100)]), 255)
        cv2.putText(
            ribbon,
            str(rng.choice(["FLASH SALE TODAY", "FREE SHIPPING", "NEW IN THIS WEEK", "2 FOR 1"])),
            (round(14 * unit), round(21 * unit)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.6 * unit,
            (255, 255, 255, 255),
            max(1, round(1.6 * unit)),
            cv2.LINE_AA,
        )
        banners.append((0, round(height * rng.choice([0.07, 0.84])), ribbon))
    return [(x, y, rgba) for x, y, rgba in banners if x >= 0 and y >= 0 and x + rgba.shape[1] <= width and y + rgba.shape[0] <= height]


def _pill(text: str, colour: tuple[int, int, int], unit: float, opacity: float = 0.95) -> np.ndarray:
    """White text on a rounded bar."""
    font, scale, thick = cv2.FONT_HERSHEY_SIMPLEX, 0.42 * unit, max(1, round(1.2 * unit))
    (w, h), _ = cv2.getTextSize(text, font, scale, thick)
    pad = round(6 * unit)
    width, height = w + 2 * pad, h + 2 * pad
    alpha = np.zeros((height, width), np.uint8)
    r = height // 2
    cv2.line(alpha, (r, height // 2), (width - 1 - r, height // 2), 255, height - 2, cv2.LINE_AA)
    rgba = np.zeros((height, width, 4), np.float32)
    rgba[..., :3], rgba[..., 3] = colour, 255
    rgba *= (alpha[..., None] / 255) * opacity
    ink = np.zeros((height, width), np.uint8)
    cv2.putText(ink, text, (pad, height - pad), font, scale, 255, thick, cv2.LINE_AA)
    ink = ink[..., None].astype(np.float32) / 255
    return (rgba * (1 - ink) + 255 * ink).round().astype(np.uint8)
