"""Who may use a work folder now: one run alone, or several that read; the lock tells of the run, and goes with its process."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, StrictStr

from shared.errors import UserError
from shared.files import open_own, remove_leftovers
from shared.journal import logged_to, note
from shared.machine import made_with
from shared.parse import parse_json

log = logging.getLogger("work")

# What a run makes folders of in a work folder, beside weights, which may be a link, as its models may.
FOLDERS = (
    *("media", "detections", "embeddings", "index", "matches", "frames", "crops"),
    *("evaluation", "calibration", "find", "preview", "preview_detector"),
)
LOCK = ".lock"
LOCK_TRIES, LOCK_PAUSE_S = 6, 0.1  # `status` looks at a lock by holding it for a moment


@contextlib.contextmanager
def locked(work: Path) -> Iterator[None]:
    """Holds the work folder for this process alone, and logs to <work>/log.jsonl meanwhile.

    Raises UserError as `held` and `refuse_links` do, and where the folder cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(work, error) from None
    with held(work):
        refuse_links(work)
        try:
            # deeper ones are of steps, which look for themselves
            remove_leftovers(work)
            for folder in (*FOLDERS, "weights"):
                for pattern in (".*.tmp", "*/.*.tmp"):
                    remove_leftovers(work / folder, pattern)
            remove_leftovers(work / "weights", "*/*/.*.tmp")
            journal = contextlib.ExitStack()
            journal.enter_context(logged_to(work))
        except OSError as error:
            raise _unwritable(work, error) from None
        with journal:
            command = sys.orig_argv[1:]
            note("run", f"begins: {' '.join(command)}", state="begun", command=command, made_with=made_with())
            try:
                yield
            except BaseException as error:
                said = str(error) or type(error).__name__
                note("run", f"ends early: {said}", state="failed", error=type(error).__name__, reason=said)
                raise
            note("run", "ends well", state="finished")


def refuse_links(work: Path) -> None:
    """Raises UserError where a folder that runs write into is a symbolic link: what is outside of the work folder would be
    overwritten and removed. The work folder itself may be one."""
    for name in FOLDERS:
        linked = [work / name] if (work / name).is_symlink() else []
        for folder, below, _ in os.walk(work / name):
            linked += [path for path in (Path(folder, each) for each in below) if path.is_symlink()]
        if linked:
            raise UserError(
                f"{linked[0]}: expected a folder, found a symbolic link, which is not followed out of a work folder. Remove the link and run "
                "again, or name another folder with --work, which may be a link itself."
            )


@contextlib.contextmanager
def held(folder: Path, shared: bool = False, what: str = "work folder", option: str = "--work") -> Iterator[None]:
    """Holds a folder's lock: alone, to write, or `shared` with others that hold it so, to read what no one changes meanwhile.

    The system frees the lock when the process ends, however it ends: its forks do not keep it. Raises UserError where another
    process holds it, where its lock is a symbolic link and, not shared, where the folder cannot be written; the message calls it
    `what`, named by `option`. On a file system without locks it warns and goes on.
    """
    path = folder / LOCK
    try:
        file = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if not shared:
            raise _unwritable(folder, error, what, option) from None
        try:
            file = open_own(path, os.O_RDONLY)
        except OSError:  # a folder that has no lock and takes none is written by no one
            yield
            return
    lock = os.fdopen(file, "rb" if shared else "r+b", buffering=0)
    # A data worker or another fork would hold the lock for as long as it outlives a killed parent.
    os.register_at_fork(after_in_child=lock.close)
    with lock:
        if not _lock(lock, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            raise UserError(
                f"{folder}: another run is using this {what}{_holder_in_words(folder)}. Wait for it, or name another with {option}."
            )
        if not shared:
            about = {"pid": os.getpid(), "host": socket.gethostname(), "command": sys.orig_argv[1:], "since": time.time()}
            lock.truncate(0)
            lock.write(json.dumps(about).encode())
        yield


def _unwritable(folder: Path, error: OSError, what: str = "work folder", option: str = "--work") -> UserError:
    return UserError(
        f"{folder}: the {what} cannot be written ({error.strerror}). Name another with {option}, or make this one writable."
    )


def _lock(file, folder: Path, how: int) -> bool:
    """Whether the lock was free; on a file system without locks nothing else can be said."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            time.sleep(LOCK_PAUSE_S)
        except OSError as error:
            log.warning(
                "%s: its file system knows no locks (%s): see for yourself that no other run uses it", folder, error.strerror
            )
            return True
    return False


class _Holder(BaseModel):
    pid: Annotated[int, Field(strict=True, ge=1)]
    host: StrictStr
    command: list[StrictStr]
    since: Annotated[float, Field(strict=True, ge=0, le=1e11)]  # seconds; what lies beyond is no date


def holder(folder: Path) -> dict | None:
    """{pid, host, command, since} of the process that last held the folder alone, whether or not it does now; None where the lock
    does not tell, or is damaged."""
    try:
        return _Holder.model_validate(parse_json((folder / LOCK).read_bytes())).model_dump()
    except (OSError, ValueError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder alone now. Writes nothing; the folder may be read-only."""
    try:
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock there, or a file system without any: as far as one can see, no
        return False
    return False


def _holder_in_words(folder: Path) -> str:
    if not is_held(folder):  # those who share it write nothing into the lock: it tells of a run that has ended
        return " (a report, find or export-coco reads it)"
    about = holder(folder)
    if about is None:
        return ""
    since = time.strftime("%H:%M:%S", time.localtime(about["since"]))
    return f" (process {about['pid']} on {about['host']}, since {since})"
