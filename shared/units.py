"""What inference works through: units (an item's photos, or a video) that are detected and embedded each by itself.

A unit's boxes and vectors depend on nothing but that unit, so that a run that was interrupted or a data set that has grown
gives the bits of an undisturbed run over all of it.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from shared.errors import UserError
from shared.media import MediaError
from shared.reader import Reader
from shared.tables import BOX
from shared.work import SCHEMA_VERSION, Step, chunks, joined, read_table, suffix_of, worth_another_try

KINDS = ("photos", "videos")
UNITS_PER_PART = {"photos": 8, "videos": 4}
ASKED_AHEAD = 2  # units that the reader is asked for before the one that is being read has come
AGAIN = "again"  # the mark of a unit of which something was skipped for a reason that may pass
NO_UNITS = pd.DataFrame({"mark": pd.Series(dtype="str"), "rows": pd.Series(dtype="int64")})

Tables = dict[str, pd.DataFrame | np.ndarray]


class Unit(NamedTuple):
    """An item's photos or a video: its place among those of its kind, and its rows of the media table of that kind."""

    kind: str  # one of KINDS
    number: int
    of_kind: pd.DataFrame
    rows: slice

    @property
    def media(self) -> pd.DataFrame:
        """Cut out when asked for: a table of its own for each of many units would fill the memory."""
        return self.of_kind.iloc[self.rows].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Picture:
    """One photo or frame of a unit. `found` are the boxes that stage 1 keeps of it, (N, 4) float32 xyxy, once they are known."""

    unit: Unit
    medium: tuple  # a named tuple: the row of the media table
    frame_index: int
    image_rgb: np.ndarray
    found: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.image_rgb.nbytes


@dataclass(frozen=True, eq=False)
class UnitEnd:
    """After a unit's pictures: its detections, once they are known, and the media that could not be read."""

    unit: Unit
    detections: pd.DataFrame | None
    skipped: list[dict]
    nbytes: int = 2**16  # more than its table takes; of ends that follow one another, too, no more than some wait


class Job(NamedTuple):
    """A unit to be worked on. Without detections all its pictures are read; with them those that have boxes, or none."""

    unit: Unit
    detections: pd.DataFrame | None
    read: bool


def units_of(media: pd.DataFrame) -> list[Unit]:
    """The units of a media table, photos first; in its order, which keeps an item's photos together."""
    units = []
    for kind in KINDS:
        of_kind = media[media.kind == kind[:-1]].reset_index(drop=True)
        begins = np.flatnonzero(of_kind.item_id != of_kind.item_id.shift()).tolist()
        places = itertools.pairwise([*begins, len(of_kind)])
        units += [Unit(kind, number, of_kind, slice(*place)) for number, place in enumerate(places)]
    return units


def due_units(units: list[Unit], *steps: dict[str, "UnitStep"]) -> list[Unit]:
    """The units that do not stand in every one of the steps, each of which is given by kind."""
    return [unit for unit in units if not all(of_kinds[unit.kind].stands(unit.number) for of_kinds in steps)]


def read_units(jobs: Iterable[Job], reader: Reader, frame_indices: list[int]) -> Iterator[Picture | UnitEnd]:
    """The pictures of each job's unit and then its end. A medium that cannot be read is skipped, on record.

    Of a video that fails midway the pictures before have been given: they do not count.
    Raises UserError where a medium that has detections cannot be read any more.
    """
    asked: deque[tuple[Job, list[_Asked]]] = deque()
    for job in itertools.chain(jobs, [None] * (ASKED_AHEAD + 1)):
        if job is not None:
            asked.append((job, list(_ask(job, reader, frame_indices)) if job.read else []))
        if asked and (job is None or len(asked) > ASKED_AHEAD):
            first, media = asked.popleft()
            skipped = []
            for medium in media:
                try:
                    yield from _pictures_of(first.unit, medium, min(frame_indices))
                except MediaError as error:
                    if medium.boxes is not None:
                        raise UserError(
                            f"{medium.row.path}: could be read by stage 1 and now cannot ({error}). Restore it and run infer again."
                        ) from None
                    skipped.append(error.entry(medium.row.media_id))
            yield UnitEnd(first.unit, first.detections, skipped)


class _Asked(NamedTuple):
    row: tuple  # a named tuple: the medium's row of the media table
    boxes: dict[int, np.ndarray] | None  # by frame index, where they are known
    answer: Iterator[tuple[int, np.ndarray]]


def _ask(job: Job, reader: Reader, frame_indices: list[int]) -> Iterator[_Asked]:
    """Asks the reader for what the job needs of its unit's media."""
    for row in job.unit.media.itertuples():
        boxes = None
        if job.detections is not None:
            of_medium = job.detections[job.detections.media_id == row.media_id]
            boxes = {index: rows[BOX].to_numpy() for index, rows in of_medium.groupby("frame_index")}
        if boxes is None or boxes:
            photo = job.unit.kind == "photos"
            answer = reader.ask_photo(row.path) if photo else reader.frames(row.path, boxes or frame_indices)
            yield _Asked(row, boxes, answer)


def _pictures_of(unit: Unit, medium: _Asked, first_frame: int) -> Iterator[Picture]:
    n_read = 0
    for index, image_rgb in medium.answer:
        yield Picture(unit, medium.row, index, image_rgb, medium.boxes and medium.boxes[index])
        n_read += 1
    if medium.boxes and n_read < len(medium.boxes):
        raise MediaError(f"it has only {n_read} of the frames {sorted(medium.boxes)}")
    if not n_read:
        raise MediaError(f"shorter than the first wanted frame ({first_frame})")


class UnitStep:
    """A step of units that are given one after the other; some of them make a part.

    `empty` are its tables without rows, the first of which tells a unit's number of rows. What the step before, of another
    fingerprint, had of the same mark, whole, is there to be taken. The table `units` (mark, rows; '' or AGAIN where some was
    skipped) keeps the marks for the next time.

    What was skipped for a reason that may pass is tried again: parts with units of the mark AGAIN do not outlive an interrupted
    run, and a finished step depends on the media that it lacks so (`depends.again` in its manifest), so that it is not the one
    that the next run wants, and its fingerprint not that of the whole.
    """

    def __init__(self, step: Step, n_units: int, units_per_part: int, empty: Tables):
        self.step, self._empty, self._size = step, empty, units_per_part
        self._parts = chunks(n_units, units_per_part)
        self._n_units = n_units
        self._gathered: list[tuple[str, Tables, list[dict]]] = []  # of the part that is being built
        self._last_read: tuple[int, Tables] = (-1, {})
        if not step.done:
            for part in filter(step.part_stands, range(len(self._parts))):
                if (step.read_part(part, "units", NO_UNITS).mark == AGAIN).any():
                    step.drop_part(part)
            step.tell_kept(len(self._parts))

    def stands(self, number: int) -> bool:
        """Whether the unit was built by this step."""
        return self.step.done or self.step.part_stands(number // self._size)

    def read(self, number: int) -> Tables:
        """The tables of a unit that stands."""
        if self.step.done:
            tables, units, within = self._finished, self._finished["units"], number
        else:
            part, within = divmod(number, self._size)
            if self._last_read[0] != part:
                kinds = {"units": NO_UNITS, **self._empty}
                self._last_read = part, {name: self.step.read_part(part, name, kind) for name, kind in kinds.items()}
            tables = self._last_read[1]
            units = tables["units"]
        end = int(units.rows.iloc[: within + 1].sum()) if not self.step.done else int(self._ends[within])
        rows = slice(end - int(units.rows.iloc[within]), end)
        return {name: _rows(tables[name], rows) for name in self._empty}

    @cached_property
    def _finished(self) -> Tables:
        tables = {
            name: self.step.table(name, kind.dtypes.astype(str)) if isinstance(kind, pd.DataFrame) else self.step.vectors()
            for name, kind in {"units": NO_UNITS, **self._empty}.items()
        }
        found, rows = len(tables["units"]), tables["units"].rows.sum()
        if found != self._n_units or any(len(tables[name]) != rows for name in self._empty):
            raise UserError(
                f"{self.step.folder}: expected {self._n_units} units with {rows} rows, found {found} units and "
                f"{[len(tables[name]) for name in self._empty]} rows. Remove it and run again."
            )
        return tables

    @cached_property
    def _ends(self) -> np.ndarray:
        return self._finished["units"].rows.cumsum().to_numpy()

    @cached_property
    def _before(self) -> tuple[dict[str, slice], Tables]:
        marks = _marks_of(self.step.before)
        names = self._empty if marks else {}
        return marks, {name: read_table(self.step.before / f"{name}{suffix_of(self._empty[name])}") for name in names}

    def kept(self, mark: str) -> Tables | None:
        """The tables of the unit that the step before had with this mark, if it had one."""
        marks, tables = self._before
        return {name: _rows(table, marks[mark]) for name, table in tables.items()} if mark in marks else None

    def put(self, number: int, mark: str, tables: Tables, skipped: list[dict]) -> None:
        """Takes a unit that does not stand. Those of a part come in their order, and with the last one the part is written."""
        self.step.refuse_skipped(skipped)
        part, within = divmod(number, self._size)
        if within != len(self._gathered):
            raise ValueError(f"expected unit {part * self._size + len(self._gathered)}, found {number}")
        self._gathered.append((mark, tables, skipped))
        if number + 1 == self._parts[part].stop:
            rows = [len(each[next(iter(self._empty))]) for _, each, _ in self._gathered]
            marks = [AGAIN if worth_another_try(faults) else "" if faults else mark for mark, _, faults in self._gathered]
            whole = {name: joined([each[name] for _, each, _ in self._gathered], kind) for name, kind in self._empty.items()}
            faults = [fault for _, _, each in self._gathered for fault in each]
            self.step.write_part(part, {"units": pd.DataFrame({"mark": marks, "rows": rows}), **whole}, faults)
            self._gathered = []

    def finish(self, **found: str) -> Step:
        """The step, finished: all its units stand. found: what turned out of what it depends on, in place of what it began with."""
        if not self.step.done:
            if again := worth_another_try(self.step.skipped_in_parts(len(self._parts))):
                found["again"] = sorted(again)
            self.step.depend_also_on(found)
            self.step.finish(len(self._parts), ["units", *self._empty], {"units": NO_UNITS, **self._empty})
            self.step.done = True
            self.step.drop_before()
        return self.step


def _rows(table: pd.DataFrame | np.ndarray, rows: slice) -> pd.DataFrame | np.ndarray:
    return table.iloc[rows].reset_index(drop=True) if isinstance(table, pd.DataFrame) else table[rows]


def _marks_of(folder: Path) -> dict[str, slice]:
    """mark -> rows of the units of a finished step that were whole; none of a step that is not finished or has no units."""
    step = Step.finished(folder, {})
    try:
        manifest, units = step.manifest, step.table("units", {"mark": "str", "rows": "int64"})
    except UserError:
        return {}
    if manifest.get("schema") != SCHEMA_VERSION or units.rows.sum() != manifest["rows"]:
        return {}
    ends = units.rows.cumsum()
    rows = map(slice, (ends - units.rows).tolist(), ends.tolist())
    return {mark: place for mark, place in zip(units.mark, rows, strict=True) if mark}
