"""python -m sample DIR: draws the sample data set."""

import argparse
from pathlib import Path

import cv2

from sample.write import Settings, write_dataset
from shared.cli import run_entry

DESCRIPTION = """Draws a data set to try the pipeline on: invented products (clothing, bags, bottles, shoes ...), photos of each and a live clip that shows it,
with exact boxes. Many items have siblings that differ only in colour, print or texture. Parts: train 70 %, validation 10 %, test 20 %."""


def main(argv: list[str] | None = None) -> None:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m sample",
        description=DESCRIPTION,
        epilog="Progress goes to stderr. The same seed gives the same data set. An interrupted run goes on where it stopped.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="a new or empty folder, or one of an earlier sample, which is then replaced")
    parser.add_argument("--items", type=int, default=default.items, help="items of the catalogue over all parts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="another seed draws other products (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=default.frames, help="frames of a video, at 25 per second (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: %(default)s); the result does not depend on it")
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    write_dataset(options.dir, Settings(options.items, options.seed, options.frames), options.workers)


if __name__ == "__main__":
    run_entry(main, lower="--workers")
