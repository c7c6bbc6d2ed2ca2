"""A training in several processes: starts them, lets the main one prepare for all, and ends them together.

`python -m shared.processes N MODULE ARGUMENTS...` starts MODULE in N processes of this machine through accelerate's launcher;
with N = 1 it becomes MODULE.
"""

import contextlib
import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import broadcast_object_list
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from shared.cli import Terminated, run_entry
from shared.errors import UserError

Made = TypeVar("Made")

PATIENCE = datetime.timedelta(days=7)  # processes wait while the main one cuts frames or evaluates


def main(argv: list[str] | None = None) -> None:
    """Starts the processes. Exits with 1 where one of them fails: what was wrong, that process has said."""
    n_processes, module, *arguments = sys.argv[1:] if argv is None else argv
    if n_processes == "1":
        os.execv(sys.executable, [sys.executable, "-m", "shared.start", module, *arguments])
    if 0 < torch.cuda.device_count() < int(n_processes):
        raise UserError(
            f"PROCESSES: expected {torch.cuda.device_count()} or fewer, a GPU for each, found {n_processes}."
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    options += ["--multi_gpu", f"--num_processes={n_processes}"]  # so is it called on CPUs as well
    try:
        launch_command(launch_command_parser().parse_args([*options, "--module", "shared.start", module, *arguments]))
    except ChildFailedError:
        sys.exit(1)
    except SignalException as ended:
        raise (Terminated if ended.sigval == signal.SIGTERM else KeyboardInterrupt) from ended


@contextlib.contextmanager
def several_processes() -> Iterator[PartialState]:
    """This process's place among those that were started together; alone, it is the main one.

    All but the main one are silent. A process that loses another one raises UserError, since that one has said why.
    """
    # without cpu=True accelerate would take each process of a machine without a GPU for a run of its own
    cpu = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if not state.is_main_process:
        logging.disable(logging.ERROR)
        os.environ["VID2SHOP_QUIET"] = "1"
    try:
        yield state
        state.wait_for_everyone()
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):
            raise UserError("another process of this training ended; see what it said.") from None
        raise
    finally:
        state.destroy_process_group()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows (B, ...) of all processes in one tensor (n * B, ...), as they lie in the batch of which each process has every nth.

    Every process must come to the same loss by them: a row's gradient is then that loss's times the number of processes, of
    which the mean over the processes' weights, as DistributedDataParallel takes it, is the loss's own.
    """
    return rows if PartialState().num_processes == 1 else _GatheredRows.apply(rows)


class _GatheredRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        found = [torch.empty_like(rows) for _ in range(PartialState().num_processes)]
        torch.distributed.all_gather(found, rows.contiguous())
        return torch.stack(found, dim=1).flatten(0, 1)  # (n * B, ...)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        state = PartialState()
        return gradient[state.process_index :: state.num_processes] * state.num_processes


def from_main(make: Callable[[], Made]) -> Made:
    """What `make` gives, called in the main process alone and sent to the others. Where it raises, the others end too."""
    state = PartialState()
    outcome = [None, False]  # the value, whether it was made
    try:
        if state.is_main_process:
            outcome = [make(), True]
    finally:
        if state.num_processes > 1:
            broadcast_object_list(outcome)
    if not outcome[1]:
        sys.exit(1)
    return outcome[0]


if __name__ == "__main__":
    run_entry(main)
