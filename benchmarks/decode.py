"""Wanted frames of a video by OpenCV, decord, PyAV and our reader, in turns: times, ratios, and whether the pixels are equal.

    bash run.sh bench decode [--video FILE] [--folder DIR] [--rounds 5] [--json FILE]

A 720p H.264 video with B-frames is made of the frames of --video, or of a drawn scene, and frames 80, 100, ..., 380 are read. With
--folder every file in it is read too, every 20th frame up to 380. All sides decode with two threads and give the same frames:
`opencv` and `pyav` read all, that is they decode and convert every frame up to the last wanted one; `grab` (OpenCV's grab and
retrieve) and `pyav wanted` decode them too but convert the wanted ones alone; `decord` takes part where it is installed and
survives the file. CPU ms of a side are those of its process, all threads. Each side of the 720p video has a process of its own, which
tells its peak memory, the frames that it gives among it; those of a folder's files take turns in one. All have memory and threads as
run.sh sets them.
"""

import argparse
import functools
import importlib.util
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.side_by_side import measure, publish, report_of
from shared.errors import UserError
from shared.media import MediaError, read_frames

THREADS = 2
STEP, LAST = 20, 380
N_FRAMES, WIDTH, HEIGHT, RATE = 420, 1280, 720, 25
MOST_PIXELS = 10**9
SECONDS_TO_SURVIVE = 60  # decord may hang or crash at a file, which takes a process with it

Frames = dict[int, np.ndarray]  # index -> image_rgb


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench decode", description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="a video whose frames make the 720p one (default: a drawn scene)")
    parser.add_argument("--folder", type=Path, help="also every file of this folder")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    if options.folder and not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder; --folder wants one that holds videos.")
    logging.getLogger("media").setLevel(logging.ERROR)
    cv2.setNumThreads(THREADS)
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "720p.mp4"
        write_video(path, frames_of(options.video) if options.video else drawn_frames())
        reports.append(compare(path, [*range(80, LAST + 1, STEP)], options.rounds, in_children=True))
    for path in sorted(options.folder.iterdir()) if options.folder else []:
        if n_frames := len(every_frame(path)):
            reports.append(compare(path, [*range(0, min(n_frames, LAST + 1), STEP)], options.rounds))
        else:
            print(f"{path.name}: no frame can be decoded", file=sys.stderr)
    publish(reports, options.json)


def compare(path: Path, wanted: list[int], rounds: int, *, in_children: bool = False) -> dict:
    """The report of one video."""
    sides = {
        "opencv": read_by_opencv,
        "grab": read_by_grab,
        "decord": read_by_decord,
        "pyav": functools.partial(read_by_pyav, convert_all=True),
        "pyav wanted": functools.partial(read_by_pyav, convert_all=False),
        "ours": read_by_us,
    }
    if not decord_survives(path, wanted):
        del sides["decord"]
    prepared = {name: functools.partial(prepare, read, str(path), wanted) for name, read in sides.items()}
    measured = measure(prepared, rounds=rounds, in_children=in_children, threads=THREADS)
    truth = measured["pyav"].gave
    equal = {name: {"equal": "yes" if same(side.gave, truth) else "no"} for name, side in measured.items()}
    return report_of(f"decode {path.name}", measured, base="opencv", unit="video", per_call=1, beside=equal)


def prepare(read: Callable[[str, list[int]], Frames], path: str, wanted: list[int]) -> Callable[[], Frames]:
    """A side's function."""
    logging.getLogger("media").setLevel(logging.ERROR)  # here too: a child has its own
    return functools.partial(read, path, wanted)


def same(frames: Frames, others: Frames) -> bool:
    return frames.keys() == others.keys() and all(np.array_equal(frames[k], others[k]) for k in frames)


def read_by_opencv(path: str, wanted: list[int]) -> Frames:
    """Decodes and converts every frame up to the last wanted one."""
    capture, frames = cv2.VideoCapture(path), {}
    for index in range(wanted[-1] + 1):
        there, image_bgr = capture.read()
        if not there:
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
    capture.release()
    return frames


def read_by_grab(path: str, wanted: list[int]) -> Frames:
    """Decodes every frame up to the last wanted one and converts the wanted ones."""
    capture, frames = cv2.VideoCapture(path), {}
    for index in range(wanted[-1] + 1):
        if not capture.grab():
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    return frames


def read_by_decord(path: str, wanted: list[int]) -> Frames:
    import decord  # only where it is installed: see decord_survives

    reader = decord.VideoReader(path, num_threads=THREADS)
    there = [index for index in wanted if index < len(reader)]
    return dict(zip(there, reader.get_batch(there).asnumpy(), strict=True))


def decord_survives(path: Path, wanted: list[int]) -> bool:
    """Whether decord is installed and reads the video in a process of its own."""
    if importlib.util.find_spec("decord") is None:
        return False
    code = f"from benchmarks.decode import read_by_decord; read_by_decord({str(path)!r}, {wanted})"
    try:
        ended = subprocess.run([sys.executable, "-c", code], timeout=SECONDS_TO_SURVIVE, capture_output=True)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def read_by_pyav(path: str, wanted: list[int], *, convert_all: bool) -> Frames:
    """Decodes every frame up to the last wanted one and converts the wanted ones, or all."""
    frames = {}
    with av.open(f"file:{path}") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "FRAME", THREADS
        try:
            for index, frame in enumerate(container.decode(stream)):
                if convert_all or index in wanted:
                    turns = round(frame.rotation / 90) % 4
                    image_rgb = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
                if index in wanted:
                    frames[index] = image_rgb
                if index >= wanted[-1]:
                    break
        except av.FFmpegError:
            pass  # a video that breaks off has the frames before
    return frames


def read_by_us(path: str, wanted: list[int]) -> Frames:
    return dict(read_frames(path, wanted, MOST_PIXELS))


def every_frame(path: Path) -> list[int]:
    """The indices of all frames up to LAST that can be decoded."""
    try:
        return [index for index, _ in read_frames(path, range(LAST + 1), MOST_PIXELS)]
    except MediaError:
        return []


def frames_of(path: Path) -> Iterator[av.VideoFrame]:
    """The frames of a video, again and again."""
    while True:
        with av.open(f"file:{path}") as container:
            yield from container.decode(video=0)


def drawn_frames() -> Iterator[av.VideoFrame]:
    """A textured scene that the camera pans over, with a camera's noise."""
    rng = np.random.default_rng(0)
    octaves = [rng.integers(0, 256, (HEIGHT * 2 // n, WIDTH * 2 // n, 3)).astype(np.uint8) for n in (4, 16, 64)]
    scene = np.mean([cv2.resize(each, (WIDTH * 2, HEIGHT * 2)) for each in octaves], axis=0)
    noise = rng.normal(0, 3, (8, HEIGHT, WIDTH, 3))
    for k in range(N_FRAMES):
        x, y = (int(side * (0.5 + 0.45 * np.sin(k / 60 + phase))) for side, phase in ((WIDTH, 0), (HEIGHT, 1)))
        image_rgb = scene[y : y + HEIGHT, x : x + WIDTH] + noise[k % len(noise)]
        yield av.VideoFrame.from_ndarray(np.clip(image_rgb, 0, 255).astype(np.uint8), format="rgb24")


def write_video(path: Path, frames: Iterator[av.VideoFrame]) -> None:
    """N_FRAMES of them as H.264 of 1280 x 720 with three B-frames, as x264 encodes by default."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k, frame in zip(range(N_FRAMES), frames, strict=False):
            frame = frame.reformat(WIDTH, HEIGHT, "yuv420p")
            frame.pts, frame.time_base, frame.pict_type = k, Fraction(1, RATE), 0  # the encoder chooses the type
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main(sys.argv[1:])
