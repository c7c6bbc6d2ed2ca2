"""Work folders: one folder per step, built part by part, finished by a manifest that is written last.

A step's fingerprint is a hash of all that it depends on. Equal fingerprint and a manifest: the step is reused. Equal
fingerprint and no manifest: it goes on at the first missing part. Another fingerprint: it is rebuilt. Every file is whole
(shared/files.py), and one run at a time changes a work folder (shared/lock.py).
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, StrictBool, StrictStr, ValidationError

from shared.columns import check_columns
from shared.errors import UserError, first_fault, printable
from shared.files import flush_folder, remove_leftovers, write_json, write_whole
from shared.journal import note
from shared.machine import made_with
from shared.parse import parse_json

log = logging.getLogger("work")

SCHEMA_VERSION = 1
EARLIER = "earlier"  # the folder, in that of the weights, of what trainings wrote over (shared/earlier.py)


def fingerprint(depends: object) -> str:
    """The SHA-256 of a JSON-able value (mappings in sorted order)."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def table_fingerprint(table: pd.DataFrame) -> str:
    """The SHA-256 of a table's column names and values, in its order."""
    return hashlib.sha256(
        table.to_json(orient="split", index=False, double_precision=15, force_ascii=False).encode()
    ).hexdigest()


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
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != n_rows or n_rows and not vectors.size:
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
        flush_folder(folder)
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
