"""Whether a data set fits: what is wrong with it, and what training does about that."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from shared.boxes import clip_boxes
from shared.errors import UserError, printable
from shared.files import write_json
from shared.tables import BOX, Dataset, Problem

log = logging.getLogger("data")

OVERRUN_PX = 2  # labels may pass the picture's edge by rounding; more means that they belong to another picture
N_LISTED = 20


def misplaced_labels(dataset: Dataset, sizes: pd.DataFrame) -> pd.DataFrame:
    """Labelled boxes that pass their picture's edge by more than OVERRUN_PX: media_id, frame_index, fault (in words).

    sizes: media_id, frame_index, width, height of every picture that can be read (upright pixels).
    """
    labels = dataset.labels.merge(sizes, on=["media_id", "frame_index"])
    boxes = labels[BOX].to_numpy()
    inside = clip_boxes(boxes, labels.width.to_numpy(), labels.height.to_numpy())
    outside = labels[abs(boxes - inside).max(axis=1, initial=0) > OVERRUN_PX]
    faults = [
        f"frame {row.frame_index}: box {np.float64([row.x1, row.y1, row.x2, row.y2]).tolist()} leaves the picture of "
        f"{row.width} x {row.height}"
        for row in outside.itertuples()
    ]
    return outside[["media_id", "frame_index"]].assign(fault=faults)


def problems_of_media(dataset: Dataset, faults: list[tuple[str, str]]) -> list[Problem]:
    """Problems of (media_id, what is wrong with it)."""
    media = dataset.media.set_index("media_id")
    return [
        Problem(printable(media.path[media_id]), fault, media.part[media_id], media_id) for media_id, fault in faults
    ]


def refuse_problems(problems: list[Problem], on_error: str) -> None:
    """Raises UserError that lists the first N_LISTED problems, where there are any and on_error (data.on_error) is `refuse`."""
    if problems and on_error == "refuse":
        lines = [f"  {problem.path}: {problem.fault}" for problem in problems[:N_LISTED]]
        more = f"\n  and {len(problems) - N_LISTED} more" if len(problems) > N_LISTED else ""
        raise UserError(
            f"{len(problems)} things in the data set do not fit. Mend or remove them (`bash run.sh check` lists all), or leave "
            "them out by data.on_error=skip:\n" + "\n".join(lines) + more
        )


def settle_problems(problems: list[Problem], on_error: str, record: Path) -> None:
    """Refuses a data set with problems, as `refuse_problems` does, or, where on_error (data.on_error) is `skip`, logs how many
    things are left out and writes all of them to `record`, as a list of {path, fault}. Without problems there is no such file."""
    refuse_problems(problems, on_error)
    if not problems:
        record.unlink(missing_ok=True)
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, [{"path": problem.path, "fault": problem.fault} for problem in problems])
    log.warning(
        "%d things in the data set do not fit and are left out, for example %s (%s); all are in %s",
        len(problems),
        problems[0].path,
        problems[0].fault,
        record,
    )
