"""The tables of a data set, which every reader of one gives: its media, its labelled boxes, and what is labelled at all."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
from pydantic import Field

MEDIA_COLUMNS = ["media_id", "kind", "part", "item_id", "name", "path", "bytes", "mtime_ns"]
BOX = ["x1", "y1", "x2", "y2"]  # pixels; x2 and y2 exclusive
LABEL_COLUMNS = ["media_id", "frame_index", "label", "viewpoint", "display", "instance_id", "product_id", *BOX]
SINGLE_PART = "."
DETECTION_COLUMNS = {  # of detections/ and embeddings/: a row per box, which belongs to a photo (frame_index 0) or a frame
    "media_id": "str",
    "item_id": "str",
    "name": "str",
    "frame_index": "int64",
    "rank": "int64",
    "x1": "float32",
    "y1": "float32",
    "x2": "float32",
    "y2": "float32",
    "score": "float32",
    "category": "str",
}

# What a table can hold and a picture can have; whatever is beyond is a mistake.
Whole = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Pixel = Annotated[float, Field(ge=-1_000_000, le=1_000_000)]  # NaN is not in it


class Problem(NamedTuple):
    """Something of a data set that does not fit and is left out: a file or folder, what is wrong with it in words, the part
    that it belongs to. media_id: of a photo or video that is left out; '' where it is about an annotation."""

    path: str
    fault: str
    part: str
    media_id: str = ""


@dataclass(frozen=True)
class Dataset:
    """media: a row per photo and video (MEDIA_COLUMNS; kind 'photo' or 'video'; for a video item_id is its video_id).
    labels: a row per labelled box (LABEL_COLUMNS; pixels of the upright picture; product_id '' for a distractor).
    labelled: a row per annotated photo or frame (media_id, frame_index), also those without boxes.
    kinds: item_id -> kind, from items.json. problems: what does not fit and is in no table."""

    media: pd.DataFrame
    labels: pd.DataFrame
    labelled: pd.DataFrame
    kinds: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def of_media(self, keep: pd.Series) -> "Dataset":
        """The part of the data set whose media rows are True in `keep`, with the problems of its parts."""
        media = self.media[keep.to_numpy()].reset_index(drop=True)
        labels = self.labels[self.labels.media_id.isin(media.media_id)].reset_index(drop=True)
        labelled = self.labelled[self.labelled.media_id.isin(media.media_id)].reset_index(drop=True)
        others = set(self.media.part) - set(media.part)
        problems = [problem for problem in self.problems if problem.part not in others]
        return Dataset(media, labels, labelled, self.kinds, problems)


def media_row(root: Path, part: str, kind: str, item_id: str, path: Path) -> tuple:
    """The MEDIA_COLUMNS of a file under `root`; media_id is its path from there. Raises OSError where it is gone."""
    stat = path.stat()
    return path.relative_to(root).as_posix(), kind, part, item_id, path.stem, str(path), stat.st_size, stat.st_mtime_ns


def label_table(rows: list[tuple]) -> pd.DataFrame:
    """LABEL_COLUMNS of the rows, boxes as float32."""
    return pd.DataFrame(rows, columns=LABEL_COLUMNS).astype(dict.fromkeys(BOX, "float32"))


def labelled_table(rows: list[tuple[str, int]]) -> pd.DataFrame:
    """media_id and frame_index of the rows."""
    return pd.DataFrame(rows, columns=["media_id", "frame_index"])


def detection_table(rows: list[tuple]) -> pd.DataFrame:
    """DETECTION_COLUMNS of the rows."""
    return pd.DataFrame(rows, columns=list(DETECTION_COLUMNS)).astype(DETECTION_COLUMNS)
