"""result.json, the answer: for each matched video its item, frame, and the boxes that prove it (docs/matching.md)."""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from metric_sub.vote import FRAME_BOX, ITEM_BOX
from shared.errors import UserError
from shared.files import write_json
from shared.parse import parse_json
from shared.tables import Whole

DECIMALS = 2  # of a pixel
EXPECTED = "Expected one object, video_id -> entry (docs/matching.md)."
KEYS = "Expected item_id, frame_index, result, and in result img_name, item_box, frame_box."

Pixels = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Box = Annotated[list[Pixels], Field(min_length=4, max_length=4)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResultBox(_Strict):
    """img_name: the photo's name without extension. Boxes: x1, y1, x2, y2 in pixels of the original photo and frame."""

    img_name: str
    item_box: Box
    frame_box: Box

    @field_validator("item_box", "frame_box")
    @classmethod
    def _right_way_round(cls, box: list[float]) -> list[float]:
        if box[0] > box[2] or box[1] > box[3]:
            raise ValueError("expected x1 <= x2 and y1 <= y2")
        return box


class ResultEntry(_Strict):
    """What result.json says of one video."""

    item_id: str
    frame_index: Annotated[Whole, Field(strict=True, ge=0)]
    result: Annotated[list[ResultBox], Field(min_length=1)]


def build_result(matches: pd.DataFrame, pairs: pd.DataFrame | None = None) -> dict[str, dict]:
    """The matches of `vote.match_items` as result.json's object: video_id -> entry, by rising video_id.

    `result` lists the match's own boxes first, then those of `pairs` (as `pairs.further_pairs` gives them; None: no others).
    Boxes are rounded to 1/100 pixel. Raises ValueError where two matches have the same video.
    """
    if not matches.video_id.is_unique:
        raise ValueError("expected one match per video")
    matches = matches.sort_values("video_id")
    result = {
        row.video_id: {"item_id": row.item_id, "frame_index": int(row.frame_index), "result": []}
        for row in matches.itertuples()
    }
    for table in (matches, pairs):
        if table is None:
            continue
        item_boxes = table[ITEM_BOX].to_numpy("float64").round(DECIMALS).tolist()
        frame_boxes = table[FRAME_BOX].to_numpy("float64").round(DECIMALS).tolist()
        for row, item_box, frame_box in zip(table.itertuples(), item_boxes, frame_boxes, strict=True):
            listed = {"img_name": row.img_name, "item_box": item_box, "frame_box": frame_box}
            result[row.video_id]["result"].append(listed)
    return result


def write_result(result: dict[str, dict], path: str | Path) -> None:
    """Writes result.json whole or not at all. Raises UserError where the place cannot be written."""
    try:
        write_json(Path(path), result)
    except OSError as error:
        raise UserError(f"{path}: the result cannot be written ({error.strerror}). Name another place.") from None


def read_result(path: str | Path) -> dict[str, ResultEntry]:
    """A result.json, checked. Raises UserError that names the file, the video and the key where it does not fit."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}). Run inference first, or name another result.") from None
    try:
        tree = parse_json(text, object_pairs_hook=_without_repeats)
    except _RepeatedKey as error:
        raise UserError(f"{path}: the key {error} stands twice in one object; expected once. Remove one.") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). {EXPECTED}") from None
    return check_result(tree, str(path))


def check_result(tree: object, where: str = "result") -> dict[str, ResultEntry]:
    """result.json's object as checked entries, in its order. Raises UserError that begins with `where`."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: found a {type(tree).__name__}. {EXPECTED}")
    try:
        return TypeAdapter(dict[str, ResultEntry]).validate_python(tree)
    except ValidationError as error:
        raise UserError("\n".join(_in_words(problem, where) for problem in error.errors()[:20])) from None


class _RepeatedKey(Exception):
    pass


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for key, value in pairs:
        if key in members:
            raise _RepeatedKey(repr(key))
        members[key] = value
    return members


def _in_words(problem: dict, where: str) -> str:
    video_id, *keys = problem["loc"]
    key = ".".join(map(str, keys))
    place = f"{where}: video {video_id!r}" + (f", key {key!r}" if key else "")
    if problem["type"] == "missing":
        return f"{place}: missing. {KEYS}"
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown. {KEYS}"
    found = json.dumps(problem["input"], ensure_ascii=False, default=repr)
    return f"{place}: {problem['msg']}, found {found:.80}"
