"""What a finished run left in its work folder, read for the report."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from metric_sub.result import build_result, check_result, read_result
from metric_sub.score import Truth, score_result
from shared.config import Data, Match, Score
from shared.dataset import read_dataset, refuse_other_media
from shared.errors import UserError
from shared.tables import Dataset
from shared.work import read_step


@dataclass(frozen=True)
class Run:
    """data: as read now. paths: media_id -> path, of the same. matches, votes, pairs: the tables of matches/. rule: the settings
    that the matches were made with. fps, n_frames: media_id -> frames per second of a video (0 where unknown), and how many it
    has. detected: the videos in which a product was found. skipped: media_id -> why the file could not be read.
    """

    data: Dataset
    paths: dict[str, str]
    matches: pd.DataFrame
    votes: pd.DataFrame
    pairs: pd.DataFrame
    rule: dict
    fps: dict[str, float]
    n_frames: dict[str, int]
    detected: frozenset[str]
    skipped: dict[str, str]


def read_run(root: Path, work: Path, limits: Data) -> Run:
    """Reads data and work folder. Raises UserError where a step is not finished or the two do not belong together."""
    media_step, match_step = read_step(work / "media"), read_step(work / "matches")
    media = media_step.table("table")
    data = read_dataset(root, limits)
    refuse_other_media(data, media_step, root)
    rule = match_step.manifest["depends"]
    if missing := set(Match.model_fields) - rule.keys():
        raise UserError(f"{work / 'matches'}: by another version of vid2shop, without match.{min(missing)}. Run infer again.")
    matches, votes, pairs = (match_step.table(name) for name in ("table", "votes", "pairs"))
    path = work / "result.json"
    if read_result(path) != check_result(build_result(matches, pairs)):
        raise UserError(f"{path}: says something else than {work / 'matches'}. Run infer again: it writes it anew.")
    return Run(
        data=data,
        paths=dict(zip(data.media.media_id, data.media.path, strict=True)),
        matches=matches,
        votes=votes,
        pairs=pairs,
        rule=rule,
        fps=dict(zip(media.media_id, media.fps, strict=True)),
        n_frames=dict(zip(media.media_id, media.n_frames, strict=True)),
        detected=frozenset(read_step(work / "detections" / "videos").table("table").item_id),
        skipped={entry["media_id"]: entry["reason"] for entry in media_step.manifest["skipped"]},
    )


def score_run(run: Run, settings: Score) -> dict | None:
    """The score (see `score.score_result`), or None where no video of the data is labelled."""
    data = run.data
    if not data.media[data.media.kind == "video"].media_id.isin(data.labelled.media_id).any():
        return None
    truth = Truth.of(data)
    return score_result(check_result(build_result(run.matches, run.pairs)), truth, **settings.model_dump())
