"""Time and memory of infer over 1, 2, 4 and 8 times the same videos: what a video costs must not grow with their number.

    bash run.sh bench scaling --config configs/cpu.yaml --data DATA --weights WEIGHTS [--videos 10] [--rounds 3]

Each run is a process with an empty work folder. Start-up weighs on the few, so beside the time of a video stands that of one more:
the difference to the run before, divided by the videos that it has more.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks._runs import link_some, run_measured
from benchmarks.side_by_side import Measured, publish, report_of
from shared.cli import config_of, parse_options, run_entry

TIMES = (1, 2, 4, 8)


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Time infer over more and more videos.",
        argv,
        ("--videos", "how many videos the smallest run has (default: 10)", {"type": int, "default": 10}),
        ("--photos", "how many photos each run has (default: 10)", {"type": int, "default": 10}),
        ("--rounds", "how often each runs (default: 3)", {"type": int, "default": 3}),
        ("--json", "also write the figures into this file"),
    )
    limits = config_of(options).data
    counts = {f"{times * options.videos} videos": times * options.videos for times in TIMES}
    measured = {side: Measured() for side in counts}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for times, side in zip(TIMES, counts, strict=True):
            link_some(options.data, limits, scratch / side, options.videos, options.photos, times)
        for number in range(options.rounds):
            for side in counts:
                work = scratch / f"work {number} {side}"
                arguments = ["--config", options.config, "--data", scratch / side, "--weights", options.weights]
                run_measured("infer", [*arguments, "--work", work, *options.overrides], measured[side])
    medians = {side: statistics.median(of_side.seconds) for side, of_side in measured.items()}
    beside, before = {}, None
    for side, n_videos in counts.items():
        if before:
            more = (medians[side] - medians[before]) / (n_videos - counts[before])
            beside[side] = {"ms per video more": round(more * 1e3, 1)}
        before = side
    for side, n_videos in counts.items():
        of_side = measured[side]
        of_side.seconds = [seconds / n_videos for seconds in of_side.seconds]
        of_side.processor_seconds = [seconds / n_videos for seconds in of_side.processor_seconds]
    base = next(iter(counts))
    publish([report_of("scaling", measured, base=base, unit="video", per_call=1, beside=beside)], options.json)


if __name__ == "__main__":
    run_entry(main)
