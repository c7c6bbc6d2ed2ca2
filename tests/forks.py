"""Entries of both stages as processes of their own that start at once: forks of a server that has imported what they need."""

import importlib.util
import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

STAGES = {
    "train, stage 1": "bbox_sub.train",
    "train, stage 2": "metric_sub.train",
    "infer, stage 1": "bbox_sub.infer",
    "infer, stage 2": "metric_sub.infer",
    "infer": "infer",
}
TRAIN = ["train, stage 1", "train, stage 2"]
BY_STAGES = [*TRAIN, "infer, stage 1", "infer, stage 2"]
AT_ONCE = [*TRAIN, "infer"]  # both stages of infer in one process, as run.sh runs them; the files are the same
IMPORTED_LATE = ["matplotlib.figure", "pycocotools.cocoeval", "torch.utils.tensorboard"]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([*STAGES.values(), *IMPORTED_LATE])


def start_stage(stage: str, arguments: list[str], log: Path) -> BaseProcess:
    """Starts one of STAGES as its `python -m` would run; stdout and stderr are added to `log`."""
    process = _server.Process(target=_enter, args=(stage, [*map(str, arguments)], log))
    process.start()
    return process


def run_stages(stages: list[str], arguments: list[str], log: Path) -> int:
    """Runs STAGES one after the other until one fails; gives its exit code, or 0."""
    for stage in stages:
        process = start_stage(stage, arguments, log)
        process.join()
        if process.exitcode:
            return process.exitcode
    return 0


def _enter(stage: str, arguments: list[str], log: Path) -> None:
    os.setsid()  # a session of its own, as a terminal's command is
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server's forks leave it aside
    file = importlib.util.find_spec(STAGES[stage]).origin
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")
