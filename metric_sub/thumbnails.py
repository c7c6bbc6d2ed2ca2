"""The pictures of the report: small, with their boxes beside the pixels, so that the page draws them sharp at any size."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from shared.boxes import clip_boxes
from shared.media import MediaError
from shared.reader import Reader

LARGEST_HW = (400, 320)  # px
MOST_BYTES = 11_000  # of a picture, before base64: three pictures for each of a thousand videos are 44 MB of page
QUALITIES = (80, 65, 50, 35, 20)  # of WebP: the first whose picture is small enough
SHRINK = 0.7  # of a picture that even the lowest quality leaves too large


@dataclass(frozen=True)
class Box:
    """A box over a picture, in percent of its width and height. kind: 'found' (by the run) or 'truth' (labelled)."""

    kind: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """A picture as the page shows it. uri: a data URI; '' where there is no picture, and then `fault` says why."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    boxes: Sequence[Box] = ()
    fault: str = ""


def photo_picture(caption: str, path: str, boxes: dict[str, np.ndarray], reader: Reader) -> Picture:
    """A photo with its boxes, kind -> (N, 4) in its pixels."""
    try:
        return thumbnail(caption, reader.photo(path), boxes)
    except MediaError as error:
        return Picture(caption, fault=str(error))


def frame_picture(caption: str, path: str, boxes: dict[str, np.ndarray], frame_index: int, reader: Reader) -> Picture:
    """A frame with its boxes, kind -> (N, 4) in its pixels."""
    try:
        return thumbnail(caption, read_frame(path, frame_index, reader), boxes)
    except MediaError as error:
        return Picture(caption, fault=str(error))


def read_frame(path: str, frame_index: int, reader: Reader) -> np.ndarray:
    for _, image_rgb in reader.frames(path, [frame_index]):
        return image_rgb
    raise MediaError(f"the video has no frame {frame_index}")


def thumbnail(caption: str, image_rgb: np.ndarray, boxes: dict[str, np.ndarray]) -> Picture:
    """A WebP of at most LARGEST_HW and MOST_BYTES. boxes: kind -> (N, 4) in pixels of the picture as given, cut to it."""
    height, width = image_rgb.shape[:2]
    image = fit(image_rgb, LARGEST_HW)[0]
    placed = [
        Box(kind, 100 * x1 / width, 100 * y1 / height, 100 * (x2 - x1) / width, 100 * (y2 - y1) / height)
        for kind, of_kind in boxes.items()
        for x1, y1, x2, y2 in clip_boxes(np.reshape(of_kind, (-1, 4)), width, height).tolist()
    ]
    return Picture(caption, data_uri("webp", small_webp(image)), image.shape[1], image.shape[0], placed)


def small_webp(image_rgb: np.ndarray) -> bytes:
    """The picture as WebP of at most MOST_BYTES: at lower and lower quality, and at last of fewer pixels."""
    while True:
        for quality in QUALITIES:
            out = io.BytesIO()
            Image.fromarray(image_rgb).save(out, "WEBP", quality=quality)
            if out.tell() <= MOST_BYTES:
                return out.getvalue()
        height, width = image_rgb.shape[:2]
        image_rgb = fit(image_rgb, (max(1, int(SHRINK * height)), max(1, int(SHRINK * width))))[0]


def fit(image_rgb: np.ndarray, size_hw: tuple[int, int], enlarge: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The picture scaled to fit into size_hw (shrunk only, or enlarged too), and the (4,) factors for its boxes."""
    height, width = image_rgb.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    scale = scale if enlarge else min(scale, 1.0)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image_rgb, (new_width, new_height), interpolation=method)
    return resized, np.array([new_width / width, new_height / height] * 2)


def data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
