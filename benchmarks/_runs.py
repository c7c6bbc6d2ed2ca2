"""What the benchmarks of whole runs share: a subset of a data set, random weights, a command with its time and memory."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bbox_sub.detector import build_detector
from benchmarks.side_by_side import BY_RUN_SH, Measured, told_bytes
from metric_sub.embedder import build_embedder, save_embedder
from metric_sub.whitening import FOLDER, map_shapes, save_whitening, whitening_of
from shared.config import Config, Data
from shared.dataset import read_media
from shared.errors import UserError
from shared.weights import save_weights

LOOK_EVERY_S = 0.1  # at a run's memory


def draw_weights(config: Config, folder: Path) -> None:
    """Writes the folders of models with random weights, as training would leave them: what they find means nothing."""
    torch.manual_seed(config.seed)
    detector = build_detector(config.detector, load_pretrained=False)
    save_weights(folder / "detector", detector, {"kind": "detector", "architecture": config.detector.model_dump()})
    for model in config.embedders:
        save_embedder(folder / model.name, [build_embedder(model, config.embed, load_pretrained=False)], model, config.embed, {}, 0)
    if settings := whitening_of(config.descriptors):
        rng = np.random.default_rng(config.seed)
        maps = {name: rng.normal(size=shape).astype(np.float32) for name, shape in map_shapes(settings).items()}
        save_whitening(folder / FOLDER, maps, settings, {})


def link_some(data: Path, limits: Data, folder: Path, n_videos: int, n_photos: int, copies: int = 1) -> Path:
    """A data set of links: the first photos and videos of `data` (0: all), the videos `copies` times, each copy an id of its own.

    Raises UserError where there are fewer.
    """
    media, _ = read_media(data, limits)
    for kind, wanted in (("photo", n_photos), ("video", n_videos)):
        rows = media[media.kind == kind]
        if len(rows) < max(wanted, 1):
            raise UserError(f"{data}: expected {max(wanted, 1)} or more {kind}s, found {len(rows)}.")
        for row in rows.head(wanted or len(rows)).itertuples():
            path = Path(row.path).resolve()
            for copy in range(copies if kind == "video" else 1):
                name = f"{row.name}-{copy}{path.suffix}" if copy else f"{row.name}{path.suffix}"
                place = folder / ("image" if kind == "photo" else "video") / (row.item_id if kind == "photo" else "") / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
    return folder


def n_wanted_frames(media: pd.DataFrame, frame_indices: list[int]) -> int:
    """How many of the wanted frames the videos have. media: a work folder's media/table.parquet."""
    return sum(int((np.array(frame_indices) < n_frames).sum()) for n_frames in media.n_frames[media.kind == "video"])


def run_measured(
    module: str, arguments: list[object], measured: Measured, *, as_it_comes: bool = False, shared_once: bool = False
) -> None:
    """Runs `python -m module` to its end and adds its seconds, those of its processors, and the most memory that it and its children
    held together (resident), as one sees who looks every 0.1 s.

    as_it_comes: without what run.sh sets. shared_once: what its processes share counts once and not in each, for which it looks every
    0.5 s, since the kernel then walks all their pages. Raises UserError where it fails.
    """
    left_out = BY_RUN_SH if as_it_comes else ()
    environment = {name: value for name, value in os.environ.items() if name not in left_out} | {"VID2SHOP_QUIET": "1"}
    before, started = _children_seconds(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], stdout=sys.stderr, env=environment
    )
    peak, over = [0], threading.Event()
    held = _bytes_shared_once if shared_once else _resident_bytes

    def watch() -> None:
        while not over.wait(5 * LOOK_EVERY_S if shared_once else LOOK_EVERY_S):
            peak[0] = max(peak[0], held(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        over.set()
        watcher.join()
    if code:
        raise UserError(f"{module} failed (exit {code}); it said why above.")
    measured.seconds.append(time.perf_counter() - started)
    measured.processor_seconds.append(_children_seconds() - before)
    measured.peak_bytes = max(measured.peak_bytes or 0, peak[0])


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _resident_bytes(pid: int, parent_command: bytes = b"") -> int:
    """What a process and all below it hold in memory."""
    total = 0
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command == parent_command:  # a fork that has not yet become another program: its memory is its parent's
            return 0
        total = told_bytes(f"/proc/{pid}/status", "VmRSS")
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(_resident_bytes(int(child), command) for child in children.read_text(encoding="ascii").split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
    return total


def _bytes_shared_once(pid: int) -> int:
    """The same, where what a process shares with its forks counts once: their parts of it are added up, but for the files (libraries)
    that the first one maps, which other programs share too."""
    total = 0
    with contextlib.suppress(OSError):
        total = told_bytes(f"/proc/{pid}/status", "RssFile")
    for process in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            total += told_bytes(f"/proc/{process}/smaps_rollup", "Pss_Anon", "Pss_Shmem")
    return total


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return [*found, *(below for child in found for below in descendants(child))]
