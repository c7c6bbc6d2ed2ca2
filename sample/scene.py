"""A scene: layers that move over a background, under a light that changes. It renders frames and knows the exact boxes.

A photo is a scene of one frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from sample.products import Sprite


@dataclass(frozen=True)
class Layer:
    """Something in front of the background. `sprites` are its sides; label None: nothing to sell (a hand, a shadow).

    sides: (n,) index of the sprite shown. homographies: (n, 3, 3) from sprite to frame. shown: (n,) bool.
    """

    sprites: tuple[Sprite, ...]
    sides: np.ndarray
    homographies: np.ndarray
    shown: np.ndarray
    label: str | None = None
    instance_id: int = 0
    display: int = 0


@dataclass(frozen=True)
class Scene:
    """background: a picture (h, w, 4) uint8 larger than the frame, RGB and a fourth channel that is ignored (OpenCV warps four channels
    twice as fast as three); camera: (n, 2, 3) affine maps from it to the frame. layers: back to front.

    light: (n, 3, 256) uint8, the colour curves; light_map: (H, W, 3) uint8, 128 is neutral. blurs: (n, 2) int, box filter in pixels across and
    down, 1 is none. banners: (x, y, rgba) over all. smallest_visible: share of a product's own area below which it is not labelled.
    """

    width: int
    height: int
    background: np.ndarray
    camera: np.ndarray
    layers: tuple[Layer, ...]
    light: np.ndarray
    light_map: np.ndarray
    blurs: np.ndarray
    banners: tuple[tuple[int, int, np.ndarray], ...] = ()
    smallest_visible: float = 0.0

    @property
    def n_frames(self) -> int:
        return len(self.camera)


def render(scene: Scene, index: int) -> np.ndarray:
    """Frame `index` as image_rgb (H, W, 3) uint8."""
    whole = cv2.warpAffine(scene.background, scene.camera[index], (scene.width, scene.height), borderMode=cv2.BORDER_REFLECT)
    frame = cv2.cvtColor(whole, cv2.COLOR_RGBA2RGB)
    for layer in scene.layers:
        if layer.shown[index]:
            sprite = layer.sprites[layer.sides[index]]
            placed = _warp(sprite.rgba, layer.homographies[index], scene.width, scene.height)
            if placed is not None:
                _blend(frame, *placed)
    frame = cv2.multiply(frame, scene.light_map, scale=1 / 128)
    frame = cv2.merge([cv2.LUT(channel, curve) for channel, curve in zip(cv2.split(frame), scene.light[index], strict=True)])
    if scene.blurs[index].max() > 1:
        frame = cv2.blur(frame, tuple(int(k) for k in scene.blurs[index]))
    for x, y, rgba in scene.banners:
        _blend(frame, x, y, rgba)
    return frame


def annotations(scene: Scene, index: int) -> list[dict]:
    """The labelled boxes of a frame, front layer last: dicts as in the annotation files.

    A box encloses the pixels of which at least half shows the product: its alpha, less what the layers and banners before it hide.
    """
    clear = np.ones((scene.height, scene.width), np.float32)
    for x, y, rgba in scene.banners:
        clear[y : y + rgba.shape[0], x : x + rgba.shape[1]] *= 1 - rgba[..., 3].astype(np.float32) / 255
    found = []
    for layer in reversed(scene.layers):
        if not layer.shown[index]:
            continue
        side = int(layer.sides[index])
        sprite, homography = layer.sprites[side], layer.homographies[index]
        if layer.label is not None:
            box = _visible_box(sprite, homography, clear, scene.smallest_visible)
            if box is not None:
                found.append({"label": layer.label, "viewpoint": side, "display": layer.display, "instance_id": layer.instance_id, "box": box})
        placed = _warp(sprite.rgba, homography, scene.width, scene.height)
        if placed is not None:
            x, y, rgba = placed
            clear[y : y + rgba.shape[0], x : x + rgba.shape[1]] *= 1 - rgba[..., 3].astype(np.float32) / 255
    return found[::-1]


def _visible_box(sprite: Sprite, homography: np.ndarray, clear: np.ndarray, smallest: float) -> list[int] | None:
    height, width = clear.shape
    placed = _warp(sprite.own, homography, width, height)
    if placed is None:
        return None
    x, y, own = placed
    visible = own.astype(np.float32) / 255 * clear[y : y + own.shape[0], x : x + own.shape[1]] >= 0.5
    if visible.sum() <= smallest * _area(sprite, homography):
        return None
    left, top, w, h = cv2.boundingRect(visible.astype(np.uint8))
    return [x + left, y + top, x + left + w, y + top + h] if min(w, h) > 4 else None


def _area(sprite: Sprite, homography: np.ndarray) -> float:
    """Square pixels that the product would fill if nothing hid it: its share of its box, times the warped box."""
    x, y, w, h = sprite.own_box
    corners = cv2.perspectiveTransform(np.float64([[(x, y), (x + w, y), (x + w, y + h), (x, y + h)]]), homography)
    share = np.count_nonzero(sprite.own >= 128) / max(w * h, 1)
    return share * abs(cv2.contourArea(corners.astype(np.float32)))


def _warp(image: np.ndarray, homography: np.ndarray, width: int, height: int) -> tuple[int, int, np.ndarray] | None:
    """x, y and the warped image, cut to the frame; None where it lies outside. Only its bounding rectangle is computed."""
    h, w = image.shape[:2]
    corners = cv2.perspectiveTransform(np.float64([[(0, 0), (w, 0), (w, h), (0, h)]]), homography)[0]
    x1, y1 = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, (width, height)).astype(int)
    if x2 <= x1 or y2 <= y1:
        return None
    shift = np.array([(1, 0, -x1), (0, 1, -y1), (0, 0, 1)], np.float64)
    return (int(x1), int(y1), cv2.warpPerspective(image, shift @ homography, (int(x2 - x1), int(y2 - y1)), flags=cv2.INTER_LINEAR))


def _blend(frame: np.ndarray, x: int, y: int, rgba: np.ndarray) -> None:
    window = frame[y : y + rgba.shape[0], x : x + rgba.shape[1]]
    rgb, alpha = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), cv2.extractChannel(rgba, 3)
    rest = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
    window[:] = cv2.add(cv2.multiply(window, rest, scale=1 / 255), rgb)
