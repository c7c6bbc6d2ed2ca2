"""What `detect.reuse_below` saves and costs on a data set: infer with each of its values, in turns, compared with detecting every frame.

    bash run.sh bench reuse --config configs/cpu.yaml --data DATA --weights WEIGHTS [--below 2 4 8 16] [--rounds 3]

Times are of the whole of infer per photo and frame, start-up included. `detected`: the share of the frames that were. `found`: of the
boxes found where every frame is detected, the share that the run has too (IoU of 0.5 or more, same category). `equal`: of the videos
matched there, how many have the same item here.
"""

import re
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks._runs import n_wanted_frames, run_measured
from benchmarks.side_by_side import Measured, publish, report_of
from metric_sub.result import read_result
from shared.boxes import pairwise_iou
from shared.cli import config_of, parse_options, run_entry
from shared.errors import UserError
from shared.journal import read_tail
from shared.tables import BOX

SAME_IOU = 0.5
REUSED = re.compile(r"(\d+) of (\d+) frames barely differed")  # as bbox_sub.detections logs it


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Time and judge infer with detect.reuse_below.",
        argv,
        ("--below", "values to try beside 0 (default: 2 4 8 16)", {"type": float, "nargs": "+", "default": [2, 4, 8, 16]}),
        ("--rounds", "how often each runs (default: 3)", {"type": int, "default": 3}),
        ("--json", "also write the figures into this file"),
    )
    frame_indices = config_of(options).frames.indices
    works: dict[str, Path] = {}
    measured = {f"{below:g}": Measured() for below in (0, *options.below)}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for below, side in measured.items():
                works[below] = Path(scratch) / f"work {number} {below}"
                arguments = ["--config", options.config, "--data", options.data, "--weights", options.weights]
                overrides = [*options.overrides, f"detect.reuse_below={below}"]
                run_measured("infer", [*arguments, "--work", works[below], *overrides], side)
        base, *_ = works.values()
        media = pd.read_parquet(base / "media" / "table.parquet")
        n_frames = n_wanted_frames(media, frame_indices)
        if not n_frames:
            raise UserError(f"{options.data}: expected videos with frames {frame_indices[0]} to {frame_indices[-1]}, found none that long.")
        n_pictures = n_frames + int((media.kind == "photo").sum())
        beside = {below: {"detected": 1.0 if below == "0" else share_detected(work), **compared(work, base)} for below, work in works.items()}
    publish([report_of("reuse", measured, base="0", unit="picture", per_call=n_pictures, beside=beside)], options.json)


def compared(work: Path, base: Path) -> dict[str, object]:
    """How the boxes and matches of a run agree with those of the run that detects every frame."""
    matches, expected = (read_result(folder / "result.json") for folder in (work, base))
    equal = sum(matches[video].item_id == expected[video].item_id for video in matches.keys() & expected.keys())
    boxes, all_boxes = (pd.read_parquet(folder / "detections" / "videos" / "table.parquet") for folder in (work, base))
    return {"found": share_found(all_boxes, boxes), "equal": f"{equal} of {len(expected)}"}


def share_detected(work: Path) -> float:
    """The share of the frames whose boxes were not reused, as the run's log tells."""
    [told] = filter(None, (REUSED.search(line["message"]) for line in read_tail(work)))
    return 1 - int(told[1]) / int(told[2])


def share_found(expected: pd.DataFrame, given: pd.DataFrame) -> float:
    """The share of the expected boxes that the same frame has with an IoU of SAME_IOU or more and the same category."""
    frames, hits = dict(list(given.groupby(["media_id", "frame_index"]))), 0
    for frame, rows in expected.groupby(["media_id", "frame_index"]):
        if frame in frames:
            there = frames[frame]
            near = pairwise_iou(rows[BOX].to_numpy(), there[BOX].to_numpy()) >= SAME_IOU
            hits += int((near & (rows.category.to_numpy()[:, None] == there.category.to_numpy())).any(axis=1).sum())
    return hits / len(expected) if len(expected) else 1.0


if __name__ == "__main__":
    run_entry(main)
