"""Labelled frames as pictures: each annotated frame of a training video, decoded once for both stages."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from shared.columns import check_places
from shared.config import Data
from shared.dataset import media_fingerprint
from shared.errors import UserError
from shared.files import write_whole
from shared.fit import misplaced_labels, problems_of_media, refuse_problems, settle_problems
from shared.media import MediaError, probe_photo, read_photo
from shared.progress import progress_bar
from shared.reader import Reader, open_reader
from shared.tables import Dataset
from shared.work import Step, chunks, table_fingerprint, worth_another_try

PHOTOS_PER_PART, VIDEOS_PER_PART = 500, 8
COLUMNS = {"media_id": "str", "frame_index": "int64", "picture": "str", "width": "int64", "height": "int64"}
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def extract_labelled_frames(dataset: Dataset, work: Path, limits: Data, fresh: bool) -> pd.DataFrame:
    """A picture file for every labelled photo and frame: a table (media_id, frame_index, picture).

    Photos stand for themselves; frames are written as JPEG under <work>/frames/. Every one is decoded once, so that none fails
    hours later. Raises UserError where something of the data set does not fit, unless data.on_error is `skip`: then that is
    left out and listed in <work>/frames/left_out.json; and where nothing is labelled. What could not be read for a reason that may
    pass is tried again.
    """
    record = work / "frames" / "left_out.json"
    refuse_problems(dataset.problems, limits.on_error)  # before any picture is decoded
    media = dataset.media[dataset.media.media_id.isin(dataset.labelled.media_id)].reset_index(drop=True)
    labelled = dataset.labelled[dataset.labelled.media_id.isin(media.media_id)]
    step = Step(
        work / "frames",
        {
            "media": media_fingerprint(media),
            "labelled": table_fingerprint(labelled),
            "max_pixels": limits.max_pixels,
            "max_frames": limits.max_frames,
        },
        fresh,
    )
    parts = [
        of_kind.iloc[rows]
        for of_kind, size in (
            (media[media.kind == "photo"], PHOTOS_PER_PART),
            (media[media.kind == "video"], VIDEOS_PER_PART),
        )
        for rows in chunks(len(of_kind), size)
    ]
    wanted = labelled.groupby("media_id").frame_index.apply(list)
    if not step.done:
        with (
            progress_bar(total=len(media), title="labelled pictures", unit="file") as bar,
            open_reader(limits) as reader,
        ):
            step.build_parts(len(parts), lambda k: _extract(parts[k], wanted, step.folder, reader, bar))
        step.finish(len(parts), ["table"], {"table": pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)})
    elif again := worth_another_try(step.manifest["skipped"]):
        order = [media_id for part in parts for media_id in part.media_id]
        with (
            progress_bar(total=len(again), title="labelled pictures", unit="file") as bar,
            open_reader(limits) as reader,
        ):
            for part in parts:
                tried = part[part.media_id.isin(again)]
                if len(tried):
                    tables, still = _extract(tried, wanted, step.folder, reader, bar)
                    step.amend("table", tried.media_id, tables["table"], still, order)
    table = step.table("table", COLUMNS)
    check_places(table.picture, step.folder)
    misplaced = misplaced_labels(dataset, table.drop(columns="picture"))
    faults = [(entry["media_id"], entry["reason"]) for entry in step.manifest["skipped"]]
    faults += zip(misplaced.media_id, misplaced.fault, strict=True)
    settle_problems(dataset.problems + problems_of_media(dataset, faults), limits.on_error, record)
    # Boxes of which one leaves the picture were drawn in another one: the picture is left out with all of them.
    table = table[~_keys(table).isin(_keys(misplaced))]
    paths = dict(zip(media.media_id, media.path, strict=True))
    pictures = [
        str(step.folder / row.picture) if row.picture else paths[row.media_id] for row in table.itertuples()
    ]
    pictures = (
        table[["media_id", "frame_index"]]
        .assign(picture=pd.Series(pictures, table.index, dtype="str"))
        .sort_values(["media_id", "frame_index"], ignore_index=True)
    )
    if pictures.empty:
        raise UserError(
            "no annotated photo or frame: expected image_annotation/ and video_annotation/ beside image/ and video/, "
            "or a COCO file with annotations."
        )
    return pictures


def ask_labelled(reader: Reader, medium, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(frame_index, image_rgb) to come of a photo (0) or of a video's wanted frames, those that there are."""
    return reader.ask_photo(medium.path) if medium.kind == "photo" else reader.frames(medium.path, indices)


def lacking(indices: Iterable[int]) -> str:
    """In words that a video lacks labelled frames."""
    return f"the video has no frames {sorted(indices)}"


def read_picture(path: str, max_pixels: int) -> np.ndarray:
    """A training picture as image_rgb. Raises UserError, since training does not go on without its pictures."""
    with _refused(path):
        return read_photo(path, max_pixels)


def picture_size(path: str, max_pixels: int) -> tuple[int, int]:
    """A training picture's (height, width) from its header alone. Raises UserError as `read_picture` does."""
    with _refused(path):
        info = probe_photo(path, max_pixels)
        return info.height, info.width


@contextlib.contextmanager
def _refused(path: str) -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        raise UserError(f"{path}: {error}. Remove it or mend it; `bash run.sh check` lists all such files.") from None


def write_jpeg(path: Path, image_rgb: np.ndarray) -> None:
    """A picture as JPEG of quality 95 without colour subsampling: near to the pixels that it was made of."""
    data = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()
    write_whole(path, lambda beside: beside.write_bytes(data))


def _keys(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table[["media_id", "frame_index"]])


def _extract(media: pd.DataFrame, wanted: pd.Series, folder: Path, reader: Reader, bar) -> tuple[dict, list[dict]]:
    rows, skipped = [], []
    asked = [ask_labelled(reader, medium, wanted[medium.media_id]) for medium in media.itertuples()]
    for medium, images in zip(media.itertuples(), asked, strict=True):
        place = Path("pictures") / Path(medium.media_id).with_suffix("")
        missing = set(wanted[medium.media_id])
        try:
            for index, image_rgb in images:
                picture = ""
                if medium.kind == "video":
                    (folder / place).mkdir(parents=True, exist_ok=True)
                    picture = str(place / f"{index}.jpg")
                    write_jpeg(folder / picture, image_rgb)
                height, width = image_rgb.shape[:2]
                rows.append((medium.media_id, index, picture, width, height))
                missing.discard(index)
            if missing:
                skipped.append({"media_id": medium.media_id, "reason": lacking(missing)})
        except MediaError as error:
            skipped.append(error.entry(medium.media_id))
        bar.update()
    bar.skip(len(skipped))
    return {"table": pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)}, skipped
