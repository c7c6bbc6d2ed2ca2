"""Reads COCO files (https://cocodataset.org/#format-data): pictures with boxes, as a data set of photos.

A file's pictures stand in its folder or in images/ beside it, as file_name says from there. Boxes come as x, y, width,
height and become x1, y1, x2, y2; a crowd's box (iscrowd 1) is no object's box and is left out.
"""

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, Field, StrictInt, StrictStr, ValidationError

from shared.errors import UserError, first_fault, printable
from shared.json_files import read_json_text
from shared.parse import parse_json
from shared.tables import (
    MEDIA_COLUMNS,
    SINGLE_PART,
    Dataset,
    Pixel,
    Problem,
    label_table,
    labelled_table,
    media_row,
)

log = logging.getLogger("coco")

Number = Annotated[Pixel, Field(strict=True)]


class _File(BaseModel):
    images: list[Any]
    annotations: list[Any] | None = None  # a file without them names pictures to search
    categories: list[Any] = []


class _Image(BaseModel):
    id: StrictInt
    file_name: StrictStr


class _Category(BaseModel):
    id: StrictInt
    name: StrictStr


class _Annotation(BaseModel):
    id: StrictInt
    image_id: StrictInt
    category_id: StrictInt
    bbox: Annotated[list[Number], Field(min_length=4, max_length=4)]
    iscrowd: Literal[0, 1] = 0


@dataclass(frozen=True)
class CocoFile:
    """What a COCO file holds, ids as they stand there.

    pictures: image id -> the picture's file. categories: category id -> name. boxes: image id -> (name, x1, y1, x2, y2) of
    every box. labelled: whether the file has annotations. n_crowd: boxes left out. lost: (file name, why) of the pictures that
    cannot be used. problems: what else does not fit, in words.
    """

    path: Path
    pictures: dict[int, Path]
    categories: dict[int, str]
    boxes: dict[int, list[tuple]]
    labelled: bool
    n_crowd: int
    lost: list[tuple[str, str]]
    problems: list[str]


def read_coco(paths: list[Path], max_bytes: int) -> Dataset:
    """The data set of COCO files of one folder: each is a part named by its stem; a single one is the whole.

    A photo's media_id and item_id are its path from the folder: every picture counts as an item of its own. What does not
    fit is left out and listed in `problems`. Raises UserError as `read_coco_file` does, and where no picture is left.
    """
    folder, media, labels, labelled, problems = paths[0].absolute().parent, [], [], [], []
    part_of: dict[Path, str] = {}
    for path in paths:
        file = read_coco_file(path, max_bytes)
        part = SINGLE_PART if len(paths) == 1 else path.stem
        problems += [Problem(printable(path), fault, part, name) for name, fault in file.lost]
        problems += [Problem(printable(path), fault, part) for fault in file.problems]
        for image_id, picture in file.pictures.items():
            name = picture.relative_to(folder).as_posix()
            fault = ""
            if picture in part_of:
                fault = f"is also in part {part_of[picture]!r}"
            else:
                try:
                    row = media_row(folder, part, "photo", name, picture)
                except OSError as error:
                    fault = f"cannot be read ({error.strerror})"
            if fault:
                problems.append(Problem(printable(path), f"image {image_id}: {picture} {fault}", part, name))
                continue
            part_of[picture] = part
            media.append(row)
            if file.labelled:
                labelled.append((row[0], 0))
            for label, *box in file.boxes[image_id]:
                labels.append((row[0], 0, label, -1, -1, 0, "", *box))
    if not media:
        raise UserError(
            f"{paths[0]}: names no picture that is there: {problems[0].fault if problems else 'images is empty'}. "
            "Put the pictures beside it, or name another --data."
        )
    return Dataset(
        pd.DataFrame(media, columns=MEDIA_COLUMNS).sort_values("media_id", ignore_index=True),
        label_table(labels).sort_values("media_id", kind="stable", ignore_index=True),
        labelled_table(labelled).sort_values("media_id", ignore_index=True),
        problems=problems,
    )


def read_coco_file(path: Path, max_bytes: int) -> CocoFile:
    """One COCO file. Raises UserError where it has more than max_bytes (data.max_coco_bytes), is not JSON or has no list of
    images; all else is listed in `lost` and `problems`."""
    path = path.absolute()
    try:
        text = read_json_text(path, max_bytes, "max_coco_bytes")
    except (OSError, ValueError) as error:
        words = f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else error
        raise UserError(f"{path}: expected a COCO file; {words}.") from None
    try:
        whole = _File.model_validate(parse_json(text))
    except ValidationError as error:
        raise UserError(
            f"{path}: expected a COCO file (an object with the lists images, annotations, categories); {first_fault(error)}."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path}: expected a COCO file, found no JSON ({error}). Restore it, or move it away."
        ) from None
    problems: list[str] = []
    unread: list[str] = []
    images = _by_id(whole.images, _Image, "images", unread)
    categories = {key: entry.name for key, entry in _by_id(whole.categories, _Category, "categories", problems).items()}
    for name, count in Counter(categories.values()).items():
        if count > 1:
            problems.append(f"categories: expected a name of its own for each, found {name!r} {count} times")
    annotations = _by_id(whole.annotations or [], _Annotation, "annotations", problems)
    pictures, lost = _find_pictures(path.parent, images)
    lost = [(fault.partition(":")[0], fault) for fault in unread] + lost  # images[3], where it has no name
    boxes, n_crowd = defaultdict(list), 0
    for annotation in annotations.values():
        fault = _fault(annotation, images, categories)
        if fault:
            problems.append(f"annotation {annotation.id}: {fault}")
        elif annotation.iscrowd:
            n_crowd += 1
        else:
            x, y, width, height = annotation.bbox
            boxes[annotation.image_id].append((categories[annotation.category_id], x, y, x + width, y + height))
    if n_crowd:
        log.info("%s: %d boxes of crowds are left out", path, n_crowd)
    return CocoFile(path, pictures, categories, boxes, whole.annotations is not None, n_crowd, lost, problems)


def _by_id(entries: list[Any], model: type[BaseModel], name: str, problems: list[str]) -> dict[int, Any]:
    """The entries that fit, by their ids; the first of two with one id."""
    found = {}
    for place, entry in enumerate(entries):
        try:
            entry = model.model_validate(entry)
        except ValidationError as error:
            problems.append(f"{name}[{place}]: {first_fault(error)}")
            continue
        if entry.id in found:
            problems.append(f"{name}[{place}]: expected an id of its own, found {entry.id} a second time")
        else:
            found[entry.id] = entry
    return found


def _find_pictures(folder: Path, images: dict[int, _Image]) -> tuple[dict[int, Path], list[tuple[str, str]]]:
    found, seen, lost = {}, set(), []
    for image_id, image in images.items():
        name = PurePosixPath(image.file_name)
        leaves = name.is_absolute() or ".." in name.parts
        places = () if leaves else (folder / name, folder / "images" / name)
        picture = next(filter(_is_file, places), None)
        if leaves:
            fault = f"file_name {image.file_name!r} leaves the folder; write it from {folder}"
        elif picture is None:
            fault = f"no file {image.file_name!r} in {folder} or in images/ there"
        elif picture in seen:
            fault = f"{image.file_name!r} belongs to another image too"
        else:
            found[image_id] = picture
            seen.add(picture)
            continue
        lost.append((printable(image.file_name) or f"image {image_id}", f"image {image_id}: {fault}"))
    return found, lost


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _fault(annotation: _Annotation, images: dict[int, _Image], categories: dict[int, str]) -> str:
    """What is wrong with an annotation, in words; '' where nothing is."""
    if annotation.image_id not in images:
        return f"image_id {annotation.image_id}: no such id among the images"
    if annotation.category_id not in categories:
        return f"category_id {annotation.category_id}: no such id among the categories ({sorted(categories)[:10]})"
    if not (annotation.bbox[2] > 0 and annotation.bbox[3] > 0):
        return f"bbox {annotation.bbox}: expected x, y, width, height with width and height above 0"
    return ""
