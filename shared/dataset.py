"""Reads a data set: the Watch-and-Buy layout with its annotations, plain folders without any, or COCO files.

<root>/                        or <root>/<part>/ for several parts
    image/<item_id>/<name>.jpg          image_annotation/<item_id>/<name>.json
    video/<video_id>.mp4                video_annotation/<video_id>.json
items.json (of the root or of the folder above it) may tell each item's kind.
<root> may also be a COCO file, or a folder of such files (see shared/coco.py).
"""

import logging
import re
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ValidationError

from shared.coco import read_coco
from shared.errors import UserError, first_fault
from shared.parse import parse_json
from shared.tables import MEDIA_COLUMNS, SINGLE_PART, Dataset, label_table, labelled_table, media_row
from shared.work import Step, table_fingerprint

log = logging.getLogger("data")

KINDS_FILE = "items.json"
NO_MEDIA = {".json", ".txt", ".csv", ".md", ".xml", ".db", ".ini", ".html"}


class _Annotation(BaseModel):
    label: str
    viewpoint: int = -1
    display: int = -1
    instance_id: int
    box: tuple[float, float, float, float]


class _PhotoAnnotation(BaseModel):
    annotations: list[_Annotation]


class _LabelledFrame(BaseModel):
    frame_index: int
    annotations: list[_Annotation]


class _VideoAnnotation(BaseModel):
    frames: list[_LabelledFrame]


def read_media(root: Path) -> pd.DataFrame:
    """The photos and videos under `root`, sorted by media_id (the path from `root`). Reads names and COCO files, no media.

    Raises UserError where the folder is missing, holds neither image/ nor video/ nor COCO files, or where two videos or
    two photos of one item share a name up to the extension (ids would clash).
    """
    if files := coco_files(root):
        dataset = read_coco(files)
        if dataset.problems:
            log.warning(
                "%s: %d entries do not fit and are left out, for example %s; `bash run.sh check` lists them",
                root,
                len(dataset.problems),
                dataset.problems[0][1],
            )
        return dataset.media
    root, rows = Path(root).absolute(), []
    for part, folder in _parts(root):
        for path in sorted(_children(folder / "image")):
            if path.is_dir():
                rows += [
                    media_row(root, part, "photo", path.name, file)
                    for file in sorted(_children(path))
                    if _is_media(file)
                ]
        for path in sorted(_children(folder / "video")):
            files = sorted(_children(path)) if path.is_dir() else [path]
            rows += [media_row(root, part, "video", file.stem, file) for file in files if _is_media(file)]
    media = pd.DataFrame(rows, columns=MEDIA_COLUMNS)
    if media.empty:
        raise UserError(
            f"{root}: no photo under image/<item>/ and no video under video/. Put them there, or name another --data."
        )
    photos = media.kind == "photo"
    twins = media[
        (photos & media.duplicated(["kind", "part", "item_id", "name"], keep=False))
        | (~photos & media.duplicated(["kind", "item_id"], keep=False))
    ]
    if len(twins):
        raise UserError(
            f"{root}: {' and '.join(twins.media_id[:2])} have the same name up to the extension; rename one, since result.json knows names without extension."
        )
    return media.sort_values("media_id", ignore_index=True)


def read_dataset(root: Path) -> Dataset:
    """Media and their annotations. What does not fit is left out and listed in `problems`; the caller decides.

    Raises UserError as `read_media` does, and for an items.json that is not a list of {item_id, kind}.
    """
    if files := coco_files(root):
        return read_coco(files)
    media = read_media(root)
    labels, labelled, problems = [], [], []
    for row in media.itertuples():
        path = annotation_path(root, row.media_id, row.part)
        if not path.is_file():
            continue
        try:
            frames = _read_annotation(path, row.kind)
        except (OSError, ValueError) as error:
            problems.append((str(path), _first_line(error)))
            continue
        for frame in frames:
            labelled.append((row.media_id, frame.frame_index))
            for annotation in frame.annotations:
                fault = _fault(annotation)
                if fault:
                    problems.append(
                        (str(path), f"frame {frame.frame_index}: {fault}" if row.kind == "video" else fault)
                    )
                else:
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
    return Dataset(
        media,
        label_table(labels),
        labelled_table(labelled),
        _read_kinds(root),
        problems,
    )


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
    strangers = set(dataset.media.media_id) ^ (set(media_step.table("table").media_id) | skipped)
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
    if root.is_file() and root.suffix.lower() == ".json":
        return [root]
    if not root.is_dir() or _folders_with_media(root):
        return []
    return sorted(path for path in _children(root) if path.suffix.lower() == ".json" and path.name != KINDS_FILE)


def _parts(root: Path) -> list[tuple[str, Path]]:
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder. --data wants a folder that holds image/<item>/ and video/, or a COCO .json file."
        )
    holds = _folders_with_media(root)
    if not holds:
        raise UserError(
            f"{root}: expected image/<item>/ and video/ here or one folder below, or COCO .json files here, "
            f"found {sorted(p.name for p in _children(root))[:5]}."
        )
    return [(SINGLE_PART, root)] if holds[0] == root else [(folder.name, folder) for folder in holds]


def _folders_with_media(root: Path) -> list[Path]:
    return [
        folder
        for folder in [root, *sorted(_children(root))]
        if (folder / "image").is_dir() or (folder / "video").is_dir()
    ]


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _is_media(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in NO_MEDIA


def _read_annotation(path: Path, kind: str) -> list[_LabelledFrame]:
    text = path.read_bytes()
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


def _read_kinds(root: Path) -> dict[str, str]:
    for path in (Path(root) / KINDS_FILE, Path(root).resolve().parent / KINDS_FILE):
        if path.is_file():
            try:
                entries = parse_json(path.read_bytes())
                kinds = {entry.get("item_id") or entry["video_id"]: entry["kind"] for entry in entries}
                for text in (*kinds, *kinds.values()):
                    if not isinstance(text, str):
                        raise TypeError(f"{text!r} is no text")
                return kinds
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}: expected a list of objects with item_id (or video_id) and kind ({type(error).__name__}: {error})"
                ) from None
    return {}


def _first_line(error: Exception) -> str:
    return first_fault(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
