"""Work folders: one folder per step, built part by part, finished by a manifest that is written last.

A step's fingerprint is a hash of all that it depends on. Equal fingerprint and a manifest: the step is reused. Equal
fingerprint and no manifest: it goes on at the first missing part. Another fingerprint: it is rebuilt. Every file is
written beside its place, flushed, and renamed, and the folder's entry is flushed too, so that a file with its final name is
whole, and what was written after it is not there without it, even where the power fails.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, StrictBool, StrictStr, ValidationError

from shared.columns import check_columns
from shared.errors import UserError, first_fault, printable
from shared.journal import logged_to, note, open_own
from shared.machine import made_with
from shared.parse import parse_json

log = logging.getLogger("work")

SCHEMA_VERSION = 1
# What a run makes folders of in a work folder, beside weights, which may be a link, as its models may.
FOLDERS = (
    *("media", "detections", "embeddings", "index", "matches", "frames", "crops"),
    *("evaluation", "calibration", "find", "preview"),
)
LOCK = ".lock"
LOCK_TRIES, LOCK_PAUSE_S = 6, 0.1  # `status` looks at a lock by holding it for a moment


def fingerprint(depends: object) -> str:
    """The SHA-256 of a JSON-able value (mappings in sorted order)."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def table_fingerprint(table: pd.DataFrame) -> str:
    """The SHA-256 of a table's column names and values, in its order."""
    return hashlib.sha256(
        table.to_json(orient="split", index=False, double_precision=15, force_ascii=False).encode()
    ).hexdigest()


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
        _flush_folder(path.parent)
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


def _flush_folder(folder: Path) -> None:
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


class _Skipped(BaseModel):
    media_id: StrictStr
    reason: StrictStr
    again: StrictBool = False


class _Manifest(BaseModel):
    fingerprint: StrictStr
    rows: Annotated[int, Field(strict=True, ge=0)]
    skipped: list[_Skipped]
    seconds: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0
    depends: dict


def worth_another_try(skipped: list[dict]) -> list[str]:
    """The media_ids of what was skipped for a reason that may pass (`MediaError.again`)."""
    return [entry["media_id"] for entry in skipped if entry.get("again")]


def refuse_first(skipped: list[dict]) -> None:
    """Raises UserError for the first of what was skipped, if anything was."""
    if skipped:
        raise UserError(
            f"{printable(skipped[0]['media_id'])}: {skipped[0]['reason']}. --strict stops here; without it such files are "
            "left out, and listed at the end."
        )


class Step:
    """One folder of the work folder.

    `done` tells whether it stands already; else call `build_parts` for each part's table in turn and `finish`.
    `table()` reads what a finished step holds.

    With `keep_before`, a finished step of another fingerprint is moved to `<folder>.before` until this one is finished:
    `units.UnitStep` takes from there what has not changed.

    With `strict`, nothing may be skipped: what a part skipped, now or before, raises UserError.
    """

    def __init__(
        self, folder: Path, depends: dict, fresh: bool = False, keep_before: bool = False, strict: bool = False
    ):
        self._is_of(folder, depends)
        self._strict = strict
        begun_path = folder / "begun.json"
        made = _fingerprint_of(self._manifest_path)
        # A manifest counts before what was begun: `depend_also_on` may have made another of it.
        if fresh or self.fingerprint != (made or _fingerprint_of(begun_path)):
            if keep_before and not fresh and made:
                _remove(self.before)
                os.replace(folder, self.before)
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.done = _fingerprint_of(self._manifest_path) == self.fingerprint
        if begun_path.exists():
            _remove_what_a_kill_left(folder, self.done)
        else:
            write_json(begun_path, {"fingerprint": self.fingerprint})
        if keep_before and (fresh or self.done):
            _remove(self.before)
        if self.done:
            # what is worth another try is refused only where that fails too
            self.refuse_skipped([entry for entry in self.manifest["skipped"] if not entry.get("again")])
            log.info("%s: reused (%d rows)", folder, self.manifest["rows"])
        else:
            note("step", f"{folder}: begins", step=str(folder), state="begun")

    @classmethod
    def finished(cls, folder: Path, depends: dict) -> "Step":
        """A step that is known to be finished; neither it nor anything else is written."""
        step = cls.__new__(cls)
        step._is_of(folder, depends)
        step.done = True
        return step

    def _is_of(self, folder: Path, depends: dict) -> None:
        self.folder = folder
        self._strict = False
        self.before = folder.with_name(f"{folder.name}.before")
        self.fingerprint = fingerprint({"schema": SCHEMA_VERSION, **depends})
        self._depends = depends
        self._started = time.monotonic()
        self._manifest_path = folder / "manifest.json"

    @property
    def manifest(self) -> dict:
        """What the finished step says of itself. Raises UserError where that is no manifest."""
        try:
            tree = parse_json(self._manifest_path.read_bytes())
            _Manifest.model_validate(tree)
            return tree
        except (OSError, ValueError) as error:
            said = first_fault(error) if isinstance(error, ValidationError) else error
            raise UserError(f"{self._manifest_path}: not a manifest ({said}). Remove {self.folder} and run again.") from None

    def depends_on(self, *keys: str) -> object:
        """What the manifest says that the finished step was made with. Raises UserError where it does not say that."""
        node = self.manifest["depends"]
        for key in keys:
            if not isinstance(node, dict) or key not in node:
                raise UserError(f"{self._manifest_path}: made by another version of vid2shop: expected depends.{'.'.join(keys)}. Run infer again.")
            node = node[key]
        return node

    def build_parts(
        self, n_parts: int, build: Callable[[int], tuple[dict[str, pd.DataFrame | np.ndarray], list[dict]]]
    ) -> None:
        """Builds the parts that are missing. `build(k)` gives part k: {name: table or array} and a list of what was skipped.

        A DataFrame becomes parts/<k>.<name>.parquet, an array parts/<k>.<name>.npy.
        """
        self.tell_kept(n_parts)
        for k in range(n_parts):
            if not self.part_stands(k):
                self.write_part(k, *build(k))

    def tell_kept(self, n_parts: int) -> None:
        """Logs how many parts an interrupted run left."""
        kept = sum(map(self.part_stands, range(n_parts)))
        if kept:
            log.info("%s: goes on, %d of %d parts are there", self.folder, kept, n_parts)
        for k in filter(self.part_stands, range(n_parts) if self._strict else ()):
            self.refuse_skipped(self._skipped_of(k))

    def write_part(self, k: int, tables: dict[str, pd.DataFrame | np.ndarray], skipped: list[dict]) -> None:
        """Writes part k, as `build_parts` has it of `build`."""
        self.refuse_skipped(skipped)
        (self.folder / "parts").mkdir(exist_ok=True)
        for name, table in tables.items():
            _write_table(self._part_path(k, name, suffix_of(table)), table)
        write_json(self._part_path(k, "skipped", ".json"), skipped)  # last: with it the part is whole
        for entry in skipped:
            note("skipped", f"{entry['media_id']}: skipped: {entry['reason']}", step=str(self.folder), **entry)

    def read_part(self, k: int, name: str, empty: pd.DataFrame | np.ndarray) -> pd.DataFrame | np.ndarray:
        """A table or array, of the kind of `empty`, of part k, which stands."""
        return read_table(self._part_path(k, name, suffix_of(empty)))

    def standing(self, n_rows: int, size: int) -> int:
        """How many of `n_rows`, which make parts of `size` rows, an interrupted run left built: where a progress bar begins."""
        return sum(len(range(n_rows)[part]) for k, part in enumerate(chunks(n_rows, size)) if self.part_stands(k))

    def part_stands(self, k: int) -> bool:
        """Whether part k was built, whole, by this or an interrupted run."""
        return self._part_path(k, "skipped", ".json").exists()

    def drop_part(self, k: int) -> None:
        """Has part k built again."""
        self._part_path(k, "skipped", ".json").unlink()

    def drop_before(self) -> None:
        """Removes the step before, from which nothing more is taken."""
        _remove(self.before)

    def depend_also_on(self, found: dict) -> None:
        """Adds what the step turned out to depend on while it was built, before `finish`: its fingerprint is another then."""
        self._depends = {**self._depends, **found}
        self.fingerprint = fingerprint({"schema": SCHEMA_VERSION, **self._depends})

    def finish(
        self, n_parts: int, names: list[str], empty: dict[str, pd.DataFrame | np.ndarray], facts: dict | None = None
    ) -> None:
        """Joins the parts of every name into <name>.parquet or <name>.npy, writes the manifest, drops the parts.

        `empty` gives each name's table without rows, for a step without parts.
        """
        for name in names:
            suffix = suffix_of(empty[name])
            tables = [self.read_part(k, name, empty[name]) for k in range(n_parts)]
            path = self.folder / f"{name}{suffix}"
            if suffix == ".npy":
                arrays = [table for table in tables if len(table)] or [empty[name]]
                write_whole(path, lambda beside, arrays=arrays: _save_arrays(beside, arrays))
            else:
                _write_table(path, joined(tables, empty[name]))
            rows = sum(len(table) for table in tables)
        self._write_manifest(rows, self.skipped_in_parts(n_parts), facts)
        shutil.rmtree(self.folder / "parts", ignore_errors=True)

    def amend(self, name: str, tried: Iterable[str], found: pd.DataFrame, skipped: list[dict], order: Iterable[str]) -> None:
        """Puts what came of another try with the media `tried` into the finished step, whose one table is `name`.

        found: the rows of those that could be read; skipped: the entries of the others. Rows and entries then are in the order
        of the media_ids `order`, as if all had been read at once; what is not among these is no medium and stands before them.
        """
        manifest, place, tried = self.manifest, {media_id: number for number, media_id in enumerate(order)}, set(tried)
        kept = [entry for entry in manifest["skipped"] if entry["media_id"] not in tried]
        skipped = sorted(kept + skipped, key=lambda entry: place.get(entry["media_id"], -1))
        if skipped == manifest["skipped"]:
            return
        table = self.table(name)
        table = joined([table[~table.media_id.isin(tried)], found], table.iloc[:0])
        table = table.sort_values("media_id", key=lambda ids: ids.map(place), kind="stable", ignore_index=True)
        _write_table(self.folder / f"{name}.parquet", table)  # first: with the manifest before it, it would be tried once more
        self._write_manifest(len(table), skipped, None)

    def write(self, tables: dict[str, pd.DataFrame], skipped: list[dict] = (), facts: dict | None = None) -> None:
        """Writes a step that is made in one go; the row count is that of the first table."""
        for name, table in tables.items():
            _write_table(self.folder / f"{name}.parquet", table)
        self._write_manifest(len(next(iter(tables.values()))), list(skipped), facts)

    def write_file(self, name: str, write: Callable[[Path], None], rows: int) -> None:
        """Writes a step that is one file of another kind, <folder>/<name>; `write` writes it to the path that it is given."""
        write_whole(self.folder / name, write)
        self._write_manifest(rows, [], None)

    def table(self, name: str, columns: Mapping[str, str] = MappingProxyType({})) -> pd.DataFrame:
        """A table of the step, in which these columns are as `check_columns` wants them. Raises UserError where it is damaged."""
        path = self.folder / f"{name}.parquet"
        return check_columns(read_table(path), columns, path)

    def vectors(self, name: str = "vectors") -> np.ndarray:
        """(N, D) float32, memory-mapped, where it has rows. Raises UserError where it is damaged, or N is not the step's rows."""
        path, n_rows = self.folder / f"{name}.npy", self.manifest["rows"]
        vectors = read_table(path)
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != n_rows:
            raise UserError(
                f"{path}: expected float32 of shape ({n_rows}, D), found {vectors.dtype} of {vectors.shape}. Remove {self.folder} and run again."
            )
        return vectors

    def refuse_skipped(self, skipped: list[dict]) -> None:
        """Raises UserError for the first of what was skipped, where the step is strict."""
        if self._strict:
            refuse_first(skipped)

    def skipped_in_parts(self, n_parts: int) -> list[dict]:
        """What the parts, which all stand, skipped."""
        return [entry for k in range(n_parts) for entry in self._skipped_of(k)]

    def _skipped_of(self, k: int) -> list[dict]:
        return json.loads(self._part_path(k, "skipped", ".json").read_text(encoding="utf-8"))

    def _part_path(self, k: int, name: str, suffix: str) -> Path:
        return self.folder / "parts" / f"{k:05d}.{name}{suffix}"

    def _write_manifest(self, rows: int, skipped: list[dict], facts: dict | None) -> None:
        write_json(
            self._manifest_path,
            {
                "schema": SCHEMA_VERSION,
                "fingerprint": self.fingerprint,
                "rows": rows,
                "skipped": skipped,
                "seconds": round(time.monotonic() - self._started, 2),
                "made_with": made_with(),
                "depends": self._depends,
                **(facts or {}),
            },
        )
        note(
            "step",
            f"{self.folder}: finished, {rows} rows",
            step=str(self.folder),
            state="finished",
            rows=rows,
            skipped=len(skipped),
            seconds=round(time.monotonic() - self._started, 2),
        )


def read_step(folder: Path) -> Step:
    """A finished step that an earlier stage left; reading changes nothing.

    Raises UserError where it is missing, not finished, or made by another version.
    """
    manifest = folder / "manifest.json"
    found = _fingerprint_of(manifest)
    if found is None:
        raise UserError(
            f"{folder}: not finished (no manifest.json). Run stage 1 on this work folder first: `bash run.sh infer` runs both."
        )
    depends = Step.finished(folder, {}).manifest["depends"]
    if found != fingerprint({"schema": SCHEMA_VERSION, **depends}):  # Step would clear the folder to build it anew
        raise UserError(f"{folder}: made by another version of vid2shop. Run stage 1 on this work folder again.")
    return Step.finished(folder, depends)


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


def _remove_what_a_kill_left(folder: Path, done: bool) -> None:
    if done:  # killed after its manifest was written
        shutil.rmtree(folder / "parts", ignore_errors=True)
    else:
        remove_leftovers(folder, "**/.*.tmp")


def _remove(folder: Path) -> None:
    """Removes a step, first what says that it is or was being made: what a kill leaves over counts as nothing."""
    if folder.exists():
        for name in ("manifest.json", "begun.json"):
            (folder / name).unlink(missing_ok=True)
        _flush_folder(folder)
        shutil.rmtree(folder)


def chunks(n_rows: int, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover n_rows, in order."""
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _fingerprint_of(path: Path) -> str | None:
    try:
        found = parse_json(path.read_bytes())["fingerprint"]
        return found if isinstance(found, str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def joined(tables: list[pd.DataFrame | np.ndarray], empty: pd.DataFrame | np.ndarray) -> pd.DataFrame | np.ndarray:
    """Tables or arrays one after the other; `empty`, one without rows, tells their kind."""
    tables = [table for table in tables if len(table)] or [empty]
    return pd.concat(tables, ignore_index=True) if isinstance(empty, pd.DataFrame) else np.concatenate(tables)


def suffix_of(table: pd.DataFrame | np.ndarray) -> str:
    """How the file of a table or an array ends."""
    return ".parquet" if isinstance(table, pd.DataFrame) else ".npy"


def _write_table(path: Path, table: pd.DataFrame | np.ndarray) -> None:
    if isinstance(table, pd.DataFrame):
        write_whole(path, lambda beside: table.to_parquet(beside, index=False))
    else:
        write_whole(path, lambda beside: _save_array(beside, table))


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would add .npy to the name
        np.save(file, array)


def _save_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    """Writes what np.save would of all arrays joined, one after the other: joined they may not fit in memory."""
    first = arrays[0]
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, *first.shape[1:]), first.dtype))
    header["shape"] = (sum(len(array) for array in arrays), *first.shape[1:])
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)


def read_table(path: Path) -> pd.DataFrame | np.ndarray:
    """A table of a step's folder, or an array, memory-mapped where it has rows. Raises UserError where it is damaged."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # pyarrow and numpy raise whatever the bytes made them stumble over
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {error!s:.200}). Remove {path.parent} and run again, or run with --fresh."
        ) from None
