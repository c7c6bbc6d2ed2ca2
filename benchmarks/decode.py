"""Our frame reader against OpenCV's read-all, same frames, in turns (A B A B): a table of median ratios and whether pixels agree."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.dataset import read_media
from shared.media import read_frames

ROUNDS = 5
VIDEOS = 6


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Compare frame readers on a data set's videos.", argv)
    config = config_of(options)
    use_threads(config.threads)
    media = read_media(options.data, config.data)[0]
    print(f"{'video':40} {'OpenCV / ours':>14} {'equal pixels':>13}")
    for path in media[media.kind == "video"].path[:VIDEOS]:
        seconds, frames = {}, {}
        readers: dict[str, Callable] = {
            "ours": lambda path=path: dict(read_frames(path, config.frames.indices, config.data.max_pixels)),
            "opencv": lambda path=path: read_all_by_opencv(path, set(config.frames.indices)),
        }
        for _ in range(ROUNDS):
            for name, read in readers.items():
                started = time.perf_counter()
                frames[name] = read()
                seconds.setdefault(name, []).append(time.perf_counter() - started)
        ratio = statistics.median(seconds["opencv"]) / statistics.median(seconds["ours"])
        equal = frames["ours"].keys() == frames["opencv"].keys() and all(
            np.array_equal(frames["ours"][k], frames["opencv"][k]) for k in frames["ours"]
        )
        print(f"{Path(path).name:40} {ratio:14.2f} {'yes' if equal else 'no':>13}")


def read_all_by_opencv(path: str, wanted: set[int]) -> dict[int, np.ndarray]:
    """index -> image_rgb of the wanted frames, by decoding and converting every frame up to the last."""
    capture, frames = cv2.VideoCapture(path), {}
    for index in range(max(wanted) + 1):
        there, image_bgr = capture.read()
        if not there:
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
    capture.release()
    return frames


if __name__ == "__main__":
    run_entry(main)
