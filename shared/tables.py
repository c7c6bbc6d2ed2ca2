"""The tables of a data set, which every reader of one gives: its media, its labelled boxes, and what is labelled at all."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from shared.errors import UserError

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


@dataclass(frozen=True)
class Dataset:
    """media: a row per photo and video (MEDIA_COLUMNS; kind 'photo' or 'video'; for a video item_id is its video_id).
    labels: a row per labelled box (LABEL_COLUMNS; pixels of the upright picture; product_id '' for a distractor).
    labelled: a row per annotated photo or frame (media_id, frame_index), also those without boxes.
    kinds: item_id -> kind, from items.json. problems: (path, what is wrong) of what does not fit."""

    media: pd.DataFrame
    labels: pd.DataFrame
    labelled: pd.DataFrame
    kinds: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def of_media(self, keep: pd.Series) -> "Dataset":
        """The part of the data set whose media rows are True in `keep`."""
        media = self.media[keep.to_numpy()].reset_index(drop=True)
        labels = self.labels[self.labels.media_id.isin(media.media_id)].reset_index(drop=True)
        labelled = self.labelled[self.labelled.media_id.isin(media.media_id)].reset_index(drop=True)
        return Dataset(media, labels, labelled, self.kinds, self.problems)


def media_row(root: Path, part: str, kind: str, item_id: str, path: Path) -> tuple:
    """The MEDIA_COLUMNS of a file under `root`; media_id is its path from there. Raises UserError for a name no table can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path!s:.200a}: the name is not valid UTF-8, so no table can hold it. Rename the file."
        ) from None
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
