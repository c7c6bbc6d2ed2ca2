"""The whole of infer against the plain way (benchmarks/_plain_pipeline.py): same weights, same photos and videos, start-up included.

    bash run.sh bench pipeline --config configs/cpu.yaml --data DATA --weights WEIGHTS
    bash run.sh bench pipeline --config configs/wab.yaml --data DATA --random --videos 4 --photos 8

With --random the config's networks get random weights, and thresholds that let the best three boxes of each picture through:
their answers mean nothing, their time does. Both sides run in turns, each time as a process with an empty work folder, and
their answers are compared. The plain way runs as it comes, without the huge pages and the sleeping threads that run.sh asks for.
"""

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks._runs import draw_weights, link_some, n_wanted_frames, run_measured
from benchmarks.side_by_side import Measured, publish, report_of
from metric_sub.result import read_result
from shared.cli import config_of, parse_options, run_entry

RANDOM = ["detect.photo_score=0", "detect.video_score=0", "detector.detections=3", "match.max_distance=2"]


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Time infer against the plain way.",
        argv,
        ("--random", "random weights for the config's networks", {"action": "store_true"}),
        ("--videos", "how many videos (default: all)", {"type": int, "default": 0}),
        ("--photos", "how many photos (default: all)", {"type": int, "default": 0}),
        ("--rounds", "how often each side runs (default: 3)", {"type": int, "default": 3}),
        ("--json", "also write the figures into this file"),
    )
    if options.random:
        options.overrides = [*RANDOM, *options.overrides]
    config = config_of(options)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        data = link_some(options.data, config.data, scratch / "data", options.videos, options.photos)
        weights = options.weights
        if options.random:
            weights = scratch / "weights"
            draw_weights(config, weights)
        report = compare(options, data, weights, scratch, config.frames.indices)
    publish([report], options.json)
    found = report["matches"]
    print(
        f"{report['videos']} videos, {report['pictures']} pictures; matches: plain {found['plain']}, vid2shop {found['vid2shop']}, "
        f"equal {found['equal']}"
    )


def compare(options: argparse.Namespace, data: Path, weights: Path, scratch: Path, frame_indices: list[int]) -> dict:
    """The report of both sides, per photo and wanted frame."""
    common = ["--config", options.config, "--data", data, "--weights", weights]
    measured = {"plain": Measured(), "vid2shop": Measured()}
    out = scratch / "plain.json"
    for number in range(options.rounds):
        work = scratch / f"work-{number}"
        plain = [*common, "--out", out, *options.overrides]
        run_measured("benchmarks._plain_pipeline", plain, measured["plain"], as_it_comes=True)
        run_measured("infer", [*common, "--work", work, *options.overrides], measured["vid2shop"])
    media = pd.read_parquet(work / "media" / "table.parquet")
    n_pictures = int((media.kind == "photo").sum()) + n_wanted_frames(media, frame_indices)
    plain, ours = (read_result(path) for path in (out, work / "result.json"))
    equal = sum(plain[video].item_id == ours[video].item_id for video in plain.keys() & ours.keys())
    rows = json.loads((work / "detections" / "videos" / "manifest.json").read_text(encoding="utf-8"))["rows"]
    report = report_of("pipeline", measured, base="plain", unit="picture", per_call=n_pictures)
    return report | {
        "matches": {"plain": len(plain), "vid2shop": len(ours), "equal": equal},
        "videos": int((media.kind == "video").sum()),
        "pictures": n_pictures,
        "boxes in videos": rows,
    }


if __name__ == "__main__":
    run_entry(main)
