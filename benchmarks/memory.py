"""Memory of infer over many pictures and videos: is it flat?

    bash run.sh bench memory [--pictures 2000] [--videos 300] [--stages] [--json FILE] [--picture FILE.png]

Draws 400 pictures and 40 videos of sizes of their own, links them under as many names as asked for, and runs infer on them (with
--stages one stage after the other, as the containers do) with networks that were never trained. Meanwhile the memory of the process
and all its children is sampled (PSS: of memory that several share, each has its share). For every step it tells the memory in
its second and its last quarter, its peak, and the slope in MB per 1,000 units (files; of infer items and videos), fitted by least
squares to all but the first quarter, in which caches fill. A run of a hundred times as many would end higher by a hundred times
slope times units.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from bbox_sub.body import preprocessing
from bbox_sub.detector import build_detector
from benchmarks._runs import descendants
from benchmarks.side_by_side import told_bytes
from metric_sub.embedder import build_embedder, save_embedder
from shared.config import Config, load_config, save_config
from shared.errors import UserError
from shared.files import write_json, write_whole
from shared.journal import read_tail
from shared.machine import PROJECT, made_with
from shared.weights import save_weights

N_DRAWN_PICTURES, N_DRAWN_VIDEOS, PHOTOS_PER_ITEM, FRAMES = 400, 40, 5, 100
SIDES = (180, 640)  # px: the shortest and the longest side of what is drawn
EVERY_S = 0.2
WARM_UP = 0.25  # of a step, left out of the slope
CONFIG = [
    "threads=1",
    "frames={start: 0, stop: 80, step: 20}",
    "detector.detections=2",
    "detect.photo_score=0.0",
    "detect.video_score=0.0",
    "match.max_distance=2.0",
]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--stages", action="store_true", help="run one stage after the other, each in its process")
    parser.add_argument("--folder", type=Path, help="where data and work folder go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures and all samples here")
    parser.add_argument("--picture", type=Path, help="write a PNG of memory over time here")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(argv)
    for name in ("pictures", "videos"):
        if getattr(options, name) < 8:
            raise UserError(f"--{name}: expected 8 or more, found {getattr(options, name)}.")
    config = load_config(PROJECT / "configs" / "tiny.yaml", [*CONFIG, *options.overrides])
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        draw_data(folder, options.pictures, options.videos)
        write_models(folder / "weights", config)
        samples, rows = [], []
        for module in ("bbox_sub.infer", "metric_sub.infer") if options.stages else ("infer",):
            found = run_sampled(module, folder)
            rows += steps_of(module, found, read_tail(folder / "work"))
            samples += found
    print(as_table(rows))
    answer = {"pictures": options.pictures, "videos": options.videos, "made_with": made_with(), "steps": rows}
    if options.json:
        write_json(options.json, {**answer, "samples": samples})
    if options.picture:
        draw_samples(samples, rows, options.picture)


def draw_data(folder: Path, n_pictures: int, n_videos: int) -> None:
    """data/image/<item>/<n>.jpg and data/video/<n>.mp4: links to the few that are drawn."""
    rng = np.random.default_rng(0)
    drawn = folder / "drawn"
    drawn.mkdir(parents=True, exist_ok=True)
    for k in range(N_DRAWN_PICTURES):
        Image.fromarray(_picture(rng, *rng.integers(*SIDES, 2))).save(drawn / f"{k}.jpg")
    for k in range(N_DRAWN_VIDEOS):
        _write_video(drawn / f"{k}.mp4", rng, *(rng.integers(*SIDES, 2) // 2 * 2))
    for k in range(n_pictures):
        item = folder / "data" / "image" / f"{k // PHOTOS_PER_ITEM:06d}"
        item.mkdir(parents=True, exist_ok=True)
        _link(drawn / f"{k % N_DRAWN_PICTURES}.jpg", item / f"{k % PHOTOS_PER_ITEM}.jpg")
    (folder / "data" / "video").mkdir(exist_ok=True)
    for k in range(n_videos):
        _link(drawn / f"{k % N_DRAWN_VIDEOS}.mp4", folder / "data" / "video" / f"{k:06d}.mp4")


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = rng.integers(100, 255, 3)
    return image


def _write_video(path: Path, rng: np.random.Generator, height: int, width: int) -> None:
    image = _picture(rng, height, width)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = int(height), int(width), "yuv420p"
        for k in range(FRAMES):
            frame = np.ascontiguousarray(np.roll(image, k, axis=1))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def _link(file: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    os.link(file, name)


def write_models(folder: Path, config: Config) -> None:
    """The folder of weights as training would leave it, of networks as they are drawn."""
    torch.manual_seed(config.seed)
    about = {"kind": "detector", "architecture": config.detector.model_dump(), **preprocessing(config.detector)}
    save_weights(folder / "detector", build_detector(config.detector, load_pretrained=False), {**about, "fingerprint": ""})
    for model in config.embedders:
        save_embedder(folder / model.name, [build_embedder(model, config.embed, load_pretrained=False)], model, config.embed, {}, 0)
    save_config(folder, config)


def run_sampled(module: str, folder: Path) -> list[tuple[float, float, int]]:
    """Runs a stage; (seconds since 1970, MB of it and its children, how many these are) every EVERY_S seconds."""
    command = [sys.executable, "-m", module, "--data", folder / "data", "--work", folder / "work", "--weights", folder / "weights"]
    process = subprocess.Popen(list(map(str, command)), stdout=sys.stderr)
    samples: list[tuple[float, float, int]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(EVERY_S):
            tree = [process.pid, *descendants(process.pid)]
            samples.append((time.time(), sum(map(pss_mb, tree)), len(tree) - 1))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        code = process.wait()
    finally:
        ended.set()
        sampler.join()
    if code:
        raise UserError(f"{module} ended with exit {code}; see what it said.")
    return [entry for entry in samples if entry[1]]


def pss_mb(process: int) -> float:
    """The process's proportional share of memory in MB (2^20 bytes); 0 where it has ended."""
    with contextlib.suppress(OSError):
        return told_bytes(f"/proc/{process}/smaps_rollup", "Pss") / 2**20
    return 0.0


def steps_of(module: str, samples: list[tuple[float, float, int]], lines: list[dict]) -> list[dict]:
    """A row per progress bar of the stage's run (from its log), and one for the whole run."""
    times, values = np.array([entry[0] for entry in samples]), np.array([entry[1] for entry in samples])
    told: dict[str, list[tuple[float, dict]]] = {}
    for line in lines:
        moment = datetime.fromisoformat(line["time"]).timestamp()
        if line.get("event") == "progress" and times[0] <= moment <= times[-1] + EVERY_S:
            told.setdefault(line["title"], []).append((moment, line))
    rows = []
    for title, of_title in told.items():
        (begins, _), (ends, last) = of_title[0], of_title[-1]
        within = (times >= begins) & (times <= ends)
        if within.sum() >= 8:
            rows.append(_row(f"{module}: {title}", times[within], values[within], last["total"], last["unit"]))
    rows.append({"step": module, "seconds": times[-1] - times[0], "peak_mb": float(values.max()), "children": max(e[2] for e in samples)})
    return rows


def _row(step: str, times: np.ndarray, values: np.ndarray, n_units: int, unit: str) -> dict:
    share = (times - times[0]) / (times[-1] - times[0])
    warm = share >= WARM_UP
    slope = float(np.polyfit(share[warm] * n_units, values[warm], 1)[0])
    quarter = max(1, len(values) // 4)
    return {
        "step": step,
        "units": n_units,
        "unit": unit,
        "seconds": float(times[-1] - times[0]),
        "second_quarter_mb": float(np.median(values[quarter : 2 * quarter])),
        "last_quarter_mb": float(np.median(values[-quarter:])),
        "peak_mb": float(values.max()),
        "slope_mb_per_1000": 1000 * slope,
        "begun_at": float(times[0]),
    }


def as_table(rows: list[dict]) -> str:
    lines = [f"{'':<32}{'units':>8}{'seconds':>9}{'2nd quarter':>13}{'last quarter':>14}{'peak MB':>9}{'MB per 1,000':>14}"]
    for row in rows:
        if "units" in row:
            values = f"{row['second_quarter_mb']:>13.0f}{row['last_quarter_mb']:>14.0f}{row['peak_mb']:>9.0f}{row['slope_mb_per_1000']:>14.2f}"
            lines.append(f"{row['step']:<32}{row['units']:>8}{row['seconds']:>9.0f}{values}")
        else:
            lines.append(f"{row['step'] + ', all':<32}{'':>8}{row['seconds']:>9.0f}{'':>27}{row['peak_mb']:>9.0f}")
    return "\n".join(lines)


def draw_samples(samples: list[tuple[float, float, int]], rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel="MB", title="memory of infer and its children")
    begin = samples[0][0]
    axes.plot([entry[0] - begin for entry in samples], [entry[1] for entry in samples], linewidth=0.8)
    for number, row in enumerate(row for row in rows if "begun_at" in row):
        axes.axvline(row["begun_at"] - begin, color="grey", linestyle="--", linewidth=0.8)
        place = (row["begun_at"] - begin, 0.02 + 0.05 * (number % 3))  # those that begin soon after one another do not overlap
        axes.annotate(f" {row['step'].partition(': ')[2]}", place, xycoords=("data", "axes fraction"), fontsize=7)
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    write_whole(path, lambda beside: figure.savefig(beside, dpi=110, format="png"))
