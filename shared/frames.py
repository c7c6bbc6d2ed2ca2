"""Labelled frames as pictures: each annotated frame of a training video, decoded once for both stages."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from shared.config import Data
from shared.dataset import media_fingerprint
from shared.errors import UserError
from shared.media import MediaError, probe_photo, read_photo
from shared.progress import progress_bar
from shared.reader import Reader, open_reader
from shared.tables import Dataset
from shared.work import Step, chunks, table_fingerprint, write_whole

VIDEOS_PER_PART = 8
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def extract_labelled_frames(dataset: Dataset, work: Path, limits: Data, fresh: bool) -> pd.DataFrame:
    """A picture file for every labelled photo and frame: a table (media_id, frame_index, picture).

    Photos stand for themselves; frames are written as JPEG under <work>/frames/. Frames that a video does not have are
    left out and on record in the step's manifest. Raises UserError where annotations do not fit or nothing is labelled.
    """
    refuse_problems(dataset)
    media = dataset.media[dataset.media.media_id.isin(dataset.labelled.media_id)]
    videos = media[media.kind == "video"].reset_index(drop=True)
    labelled = dataset.labelled[dataset.labelled.media_id.isin(videos.media_id)]
    step = Step(
        work / "frames",
        {
            "videos": media_fingerprint(videos),
            "labelled": table_fingerprint(labelled),
            "max_pixels": limits.max_pixels,
            "max_frames": limits.max_frames,
        },
        fresh,
    )
    empty = pd.DataFrame(
        {"media_id": pd.Series(dtype="str"), "frame_index": pd.Series(dtype="int64"), "picture": pd.Series(dtype="str")}
    )
    if not step.done:
        parts = chunks(len(videos), VIDEOS_PER_PART)
        wanted = labelled.groupby("media_id").frame_index.apply(list)
        done = step.standing(len(videos), VIDEOS_PER_PART)
        with (
            progress_bar(total=len(videos), title="labelled frames", unit="video", done=done) as bar,
            open_reader(limits) as reader,
        ):
            step.build_parts(len(parts), lambda k: _extract(videos[parts[k]], wanted, step.folder, reader, bar))
        step.finish(len(parts), ["table"], {"table": empty})
    frames = step.table("table")
    frames["picture"] = [str(step.folder / picture) for picture in frames.picture]
    photos = media[media.kind == "photo"]
    photos = pd.DataFrame({"media_id": photos.media_id, "frame_index": 0, "picture": photos.path})
    pictures = pd.concat([photos, frames], ignore_index=True).sort_values(
        ["media_id", "frame_index"], ignore_index=True
    )
    if pictures.empty:
        raise UserError(
            "no annotated photo or frame: expected image_annotation/ and video_annotation/ beside image/ and video/, "
            "or a COCO file with annotations."
        )
    return pictures


def refuse_problems(dataset: Dataset) -> None:
    """Raises UserError that lists the first twenty annotations that do not fit."""
    if dataset.problems:
        lines = [f"  {path}: {problem}" for path, problem in dataset.problems[:20]]
        raise UserError(
            "\n".join(
                [
                    f"{len(dataset.problems)} annotations do not fit; mend or remove them (`bash run.sh check` lists all):",
                    *lines,
                ]
            )
        )


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


def _extract(videos: pd.DataFrame, wanted: pd.Series, folder: Path, reader: Reader, bar) -> tuple[dict, list[dict]]:
    rows, skipped = [], []
    asked = [reader.frames(video.path, wanted[video.media_id]) for video in videos.itertuples()]
    for video, frames in zip(videos.itertuples(), asked, strict=True):
        place = Path("pictures") / Path(video.media_id).with_suffix("")
        (folder / place).mkdir(parents=True, exist_ok=True)
        missing = set(wanted[video.media_id])
        try:
            for index, image_rgb in frames:
                picture = place / f"{index}.jpg"
                write_jpeg(folder / picture, image_rgb)
                rows.append((video.media_id, index, str(picture)))
                missing.discard(index)
        except MediaError as error:
            skipped.append({"media_id": video.media_id, "reason": str(error)})
            missing.clear()
        if missing:
            skipped.append({"media_id": video.media_id, "reason": f"the video has no frames {sorted(missing)}"})
        bar.update()
    bar.skip(len(skipped))
    return {"table": pd.DataFrame(rows, columns=["media_id", "frame_index", "picture"])}, skipped
