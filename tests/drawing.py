"""Pictures, videos and a small data set that tests draw themselves, so that what they show is known exactly."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from PIL import Image

COLOURS = {"000000": (220, 40, 40), "000001": (40, 200, 60), "000002": (50, 70, 230), "000003": (230, 210, 40)}
LABELLED_FRAMES = (0, 8, 16)
N_FRAMES, HEIGHT, WIDTH = 24, 96, 64

BLOCK_ROWS, BLOCK_COLUMNS = 2, 4  # a frame's number as black and white blocks, lowest bit first


def numbered_frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame (height, width, 3) that shows its own number, 0 to 255, in blocks that any codec keeps."""
    bits = np.array([number >> bit & 1 for bit in range(BLOCK_ROWS * BLOCK_COLUMNS)], np.uint8).reshape(
        BLOCK_ROWS, BLOCK_COLUMNS
    )
    blocks = np.kron(bits, np.ones((height // BLOCK_ROWS, width // BLOCK_COLUMNS), np.uint8)) * 255
    return np.repeat(blocks[..., None], 3, axis=2)


def number_of(frame: np.ndarray) -> int:
    """The number that a frame shows."""
    height, width = frame.shape[0] // BLOCK_ROWS, frame.shape[1] // BLOCK_COLUMNS
    means = frame.astype(float).reshape(BLOCK_ROWS, height, BLOCK_COLUMNS, width, 3).mean(axis=(1, 3, 4))
    return sum(int(bright) << bit for bit, bright in enumerate((means > 127).flatten()))


def numbered_frames(n_frames: int = N_FRAMES) -> list[np.ndarray]:
    return [numbered_frame(k) for k in range(n_frames)]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 25,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """RGB frames of one size as a video; three B-frames between reference frames unless `options` say else."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = None
        for image_rgb in frames:
            if stream is None:
                default = {"bf": "3", "b-adapt": "0", "g": "12", "crf": "18"} if codec == "libx264" else {}
                stream = file.add_stream(codec, rate=fps, options=options or default)
                stream.height, stream.width = image_rgb.shape[:2]
                stream.pix_fmt = pixels
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image_rgb, format="rgb24")))
        file.mux(stream.encode())
    return path


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrites a, b, c, d of the display matrix in an MP4's track header (ISO 14496-12: x' = ax + cy, y' = bx + dy, y down)."""
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    start = (
        data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    )  # name, version and flags, times and ids, reserved, layer to volume
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def scene(
    item_id: str, box: tuple[int, int, int, int], rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH
) -> np.ndarray:
    """A picture of the item's product, a striped rectangle that fills `box` exactly, on dark noise."""
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = COLOURS[item_id]
    image[y1:y2:6, x1:x2] = 255
    return image


def tiles(rows: str, colours: dict[str, tuple[int, int, int]]) -> np.ndarray:
    """Rows of letters as tiles of 4 x 4 px, each in its letter's colour: `tiles("WR RR", {...})` is (8, 8, 3) uint8."""
    letters = np.array([[colours[letter] for letter in row] for row in rows.split()], np.uint8)
    return letters.repeat(4, axis=0).repeat(4, axis=1)


def draw_dataset(root: Path) -> None:
    """A data set in the Watch-and-Buy layout: four items of two photos, three videos of N_FRAMES, all annotated.

    train/ has items and videos 000000 and 000001; validation/ has item and video 000002, and item 000003 without a video.
    Each photo 1 also shows a distractor.
    """
    for part, items in (("train", ("000000", "000001")), ("validation", ("000002", "000003"))):
        for item_id in items:
            _draw_photos(root / part, item_id)
            if item_id != "000003":
                _draw_video(root / part, item_id)
    kinds = [{"item_id": item_id, "kind": "even" if int(item_id) % 2 == 0 else "odd"} for item_id in COLOURS]
    (root / "items.json").write_text(json.dumps(kinds))


def product_box(item_id: str, frame: int) -> tuple[int, int, int, int]:
    """Where the product is in a frame of its video."""
    x1, y1 = 6 + frame // 2 + int(item_id), 12 + frame
    return x1, y1, x1 + 28, y1 + 40


def annotation(item_id: str, box: tuple[int, int, int, int], *, distractor: bool = False) -> dict:
    return {
        "label": "top" if int(item_id) % 2 == 0 else "skirt",
        "viewpoint": 0,
        "display": 1,
        "instance_id": 0 if distractor else int(f"2{item_id[1:]}01"),
        "box": list(box),
    }


def _draw_photos(folder: Path, item_id: str) -> None:
    for name in ("0", "1"):
        box, other = (10, 8, 48, 60), (4, 66, 30, 90)
        image = scene(item_id, box, np.random.default_rng([int(item_id), int(name)]))
        annotations = [annotation(item_id, box)]
        if name == "1":
            image[other[1] : other[3], other[0] : other[2]] = (150, 150, 150)
            annotations.append(annotation(item_id, other, distractor=True))
        _write(
            folder / "image" / item_id / f"{name}.jpg",
            lambda path, image=image: Image.fromarray(image).save(path, quality=95),
        )
        _write_json(
            folder / "image_annotation" / item_id / f"{name}.json",
            {"item_id": item_id, "img_name": f"{name}.jpg", "annotations": annotations},
        )


def _draw_video(folder: Path, item_id: str) -> None:
    rng = np.random.default_rng([int(item_id), 9])
    frames = [scene(item_id, product_box(item_id, k), rng) for k in range(N_FRAMES)]
    _write(folder / "video" / f"{item_id}.mp4", lambda path: write_video(path, frames))
    labelled = [
        {"frame_index": k, "annotations": [annotation(item_id, product_box(item_id, k))]} for k in LABELLED_FRAMES
    ]
    _write_json(folder / "video_annotation" / f"{item_id}.json", {"video_id": item_id, "frames": labelled})


def _write(path: Path, write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)


def _write_json(path: Path, value: dict) -> None:
    _write(path, lambda path: path.write_text(json.dumps(value)))
