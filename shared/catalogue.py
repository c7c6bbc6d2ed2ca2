"""The step media/: every photo and video of a data set with its size, and those that cannot be read on record."""

import json
import logging
from pathlib import Path

import pandas as pd

from shared.config import Data
from shared.dataset import read_media
from shared.errors import printable
from shared.files import write_json
from shared.media import MediaError
from shared.progress import progress_bar
from shared.reader import Reader, open_reader
from shared.work import Step, chunks, table_fingerprint, worth_another_try

log = logging.getLogger("media")

STEPS = ("media", "detections/photos", "detections/videos", "embeddings/photos", "embeddings/videos")
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


def tell_skipped(work: Path) -> None:
    """Writes <work>/skipped.json, a list of {step, media_id, reason} of all that the finished steps of inference skipped, and
    logs how many there are, where there are any."""
    found = [
        (name, entry)
        for name in STEPS
        if (work / name / "manifest.json").is_file()
        for entry in json.loads((work / name / "manifest.json").read_text(encoding="utf-8"))["skipped"]
    ]
    skipped = [{"step": name, "media_id": entry["media_id"], "reason": entry["reason"]} for name, entry in found]
    write_json(work / "skipped.json", skipped)
    again = len(worth_another_try([entry for _, entry in found]))
    if skipped:
        log.warning(
            "%d skipped, for example %s (%s); %sall are in %s",
            len(skipped),
            printable(skipped[0]["media_id"]),
            skipped[0]["reason"],
            f"the next run tries {again} of them again; " if again else "",
            work / "skipped.json",
        )


def catalogue_media(root: Path, work: Path, limits: Data, fresh: bool, strict: bool) -> Step:
    """The finished step <work>/media: table `table` with COLUMNS, sorted by media_id.

    What cannot be used is in its manifest: files that cannot be read, and what stands among the media and is none. In a finished
    step those are tried again that could not be read for a reason that may pass.
    """
    found, problems = read_media(root, limits)
    skipped = [{"media_id": problem.media_id, "reason": problem.fault} for problem in problems]
    depends = {
        "media": table_fingerprint(found),
        "left_out": skipped,
        "max_pixels": limits.max_pixels,
        "max_frames": limits.max_frames,
    }
    step = Step(work / "media", depends, fresh, strict=strict)
    parts = [slice(0, 0), *chunks(len(found), MEDIA_PER_PART)]  # the first is what is left out by its name
    if not step.done:
        with progress_bar(total=len(found), title="media", unit="file") as bar, open_reader(limits) as reader:
            step.build_parts(
                len(parts), lambda k: _probe(found[parts[k]], reader, step, bar) if k else (_table([]), skipped)
            )
        step.finish(len(parts), ["table"], _table([]))
    elif again := worth_another_try(step.manifest["skipped"]):
        with progress_bar(total=len(again), title="media", unit="file") as bar, open_reader(limits) as reader:
            for rows in (found[part] for part in parts):
                tried = rows[rows.media_id.isin(again)]
                if len(tried):
                    tables, still = _probe(tried, reader, step, bar)
                    step.amend("table", tried.media_id, tables["table"], still, found.media_id)
    return step


def _probe(rows: pd.DataFrame, reader: Reader, step: Step, bar) -> tuple[dict, list[dict]]:
    probed, skipped = [], []
    for row in rows.itertuples(index=False):
        try:
            info = (reader.probe_photo if row.kind == "photo" else reader.probe_video)(row.path)
            probed.append((*row, info.width, info.height, info.n_frames, info.fps))
        except MediaError as error:
            skipped.append(error.entry(row.media_id))
            bar.skip()
            step.refuse_skipped(skipped)
        bar.update()
    return _table(probed), skipped


def _table(rows: list[tuple]) -> dict[str, pd.DataFrame]:
    return {"table": pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)}
