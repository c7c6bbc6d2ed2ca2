"""What a finished run left in its work folder, read for the report."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from metric_sub.result import build_result, check_result, read_result
from metric_sub.score import Truth, score_result
from metric_sub.vote import FRAME_BOX, ITEM_BOX
from shared.catalogue import COLUMNS as MEDIA
from shared.columns import NUMBER_OR_NONE
from shared.config import Data, Match, Score
from shared.dataset import read_dataset, refuse_other_media
from shared.errors import UserError, first_fault
from shared.tables import Dataset
from shared.work import read_step

BOXES = dict.fromkeys((*ITEM_BOX, *FRAME_BOX), "float32")
PAIR = {
    **dict.fromkeys(("item_id", "video_id", "img_name", "item_media_id", "video_media_id"), "str"),
    **dict.fromkeys(("item_rank", "frame_index", "frame_rank"), "int64"),
    **BOXES,
    "distance": "float32",
}
MATCHES = {  # the tables of matches/ and their columns
    "table": {**PAIR, "votes": "int64", "kept": "int64", "probability": NUMBER_OR_NONE},
    "votes": {**PAIR, "item_score": "float32", "frame_score": "float32", "kept": "bool", "weight": "float64"},
    "pairs": {**PAIR, "place": "int64"},
}


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
    media = media_step.table("table", MEDIA)
    data = read_dataset(root, limits)
    refuse_other_media(data, media_step, root)
    rule = match_step.manifest["depends"]
    if missing := set(Match.model_fields) - rule.keys():
        raise UserError(f"{work / 'matches'}: by another version of vid2shop, without match.{min(missing)}. Run infer again.")
    try:
        Match.model_validate({key: rule[key] for key in Match.model_fields})
    except ValidationError as error:
        raise UserError(f"{work / 'matches' / 'manifest.json'}: depends: {first_fault(error)}. Run infer again.") from None
    matches, votes, pairs = (match_step.table(name, columns) for name, columns in MATCHES.items())
    _refuse_strangers(work, media, matches, votes, pairs)
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
        detected=frozenset(read_step(work / "detections" / "videos").table("table", {"item_id": "str"}).item_id),
        skipped={entry["media_id"]: entry["reason"] for entry in media_step.manifest["skipped"]},
    )


def _refuse_strangers(work: Path, media: pd.DataFrame, matches: pd.DataFrame, votes: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Raises UserError where the tables of matches/ tell of files that media/ does not have, or do not fit each other."""
    files = media.set_index("media_id")
    kinds = files.kind.to_dict()
    place = work / "matches"
    for table in (matches, votes, pairs):
        for column, kind in (("item_media_id", "photo"), ("video_media_id", "video")):
            for media_id in table[column].unique():
                if kinds.get(media_id) != kind:
                    raise UserError(f"{place}: tells of a {kind} {media_id!r}, which {work / 'media'} does not have. Run infer again.")
    keys = [set(zip(table.item_id, table.video_id, strict=True)) for table in (matches, votes, pairs)]
    if not (keys[0] <= keys[1] and keys[2] <= keys[0] and matches.video_id.is_unique and files.index.is_unique):
        raise UserError(f"{place}: its matches, votes and pairs do not belong together. Remove it and run infer again.")


def score_run(run: Run, settings: Score) -> dict | None:
    """The score (see `score.score_result`), or None where no video of the data is labelled."""
    data = run.data
    if not data.media[data.media.kind == "video"].media_id.isin(data.labelled.media_id).any():
        return None
    truth = Truth.of(data)
    return score_result(check_result(build_result(run.matches, run.pairs)), truth, **settings.model_dump())
