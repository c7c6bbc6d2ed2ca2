"""What the entry points share: their options, their log, and how they end."""

import argparse
import contextlib
import ctypes
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from shared.config import Config, load_config
from shared.errors import UserError, printable
from shared.journal import EVENTS

STRICT = "--strict", "stop at the first file that cannot be used, with exit 1", {"action": "store_true"}
AGAIN_S = 5.0  # until an interrupt that was not heard is raised again
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
    for name, path in vars(options).items():
        if isinstance(path, Path) and printable(path).encode() != os.fsencode(path):
            raise UserError(f"--{name} {printable(path)}: expected a name of valid UTF-8 in one line. Rename it, or name a link to it.")
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


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def run_entry(main: Callable[[], object], lower: str = "the batch size or the size of the pictures") -> None:
    """Runs an entry's main: logs to stderr, and every end that a user can cause is a sentence there, without a traceback.

    UserError, a full disk or a missing permission, no memory, a killed data worker: exit 1. Ctrl-C: exit 130; SIGTERM: exit 143.
    lower: the keys of the config to lower where memory runs out, in words.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name != EVENTS)  # those are for the work folder's log
    for library in ("accelerate", "faiss", "PML"):  # PML: pytorch-metric-learning
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with _interruptible():
            _end_with_the_door()
            main()
    except (Exception, KeyboardInterrupt) as error:
        if interrupt := _interrupt_behind(error):
            if os.environ.get("LOCAL_RANK", "0") == "0":  # of processes that train together, one says it
                print(f"interrupted; what was finished is kept, {_again()} goes on from there", file=sys.stderr)
            sys.exit(143 if isinstance(interrupt, Terminated) else 130)
        if isinstance(error, UserError):
            # torch hands on what a data worker raised with the worker's traceback in front of the message
            _fail(str(error).rpartition("UserError: ")[2])
        words = _in_words(error, lower)
        if words is None:
            raise
        _fail(f"{words} What was finished is kept, {_again()} goes on from there.")


def _again() -> str:
    """What to run to go on. With --fresh it would begin anew."""
    return "the same command without --fresh" if "--fresh" in sys.argv else "the same command"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM raises Terminated, Ctrl-C KeyboardInterrupt, where it is not ignored, and again every few seconds until it is heard:
    Python drops an exception that happens to be raised in a finalizer."""
    kinds = {signal.SIGTERM: Terminated, signal.SIGINT: KeyboardInterrupt}
    asked: list[type[KeyboardInterrupt]] = []

    def interrupt(number: int, _: object) -> None:
        if number in kinds:
            asked[:] = [kinds[number]]
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise asked[0]

    before = {number: signal.getsignal(number) for number in (*kinds, signal.SIGALRM)}
    if before[signal.SIGINT] == signal.SIG_IGN:  # a script's background command leaves Ctrl-C to others
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, interrupt)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error is or was raised in the course of: torch.save, interrupted, raises one of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _end_with_the_door() -> None:
    """Asks the system for SIGTERM when run.sh, which names itself in VID2SHOP_DOOR, is killed: else this process would work on."""
    door = os.environ.get("VID2SHOP_DOOR", "")
    if door.isdecimal():
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if not Path("/proc", door).exists():
            raise Terminated


def _fail(words: str) -> None:
    print(f"error: {words}", file=sys.stderr)
    sys.exit(1)


OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "bad allocation", "Insufficient memory")


def _in_words(error: Exception, lower: str) -> str | None:
    """What the user can do about an error that the machine causes; None for any other."""
    said = str(error).strip().partition("\n")[0]
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(words in str(error) for words in OUT_OF_MEMORY):
        return f"memory ran out ({said or 'MemoryError'}). Lower {lower}, or end other programs."
    if isinstance(error, RuntimeError) and "DataLoader worker" in said:  # torch tells it so, in the middle of whatever runs
        return (
            f"a process that prepares the batches was killed, as the system does where memory or /dev/shm runs out ({said}) "
            f"Lower {lower}, or end other programs."
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}. Free some space."
    if isinstance(error, OSError):
        return f"{error}. Mend that (a missing permission? a disk that is gone?)."
    return None
