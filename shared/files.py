"""Files that are whole or not there, and files that are opened without following a link.

A file is written beside its place, flushed, and renamed, and the folder's entry is flushed too, so that a file with its final
name is whole, and what was written after it is not there without it, even where the power fails.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

from shared.errors import UserError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a name beside `path`, flushes that file to the disk, renames it to `path`, and flushes the folder.

    A pipe or a device, such as /dev/stdout, is written as it is. Raises OSError that names `path` where the disk is full or
    refuses, whatever error the library that writes makes of that.
    """
    if _is_stream(path):
        write(path)
        return
    # the name in front is cut: with what is added to it, it could be longer than a file system allows
    beside = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:180])}.{os.getpid()}.tmp")
    try:
        try:
            write(beside)
        except OSError:
            raise
        except Exception as error:  # libraries tell of a full disk by errors of their own
            _raise_what_the_disk_said(error)
            _write_probe(beside)
            raise
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
        flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    """Whether the path is a pipe, a device or an open file of this process, which has no place beside it."""
    if path.parent in (Path("/dev"), Path("/dev/fd")):  # not /dev/shm/..., which is a disk
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def _raise_what_the_disk_said(error: BaseException | None) -> None:
    """Raises the OSError that an error of a library was made of, if it tells."""
    while error is not None:
        if isinstance(error, OSError):
            raise error
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = error.__cause__ or error.__context__


def _write_probe(path: Path) -> None:
    """Raises the OSError that writing to `path` gives now, if any."""
    with open(path, "ab") as file:
        file.write(bytes(1 << 16))
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Makes the folder's entries last. Some file systems cannot, and need not."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(file)


def remove_leftovers(folder: Path, pattern: str = ".*.tmp") -> None:
    """Removes what `write_whole` was writing in `folder` when its process was killed. `pattern`: where to look.

    What a living process writes, one that needs no lock for it, stays; this process writes nothing yet.
    """
    for path in list(folder.glob(pattern)):
        process = path.name.split(".")[-2]
        if process.isdecimal() and (int(process) == os.getpid() or not _alive(int(process))):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether a process of that id runs on this machine (or in this container)."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_torch(path: Path, state: dict) -> None:
    """A whole file of torch.save's. torch writes through a file of Python's: its own would not tell that the disk is full."""
    import torch  # here, since most of what imports this module needs no torch

    def write(beside: Path) -> None:
        with open(beside, "wb") as file:
            torch.save(state, file)

    write_whole(path, write)


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def open_own(path: Path, flags: int) -> int:
    """os.open for a file that belongs into its folder. Raises UserError where it is a symbolic link: a work folder of others must
    not lead to a file outside of it, which would be written."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: expected a file, found a symbolic link, which is not followed. Remove it and run again.") from None
        raise
