"""The step media/: every photo and video of a data set with its size, and those that cannot be read on record."""

from pathlib import Path

import pandas as pd

from shared.config import Data
from shared.dataset import read_media
from shared.media import MediaError
from shared.progress import progress_bar
from shared.reader import Reader, open_reader
from shared.work import Step, chunks, table_fingerprint

MEDIA_PER_PART = 500
COLUMNS = {
    "media_id": "str",
    "kind": "str",
    "part": "str",
    "item_id": "str",
    "name": "str",
    "path": "str",
    "bytes": "int64",
    "mtime_ns": "int64",
    "width": "int64",
    "height": "int64",
    "n_frames": "int64",
    "fps": "float64",
}


def catalogue_media(root: Path, work: Path, limits: Data, fresh: bool) -> Step:
    """The finished step <work>/media: table `table` with COLUMNS, sorted by media_id; unreadable files are in its manifest."""
    found = read_media(root)
    step = Step(work / "media", {"media": table_fingerprint(found), "max_pixels": limits.max_pixels, "max_frames": limits.max_frames}, fresh)
    if not step.done:
        parts = chunks(len(found), MEDIA_PER_PART)
        done = step.standing(len(found), MEDIA_PER_PART)
        with progress_bar(total=len(found), title="media", unit="file", done=done) as bar, open_reader(limits) as reader:
            step.build_parts(len(parts), lambda k: _probe(found[parts[k]], reader, bar))
        step.finish(len(parts), ["table"], {"table": pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)})
    return step


def _probe(rows: pd.DataFrame, reader: Reader, bar) -> tuple[dict, list[dict]]:
    probed, skipped = [], []
    for row in rows.itertuples(index=False):
        try:
            info = (reader.probe_photo if row.kind == "photo" else reader.probe_video)(row.path)
            probed.append((*row, info.width, info.height, info.n_frames, info.fps))
        except MediaError as error:
            skipped.append({"media_id": row.media_id, "reason": str(error)})
            bar.skip()
        bar.update()
    return {"table": pd.DataFrame(probed, columns=list(COLUMNS)).astype(COLUMNS)}, skipped
