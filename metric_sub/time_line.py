"""A video's votes along its frames, as the report draws them: a stroke per frame, the nearer the vote the taller."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

KINDS = ("other", "right", "unkept", "kept")  # of votes, in the order in which they are drawn
WIDTH, HEIGHT = 1000, 48  # of the SVG, whose width is stretched to the card's
BASE = 36  # y that strokes begin at
STRIP = {"width": WIDTH, "height": HEIGHT, "base": BASE}
LOWEST, HIGHEST = 7, 34  # strokes of the run's farthest and nearest vote
TICK = 7  # a labelled frame, under the baseline


@dataclass(frozen=True)
class TimeLine:
    """marks: kind of vote -> SVG path. shown, labelled: paths of the frames that are labelled with the right item, and without
    it. at: the match's frame in percent of the width, None without a match. cut: y of the cut-off, None where it lies beyond
    the run's distances. words: what is there."""

    marks: dict[str, str]
    shown: str
    labelled: str
    at: float | None
    cut: float | None
    words: str


def nearest_marks(votes: pd.DataFrame, item_id: str, right_id: str) -> dict[str, dict[int, float]]:
    """kind -> frame_index -> distance of the nearest such vote, frames rising; every kind is there.

    votes: those for the video (item_id, frame_index, distance, kept). item_id: its match, right_id: the item that it should
    have; '' for none. Kinds: 'kept' and 'unkept' votes of the match, 'right' of the right item where that is another, 'other'.
    """
    marks: dict[str, dict[int, float]] = {name: {} for name in KINDS}
    for kind, at, distance in sorted(_with_kinds(votes, item_id, right_id)):
        marks[kind].setdefault(at, distance)
    return marks


def count_votes(votes: pd.DataFrame, item_id: str, right_id: str) -> dict[str, int]:
    """How many votes of each kind (see `nearest_marks`) there are for a video."""
    counts = Counter(kind for kind, *_ in _with_kinds(votes, item_id, right_id))
    return {name: counts[name] for name in KINDS}


def _with_kinds(votes: pd.DataFrame, item_id: str, right_id: str) -> Iterator[tuple[str, int, float]]:
    """(kind, frame_index, distance) of each vote. A loop: a video has few votes, and there are many videos."""
    columns = (votes[name].tolist() for name in ("item_id", "kept", "frame_index", "distance"))
    for voter, kept, at, distance in zip(*columns, strict=True):
        if voter == item_id:
            yield "kept" if kept else "unkept", at, distance
        else:
            yield "right" if voter == right_id else "other", at, distance


def draw_time_line(
    votes: pd.DataFrame,
    item_id: str,
    right_id: str,
    *,
    n_frames: int,
    at: int | None,
    shown: Iterable[int],
    labelled: Iterable[int],
    near_far: tuple[float, float],
    cut_off: float,
) -> TimeLine:
    """votes, item_id, right_id: see `nearest_marks`. at: the match's frame. shown, labelled: frames, see `TimeLine`. near_far:
    the nearest and the farthest vote of the run, which are the scale's ends for all its videos."""
    near, far = near_far

    def x(frame_index: int) -> float:
        return round(WIDTH * (min(frame_index, n_frames - 1) + 0.5) / n_frames, 1)

    def y(distance: float) -> float:
        nearness = (far - distance) / ((far - near) or 1)
        return round(BASE - LOWEST - (HIGHEST - LOWEST) * nearness, 1)

    def ticks(frames: Iterable[int]) -> str:
        return "".join(f"M{x(frame):g} {BASE + 3}v{TICK}" for frame in frames)

    marks = nearest_marks(votes, item_id, right_id)
    paths = {kind: "".join(f"M{x(frame):g} {BASE}V{y(d):g}" for frame, d in marks[kind].items()) for kind in KINDS}
    shown = set(map(int, shown))
    return TimeLine(
        marks={kind: path for kind, path in paths.items() if path},
        shown=ticks(sorted(shown)),
        labelled=ticks(frame for frame in labelled if frame not in shown),
        at=None if at is None else x(at) / WIDTH * 100,
        cut=y(cut_off) if near <= cut_off <= far else None,
        words=_in_words(count_votes(votes, item_id, right_id), item_id, right_id),
    )


def _in_words(counts: dict[str, int], item_id: str, right_id: str) -> str:
    names = {
        "kept": f"kept, of item {item_id}",
        "unkept": f"not kept, of item {item_id}",
        "right": f"of the right item {right_id}",
        "other": "of other items",
    }
    told = [f"{counts[kind]} {name}" for kind, name in names.items() if counts[kind]]
    return f"Votes for this video: {', '.join(told) or 'none'}."
