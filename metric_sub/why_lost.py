"""Why the right item of a video is not its match, in words, told from the item's votes and the settings of the rule."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from metric_sub.vote import ROUNDING

NAMED = 3  # videos that an item's votes went to


@dataclass
class Tally:
    """What an item cast for one video. nearest: of all its votes; nearest_kept: of the kept ones, inf without one."""

    votes: int = 0
    kept: int = 0
    weight: float = 0.0
    nearest: float = np.inf
    nearest_kept: float = np.inf


def tally_votes(votes: pd.DataFrame) -> dict[str, Tally]:
    """video_id -> what these votes are for it."""
    tallies: dict[str, Tally] = {}
    for video_id, distance, kept, weight in zip(votes.video_id, votes.distance, votes.kept, votes.weight, strict=True):
        tally = tallies.setdefault(video_id, Tally())
        tally.votes += 1
        tally.nearest = min(tally.nearest, distance)
        if kept:
            tally.kept += 1
            tally.weight += weight
            tally.nearest_kept = min(tally.nearest_kept, distance)
    return tallies


def why_lost(
    item_id: str,
    video_id: str,
    votes: pd.DataFrame,
    winner: tuple[str, float] | None,
    went_to: tuple[str, float] | None,
    rule: dict,
) -> str:
    """The step of the rule (docs/matching.md) at which the item lost the video, in one or two sentences.

    votes: all that the item cast (video_id, distance, kept, weight), also for other videos. winner: the item that the video
    was given and its distance, went_to: the video that the item was given and its distance; None for none. rule: the
    config's section `match`, of which keep_quantile, min_share, max_distance and assignment are read.
    """
    reason = _reason(item_id, video_id, tally_votes(votes), winner, rule)
    if votes.empty:
        return reason
    if went_to is None:
        return f"{reason} Item {item_id} has no match."
    return f"{reason} Item {item_id} is matched with video {went_to[0]}, at {_far(went_to[1])}."


def _reason(
    item_id: str, video_id: str, tallies: dict[str, Tally], winner: tuple[str, float] | None, rule: dict
) -> str:
    if not tallies:
        return f"Item {item_id} cast no vote: no product was detected in its photos, or none in any video."
    n_votes, n_kept = (sum(getattr(tally, name) for tally in tallies.values()) for name in ("votes", "kept"))
    here = tallies.get(video_id)
    if here is None:
        return f"Item {item_id} cast {_votes(n_votes)}, {n_kept} kept, none for this video. They went to {_places(tallies)}."
    if not here.kept:
        others = {other: tally for other, tally in tallies.items() if tally.kept}
        return (
            f"Item {item_id} cast {here.votes} of its {_votes(n_votes)} for this video, but the nearest, {_far(here.nearest)}, "
            f"is not among its nearest {rule['keep_quantile']:.0%}. Its kept votes went to {_places(others, 'kept')}."
        )
    weight = sum(tally.weight for tally in tallies.values())
    if not _enough(here, weight, rule):
        others = {other: tally for other, tally in tallies.items() if tally.kept and other != video_id}
        return (
            f"Item {item_id} has {here.kept} of its {n_kept} kept votes here, {here.weight / weight:.0%} of their weight, and "
            f"a match needs {rule['min_share']:.0%}. Others went to {_places(others, 'kept')}."
        )
    too_far = np.float32(here.nearest_kept) > np.float32(rule["max_distance"])
    dropped = f"Item {item_id} claimed this video, at {_far(here.nearest_kept)}, farther than the cut-off {rule['max_distance']:g}"
    if rule["assignment"] == "optimal":
        if too_far:
            return f"{dropped}."
        given = f"item {winner[0]}, at {_far(winner[1])}" if winner else "no item"
        return (
            f"Item {item_id} was a candidate, at {_far(here.nearest_kept)}, but the best assignment gives this video to "
            f"{given}."
        )
    candidates = [other for other, tally in tallies.items() if tally.kept and _enough(tally, weight, rule)]
    claimed = min(candidates, key=lambda other: (tallies[other].nearest_kept, other))
    if claimed != video_id:
        nearer = tallies[claimed].nearest_kept
        return (
            f"Item {item_id} claimed video {claimed}, "
            + ("as near and the smaller id" if nearer == here.nearest_kept else "nearer")
            + f": {_far(nearer)} there, {_far(here.nearest_kept)} here."
        )
    if too_far:
        return f"{dropped}." if winner is None else f"{dropped}; and item {winner[0]} was nearer, at {_far(winner[1])}."
    if winner[1] == here.nearest_kept:
        return f"Items {winner[0]} and {item_id} are equally near, {_far(winner[1])}, and the smaller id wins."
    return f"Item {winner[0]} was nearer: {_far(winner[1])} against {_far(here.nearest_kept)}."


def _enough(tally: Tally, weight: float, rule: dict) -> bool:
    return tally.weight >= rule["min_share"] * weight - ROUNDING


def _places(tallies: dict[str, Tally], count: str = "votes") -> str:
    """The videos that most votes went to, with how many: '000456 (5), 000457 (2) and 3 more'."""
    ordered = sorted(tallies, key=lambda video_id: (-getattr(tallies[video_id], count), video_id))
    named = ", ".join(f"{video_id} ({getattr(tallies[video_id], count)})" for video_id in ordered[:NAMED])
    return named + (f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else "")


def _votes(n: int) -> str:
    return f"{n} vote" if n == 1 else f"{n} votes"


def _far(distance: float) -> str:
    return f"{distance:.3f}"
