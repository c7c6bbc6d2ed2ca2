"""What the entry points share: their options, their log, and how they end."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from shared.config import Config, load_config
from shared.errors import UserError

STRICT = "--strict", "stop at the first file that cannot be used, with exit 1", {"action": "store_true"}
DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "configs" / "cpu.yaml"


def parse_options(description: str, argv: list[str] | None, *extra: tuple) -> argparse.Namespace:
    """The options of every entry (config, data, work, weights, fresh, overrides) plus `extra`: (name, help) for a path,
    (name, help, what argparse is to know) for another.

    Paths come as `Path`; `weights` defaults to `<work>/weights`; `config` defaults to the one that the weights were trained
    with, where they have one, else to configs/cpu.yaml.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="the data set's folder or COCO file (default: data)"
    )
    parser.add_argument("--work", type=Path, default=Path("work"), help="where steps keep their files (default: work)")
    parser.add_argument("--weights", type=Path, help="the models' folder (default: <work>/weights)")
    parser.add_argument("--fresh", action="store_true", help="rebuild what is already there")
    for name, text, *more in extra:
        parser.add_argument(name, help=text, **(more[0] if more else {"type": Path}))
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(argv)
    options.weights = options.weights or options.work / "weights"
    if options.config is None:
        trained_with = options.weights / "config.yaml"
        options.config = trained_with if trained_with.is_file() else DEFAULT_CONFIG
    return options


def config_of(options: argparse.Namespace) -> Config:
    return load_config(options.config, options.overrides)


def use_threads(n_threads: int) -> int:
    """Bounds torch's, OpenCV's and FAISS's threads; 0 takes every core this process may use, or its share of them where
    several processes train together. Gives the number."""
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set by accelerate's launcher
    n_threads = n_threads or max(1, len(os.sched_getaffinity(0)) // beside)
    if "torch" in sys.modules:
        # Gradients and young batch norms make numbers near 1e-38, which a CPU handles a hundred times slower than zeros.
        sys.modules["torch"].set_flush_denormal(True)
        sys.modules["torch"].set_num_threads(n_threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(n_threads)
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(n_threads)
    return n_threads


def run_entry(main: Callable[[], object]) -> None:
    """Runs an entry's main: logs to stderr, a UserError becomes its message and exit 1, Ctrl-C exit 130."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for library in ("accelerate", "faiss", "PML"):  # PML: pytorch-metric-learning
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        main()
    except UserError as error:
        # torch hands on what a data worker raised with the worker's traceback in front of the message
        print(f"error: {str(error).rpartition('UserError: ')[2]}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(
            f"error: {error}. Mend that (a full disk? a missing permission?) and run the same command again.",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
