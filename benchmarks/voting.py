"""Votes of 1,000,000 photo boxes of 100,000 items: processor seconds, and how many times faster than a loop over pandas groups.

    python -m benchmarks.voting [--items 100000]

The tables and distances are drawn at random, ten photo boxes an item, twenty video boxes for each of half as many videos. Half
of the items belong to the last video: many items that want the same few videos are the hard case of the optimal assignment.
The loop counts a hundredth of the items, and both must give the same matches.
"""

import argparse
import math
import time

import numpy as np
import pandas as pd

from metric_sub.vote import cast_votes, match_items
from shared.config import load_config
from shared.machine import PROJECT
from shared.tables import BOX

PHOTO_BOXES, VIDEO_BOXES = 10, 20
RULE = {"keep_quantile": 0.28, "min_share": 0.5, "max_distance": 1.12}
PLAIN = {"vote_weight": "count", "weight_scale": 1.0, "successive_frames": 0, "assignment": "nearest"}
OPTIONS = {
    "plain": {},
    "vote_weight: distance": {"vote_weight": "distance", "weight_scale": 0.1},
    "successive_frames: 20": {"successive_frames": 20},
    "assignment: optimal": {"assignment": "optimal"},
    "optimal, min_share: 0.1": {"assignment": "optimal", "min_share": 0.1},
}
CPU_YAML = PROJECT / "configs" / "cpu.yaml"
ROUNDS = 3


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the votes of many items.")
    parser.add_argument("--items", type=int, default=100_000, help="how many items vote (default: 100000)")
    n_items = parser.parse_args(argv).items
    photos, videos, distances, indices = random_boxes(n_items)
    print(f"{len(photos)} photo boxes of {n_items} items, {len(videos)} video boxes; best of {ROUNDS}")
    print(f"{'':26}{'cast':>8}{'match':>8}{'sum':>8}  processor seconds")
    votes = time_options(OPTIONS, photos, videos, distances, indices)
    match = load_config(CPU_YAML).match
    own_rule = {f"{CPU_YAML.name}, {match.neighbours} neighbours": {key: getattr(match, key) for key in RULE | PLAIN}}
    time_options(own_rule, photos, videos, *add_neighbours(distances, indices, match.neighbours))
    part = votes.iloc[: max(n_items // 100, 1) * PHOTO_BOXES]
    plain = part.astype({"item_id": "str", "video_id": "str"})  # what such a loop would have: groups by text
    ours, by_loop = fastest(lambda: match_items(part, **RULE, **PLAIN)), fastest(lambda: match_by_loop(plain, **RULE))
    found = match_items(part, **RULE, **PLAIN)[0]
    equal = match_by_loop(plain, **RULE) == dict(zip(found.item_id, found.video_id, strict=True))
    n_part = part.item_id.nunique()
    print(f"{n_part} items: a loop over groups / ours {by_loop / ours:.0f}, equal matches {'yes' if equal else 'no'}")


def time_options(options: dict[str, dict], photos, videos, distances, indices) -> pd.DataFrame:
    """Prints a row for each option; gives the votes."""
    votes = cast_votes(photos, videos, distances, indices)
    casting = fastest(lambda: cast_votes(photos, videos, distances, indices))
    for name, change in options.items():
        rule = RULE | PLAIN | change
        matching = fastest(lambda rule=rule: match_items(votes, **rule))
        print(f"{name:26}{casting:>8.2f}{matching:>8.2f}{casting + matching:>8.2f}")
    return votes


def fastest(work) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def random_boxes(n_items: int) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray]:
    """photos, videos, distances (N, 1), indices (N, 1): three of five boxes find their own video, nearer than the others do."""
    rng = np.random.default_rng(0)
    n_videos = max(n_items // 2, 1)
    item, video = np.repeat(np.arange(n_items), PHOTO_BOXES), np.repeat(np.arange(n_videos), VIDEO_BOXES)
    photos = box_table(rng, "item_id", item, np.tile(np.arange(PHOTO_BOXES), n_items))
    videos = box_table(rng, "video_id", video, np.tile(np.arange(VIDEO_BOXES), n_videos))
    right = rng.random(len(item)) < 0.6
    own = np.minimum(item, n_videos - 1) * VIDEO_BOXES + rng.integers(0, VIDEO_BOXES, len(item))
    indices = np.where(right, own, rng.integers(0, len(video), len(item)))
    distances = np.where(right, rng.normal(0.6, 0.15, len(item)), rng.normal(1.0, 0.1, len(item)))
    return photos, videos, distances.clip(0, 2).astype(np.float32)[:, None], indices[:, None]


def add_neighbours(distances: np.ndarray, indices: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1) -> (N, n): further boxes, drawn from all, ever farther."""
    rng = np.random.default_rng(1)
    shape = len(distances), n - 1
    indices = np.hstack([indices, rng.integers(0, indices.max() + 1, shape)])
    distances = np.hstack([distances, np.sort(rng.normal(1.05, 0.08, shape), axis=1).clip(distances, 2)])
    return distances.astype(np.float32), indices


def box_table(rng: np.random.Generator, key: str, number: np.ndarray, place: np.ndarray) -> pd.DataFrame:
    """Two boxes of each photo or frame."""
    ids = pd.Series(number).map("{:06d}".format).astype("str")
    name = pd.Series(place // 2).astype("str")
    corners = {side: rng.random(len(number), dtype=np.float32) for side in BOX}
    table = pd.DataFrame({key: ids, "rank": place % 2, "score": rng.random(len(number), dtype=np.float32), **corners})
    if key == "item_id":
        return table.assign(name=name, media_id="image/" + ids + "/" + name + ".jpg")
    return table.assign(frame_index=80 + 20 * (place // 2), media_id="video/" + ids + ".mp4")


def match_by_loop(votes: pd.DataFrame, keep_quantile: float, min_share: float, max_distance: float) -> dict[str, str]:
    """item -> video by the plain rule, an item at a time."""
    claims = []
    for item_id, own in votes.groupby("item_id"):
        ordered = own.distance.sort_values()
        own = own[own.distance <= ordered.iloc[math.floor((len(own) - 1) * keep_quantile)]]
        enough = [
            (of_video.distance.min(), item_id, video_id)
            for video_id, of_video in own.groupby("video_id")
            if len(of_video) >= min_share * len(own)
        ]
        claims += [min(enough, key=lambda claim: (claim[0], claim[2]))] if enough else []
    taken = {}
    for distance, item_id, video_id in sorted(claims):
        if distance <= np.float32(max_distance):
            taken.setdefault(video_id, item_id)
    return {item_id: video_id for video_id, item_id in taken.items()}


if __name__ == "__main__":
    main()
