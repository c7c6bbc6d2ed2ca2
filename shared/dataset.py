"""Reads a data set: the Watch-and-Buy layout with its annotations, plain folders without any, or COCO files.

<root>/                        or <root>/<part>/ for several parts
    image/<item_id>/<name>.jpg          image_annotation/<item_id>/<name>.json
    video/<video_id>.mp4                video_annotation/<video_id>.json
items.json (of the root or of the folder above it) may tell each item's kind.
<root> may also be a COCO file, or a folder of such files (see shared/coco.py).
"""

import errno
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from shared.coco import read_coco
from shared.config import Data
from shared.errors import UserError, first_fault, printable
from shared.json_files import read_json_text
from shared.parse import parse_json
from shared.tables import (
    MEDIA_COLUMNS,
    SINGLE_PART,
    Dataset,
    Pixel,
    Problem,
    Whole,
    label_table,
    labelled_table,
    media_row,
)
from shared.work import Step, table_fingerprint

log = logging.getLogger("data")

KINDS_FILE = "items.json"
FOLDERS = {"photo": "image", "video": "video"}
PLACES = {"photo": "image/<item>/", "video": "video/ or one folder below it"}
NO_MEDIA = {".json", ".txt", ".csv", ".md", ".xml", ".db", ".ini", ".html"}


class _Annotation(BaseModel):
    label: str
    viewpoint: Whole = -1
    display: Whole = -1
    instance_id: Whole
    box: tuple[Pixel, Pixel, Pixel, Pixel]


class _PhotoAnnotation(BaseModel):
    annotations: list[_Annotation]


class _LabelledFrame(BaseModel):
    frame_index: Annotated[Whole, Field(ge=0)]
    annotations: list[_Annotation]


class _VideoAnnotation(BaseModel):
    frames: list[_LabelledFrame]


def read_media(root: Path, limits: Data) -> tuple[pd.DataFrame, list[Problem]]:
    """The photos and videos under `root`, sorted by media_id (the path from `root`), and what stands among them that cannot be
    used. Reads names and COCO files, no media.

    Links are followed, wherever they lead. Of two videos, or two photos of one item, with the same name up to the extension
    the first is used. Raises UserError where the folder is missing, cannot be listed, or holds neither image/ nor video/ nor
    COCO files, and where no photo or video is left.
    """
    if files := coco_files(root):
        dataset = read_coco(files, limits.max_coco_bytes)
        return dataset.media, [problem for problem in dataset.problems if problem.media_id]
    root, rows, problems = Path(root).absolute(), [], []
    for part, folder in _parts(root, problems):
        for kind, name in FOLDERS.items():
            for item, file in _media_files(folder / name, kind, part, root, problems):
                try:
                    rows.append(media_row(root, part, kind, item if kind == "photo" else file.stem, file))
                except OSError as error:
                    problems.append(_media_problem(root, part, file, _words(error)))
    media = pd.DataFrame(rows, columns=MEDIA_COLUMNS).sort_values("media_id", ignore_index=True)
    media = _without_twins(media, problems)
    if media.empty:
        found = f" Found {problems[0].media_id}: {problems[0].fault}." if problems else ""
        raise UserError(
            f"{root}: no photo under image/<item>/ and no video under video/.{found} Put them there, or name another --data."
        )
    return media, problems


def read_dataset(root: Path, limits: Data) -> Dataset:
    """Media and their annotations. What does not fit is left out and listed in `problems`; the caller decides.

    Raises UserError as `read_media` does, and for an items.json that is not a list of {item_id, kind}.
    """
    if files := coco_files(root):
        return read_coco(files, limits.max_coco_bytes)
    media, problems = read_media(root, limits)
    labels, labelled = [], []
    for row in media.itertuples():
        path = annotation_path(root, row.media_id, row.part)
        try:
            if not _is_there(path):
                continue
            frames = _read_annotation(path, row.kind, limits.max_annotation_bytes)
        except (OSError, ValueError) as error:
            problems.append(Problem(printable(path), _words(error), row.part))
            continue
        repeated = {index for index, times in Counter(frame.frame_index for frame in frames).items() if times > 1}
        faults = [f"frame {index}: labelled more than once" for index in sorted(repeated)]
        for frame in frames:
            if frame.frame_index in repeated:
                continue
            labelled.append((row.media_id, frame.frame_index))
            for annotation in frame.annotations:
                if fault := _fault(annotation):
                    faults.append(f"frame {frame.frame_index}: {fault}" if row.kind == "video" else fault)
                    continue
                product_id = item_of_instance(annotation.instance_id) if annotation.instance_id > 0 else ""
                labels.append(
                    (
                        row.media_id,
                        frame.frame_index,
                        annotation.label,
                        annotation.viewpoint,
                        annotation.display,
                        annotation.instance_id,
                        product_id,
                        *annotation.box,
                    )
                )
        problems += [Problem(printable(path), fault, row.part) for fault in faults]
    problems += _orphans(Path(root), media)
    kinds = _read_kinds(root, limits.max_annotation_bytes)
    return Dataset(media, label_table(labels), labelled_table(labelled), kinds, problems)


def split_parts(dataset: Dataset, prefixes: list[str]) -> Dataset:
    """The parts whose folder name begins with one of the prefixes; a root that is itself one folder belongs to every part."""
    return dataset.of_media(
        dataset.media.part.map(lambda part: part == SINGLE_PART or part.startswith(tuple(prefixes)))
    )


def train_and_validation(
    dataset: Dataset, train: list[str], validation: list[str], holdout: float
) -> tuple[Dataset, Dataset]:
    """Two data sets: the parts to train on and those to validate on.

    Where no part is named for validation (one folder holds all), the share `holdout` of the ids serves: the same ones each
    time, photos and videos of an id together. Raises UserError where a side has no media.
    """
    sides = split_parts(dataset, train), split_parts(dataset, validation)
    if SINGLE_PART in set(dataset.media.part) or not len(sides[1].media):
        held = sides[0].media.item_id.map(
            lambda item: (pd.util.hash_array(pd.array([item], dtype=object).to_numpy())[0] % 10_000) < holdout * 10_000
        )
        sides = sides[0].of_media(~held.astype(bool)), sides[0].of_media(held.astype(bool))
    for side, prefixes in zip(sides, (train, validation), strict=True):
        if not len(side.media) and SINGLE_PART in set(dataset.media.part):
            raise UserError(
                f"{len(dataset.media)} photos and videos in one folder, none for training or none for validation: change data.holdout ({holdout})."
            )
        if not len(side.media):
            raise UserError(
                f"no folder or COCO file begins with any of {prefixes}; found {sorted(set(dataset.media.part))}. Name the parts in the config."
            )
    return sides


def named_parts(dataset: Dataset, parts: list[str] | None, data: Path) -> Dataset:
    """The parts of these names, all for None. Raises UserError for a name that the data has not."""
    there = sorted(set(dataset.media.part))
    unknown = sorted(set(parts or []) - set(there))
    if unknown:
        raise UserError(f"--part: {data} has no part {unknown[0]!r}; it has {', '.join(there)}.")
    return dataset.of_media(dataset.media.part.isin(parts or there))


def refuse_other_media(dataset: Dataset, media_step: Step, data: Path) -> None:
    """Raises UserError where the finished step media/ of a work folder was made from other files than the data set has."""
    skipped = {entry["media_id"] for entry in media_step.manifest["skipped"]}
    strangers = (set(dataset.media.media_id) ^ set(media_step.table("table", {"media_id": "str"}).media_id)) - skipped
    if strangers:
        raise UserError(
            f"{data}: {min(strangers)} is in only one of the data and {media_step.folder} ({len(strangers)} "
            "such files). Name the data that the run was made from, or run infer again."
        )


def warn_of_training(dataset: Dataset, trained: list[str]) -> None:
    """Logs which parts begin with what is trained on: a model that is judged by its own pictures is flattered."""
    parts = [part for part in sorted(set(dataset.media.part)) if part == SINGLE_PART or part.startswith(tuple(trained))]
    if parts:
        log.warning(
            "%s: training took pictures from there, if it was of this data; --part names others", ", ".join(parts)
        )


def content_fingerprint(dataset: Dataset) -> dict[str, str]:
    """What work on a data set depends on: its files by id, size and time, and its labels; not the folder's place."""
    return {
        "media": media_fingerprint(dataset.media),
        "labels": table_fingerprint(dataset.labels),
        "labelled": table_fingerprint(dataset.labelled),
    }


def media_fingerprint(media: pd.DataFrame) -> str:
    """The fingerprint of a media table without its paths: the same files mounted elsewhere are the same."""
    return table_fingerprint(media.drop(columns="path"))


def annotation_path(root: str | Path, media_id: str, part: str) -> Path:
    """Where the annotation of a photo or a video stands: image/a/0.jpg -> image_annotation/a/0.json."""
    names = list(Path(media_id).with_suffix(".json").parts)
    names[0 if part == SINGLE_PART else 1] += "_annotation"
    return Path(root).joinpath(*names)


def item_of_instance(instance_id: int) -> str:
    """The item that an instance id above 0 belongs to: 2ddddd01 -> 0ddddd (Watch and Buy)."""
    return "0" + str(instance_id)[1:6]


def coco_files(root: Path) -> list[Path]:
    """The COCO files that `root` stands for: itself, or the .json files of a folder that has no image/ or video/; else none."""
    root = Path(root)
    if os.path.isfile(root) and root.suffix.lower() == ".json":
        return [root]
    if not os.path.isdir(root) or _folders_with_media(root):
        return []
    return [path for path in _children(root) if path.suffix.lower() == ".json" and path.name != KINDS_FILE]


def _parts(root: Path, problems: list[Problem]) -> list[tuple[str, Path]]:
    if not os.path.isdir(root):
        raise UserError(
            f"{root}: no such folder. --data wants a folder that holds image/<item>/ and video/, or a COCO .json file."
        )
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise UserError(f"{printable(root)}: its name is not valid UTF-8. Rename the folder, or name a link to it.") from None
    holds = _folders_with_media(root)
    if root in holds:
        return [(SINGLE_PART, root)]
    for folder in _children(root):
        if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            problems.append(_media_problem(root, printable(folder.name), folder, "cannot be listed (Permission denied)"))
    if not holds:
        raise UserError(
            f"{root}: expected image/<item>/ and video/ here or one folder below, or COCO .json files here, "
            f"found {[printable(path.name) for path in _children(root)][:5]}."
        )
    named = []
    for folder in holds:
        if fault := _name_fault(folder):
            problems.append(_media_problem(root, printable(folder.name), folder, fault))
        else:
            named.append((folder.name, folder))
    return named


def _folders_with_media(root: Path) -> list[Path]:
    return [
        folder
        for folder in [root, *_children(root)]
        if any(os.path.isdir(folder / name) for name in FOLDERS.values())  # a folder that may not be entered has none
    ]


def _children(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files. Raises UserError where it cannot be listed."""
    try:
        return _listed(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}). Give it permission, or name another --data.") from None


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _media_files(
    folder: Path, kind: str, part: str, root: Path, problems: list[Problem]
) -> Iterator[tuple[str, Path]]:
    """(the folder's name between, file) of every photo or video in image/ or video/, '' for one right in it.

    What stands there and is none, but no text file either, becomes a problem.
    """

    def refuse(path: Path, fault: str) -> None:
        problems.append(_media_problem(root, part, path, fault))

    def entries(of: Path) -> list[Path]:
        try:
            return _listed(of)
        except OSError as error:
            refuse(of, f"cannot be listed ({error.strerror})")
            return []

    if not os.path.isdir(folder):
        return
    for path in entries(folder):
        if fault := _name_fault(path) or _kind_fault(path):
            refuse(path, fault)
        elif path.is_dir():
            inside = entries(path)
            if not inside and os.access(path, os.R_OK, effective_ids=True):
                refuse(path, f"an empty folder: expected {kind}s in it")
            for file in inside:
                if fault := _name_fault(file) or _kind_fault(file):
                    refuse(file, fault)
                elif file.is_dir():
                    refuse(file, f"a folder too deep: expected {kind}s in {PLACES[kind]}")
                elif file.suffix.lower() not in NO_MEDIA:
                    yield path.name, file
        elif path.suffix.lower() not in NO_MEDIA:
            if kind == "photo":
                refuse(path, f"belongs to no item: expected photos in {PLACES[kind]}")
            else:
                yield "", path


def _media_problem(root: Path, part: str, path: Path, fault: str) -> Problem:
    return Problem(printable(path), fault, part, printable(path.relative_to(root).as_posix()))


def _name_fault(path: Path) -> str:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return ""


def _kind_fault(path: Path) -> str:
    """Why a path leads to no file and no folder, in words; '' where it does."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        if error.errno == errno.ENOENT and path.is_symlink():
            return f"a link to nothing ({printable(os.readlink(path))})"
        return _words(error)
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "a pipe, socket or device: expected a file"


def _without_twins(media: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """The media without those that share kind, item and name with one before: result.json knows names without extension."""
    photos = media.kind == "photo"
    owner = media.part.where(photos, "") + "/" + media.item_id + "/" + media["name"].where(photos, "")
    keys = pd.DataFrame({"kind": media.kind, "owner": owner, "media_id": media.media_id})
    first = keys.groupby(["kind", "owner"]).media_id.transform("first")
    twin = media.media_id != first
    for row, other in zip(media[twin].itertuples(), first[twin], strict=True):
        fault = f"has the same name as {other} up to the extension, and that one is used; rename it"
        problems.append(Problem(printable(row.path), fault, row.part, row.media_id))
    return media[~twin].reset_index(drop=True)


def _is_there(path: Path) -> bool:
    """Whether a path names something, a broken link too. Raises OSError where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the picture's name with .json is longer than a name can be
            return False
        raise
    return True


def _read_annotation(path: Path, kind: str, max_bytes: int) -> list[_LabelledFrame]:
    text = read_json_text(path, max_bytes, "max_annotation_bytes")
    if kind == "photo":
        return [_LabelledFrame(frame_index=0, annotations=_PhotoAnnotation.model_validate_json(text).annotations)]
    return _VideoAnnotation.model_validate_json(text).frames


def _fault(annotation: _Annotation) -> str:
    """What is wrong with an annotation, in words; '' where nothing is."""
    x1, y1, x2, y2 = annotation.box
    if not (x1 < x2 and y1 < y2):
        return f"box {list(annotation.box)}: expected x1 < x2 and y1 < y2"
    if annotation.instance_id > 0 and not re.fullmatch(r"2\d{7}", str(annotation.instance_id)):
        return f"instance_id {annotation.instance_id}: expected 0 or less, or 2, five digits of the item, two digits"
    return ""


def _orphans(root: Path, media: pd.DataFrame) -> list[Problem]:
    """Annotation files that belong to no photo or video, and folders of them that cannot be listed."""
    known = {annotation_path(root, row.media_id, row.part) for row in media.itertuples()}
    found = []
    for part in sorted(set(media.part)):
        for name in FOLDERS.values():
            folder = (root if part == SINGLE_PART else root / part) / f"{name}_annotation"
            for path, fault in _json_files(folder):
                if fault or path not in known:
                    fault = fault or "no photo or video belongs to this annotation"
                    found.append(Problem(printable(path), fault, part))
    return found


def _json_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, '') of every .json file in a folder and in those in it, by name; (folder, fault) of one that cannot be listed.

    A link is followed where it is the folder or right in it, as for media: links that go in circles end there.
    """
    if not os.path.isdir(folder):
        return
    try:
        tops = [folder, *(path for path in _listed(folder) if path.is_symlink() and os.path.isdir(path))]
    except OSError as error:
        yield folder, f"cannot be listed ({error.strerror})"
        return
    for top in tops:
        refused: list[OSError] = []
        for place, folders, names in os.walk(top, onerror=refused.append):
            folders.sort()
            here = sorted(name for name in names if name.lower().endswith(".json") and not name.startswith("."))
            yield from ((Path(place, name), "") for name in here)
        yield from ((Path(error.filename), f"cannot be listed ({error.strerror})") for error in refused)


def _read_kinds(root: Path, max_bytes: int) -> dict[str, str]:
    for path in (Path(root) / KINDS_FILE, Path(root).resolve().parent / KINDS_FILE):
        if not os.path.lexists(path):
            continue
        try:
            entries = parse_json(read_json_text(path, max_bytes, "max_annotation_bytes"))
            kinds = {entry.get("item_id") or entry["video_id"]: entry["kind"] for entry in entries}
            for text in (*kinds, *kinds.values()):
                if not isinstance(text, str):
                    raise TypeError(f"{text!r} is no text")
            return kinds
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: expected a list of objects with item_id (or video_id) and kind ({type(error).__name__}: {error})"
            ) from None
    return {}


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_fault(error)
    return f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
