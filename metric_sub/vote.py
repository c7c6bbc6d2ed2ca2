"""The matching rule: a photo box votes for the video of its nearest video box; near votes decide (docs/matching.md)."""

from typing import Literal

import numpy as np
import pandas as pd

from metric_sub.assign import optimal_pairs
from shared.tables import BOX

PHOTO_COLUMNS = {
    "item_id": "item_id",
    "media_id": "item_media_id",
    "name": "img_name",
    "rank": "item_rank",
    **{side: f"i{side}" for side in BOX},
    "score": "item_score",
}
VIDEO_COLUMNS = {
    "video_id": "video_id",
    "media_id": "video_media_id",
    "frame_index": "frame_index",
    "rank": "frame_rank",
    **{side: f"f{side}" for side in BOX},
    "score": "frame_score",
}
ITEM_BOX = [f"i{side}" for side in BOX]
FRAME_BOX = [f"f{side}" for side in BOX]
PHOTO_KEY, FRAME_KEY = ["item_media_id", "item_rank"], ["video_media_id", "frame_index", "frame_rank"]

ROUNDING = 1e-9  # votes; far below one vote, far above the rounding of a share times a count


def cast_votes(photos: pd.DataFrame, videos: pd.DataFrame, distances: np.ndarray, indices: np.ndarray) -> pd.DataFrame:
    """Step 1 of the rule: each photo box votes once for every video box that `indices` names in its row.

    photos (N rows): item_id, media_id, name, rank, x1, y1, x2, y2, score. videos (M rows): video_id, media_id,
    frame_index, rank, x1, y1, x2, y2, score. distances, indices: (N, k) as `search.nearest` gives them, k of 1 by the
    plain rule; or (N,).
    Gives N x k rows in the order of `photos`, the votes of one box in the order of its columns, with a fresh index:
    item_id, item_media_id, img_name, item_rank, ix1 iy1 ix2 iy2, item_score, video_id, video_media_id, frame_index,
    frame_rank, fx1 fy1 fx2 fy2, frame_score, distance (float32). Texts are categorical, ordered as text is: with several
    neighbours a box there are many rows, and few different texts.
    Without a photo box or without a video box: no rows, the same columns.
    Raises ValueError where the lengths do not fit.
    """
    if len(distances) != len(photos) or len(indices) != len(photos):
        raise ValueError(f"{len(photos)} photo boxes, but {len(distances)} distances and {len(indices)} indices")
    found = np.asarray(indices, np.int64).ravel()  # (N k,)
    casting = np.repeat(np.arange(len(photos)), len(found) // max(len(photos), 1))
    return pd.DataFrame(
        {new: _categorical_text(photos[old]).take(casting) for old, new in PHOTO_COLUMNS.items()}
        | {new: _categorical_text(videos[old]).take(found) for old, new in VIDEO_COLUMNS.items()}
        | {"distance": np.asarray(distances, np.float32).ravel()},
        copy=False,
    )


def _categorical_text(column: pd.Series) -> pd.api.extensions.ExtensionArray:
    return (column.astype("str").astype("category") if pd.api.types.is_string_dtype(column) else column).array


def match_items(
    votes: pd.DataFrame,
    *,
    keep_quantile: float,
    min_share: float,
    max_distance: float,
    vote_weight: Literal["count", "distance"],
    weight_scale: float,
    successive_frames: int,
    assignment: Literal["nearest", "optimal"],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steps 2 to 6 of the rule: at most one video per item and at most one item per video.

    votes: as `cast_votes` gives them; the order of the rows does not matter.
    keep_quantile (0..1): a vote is kept where its distance is at most this quantile of its item's distances (linear
    interpolation, inclusive). So of n votes the floor((n - 1) keep_quantile) + 1 nearest are kept, and all that are as
    near as the last of these; one vote stays one vote.
    vote_weight: what a kept vote counts for. 'count': 1. 'distance': exp((nearest - distance) / weight_scale) with the
    distance of the item's nearest vote, which so counts 1; a vote farther by weight_scale counts 1/e.
    successive_frames (0 or more): a kept vote counts as many times as there are frames of its video that kept votes of its
    item found and that are at most so many frames away from its own frame, which is one of them. 0: once.
    min_share (0..1): a video must have this share of the weight of the item's kept votes, or more.
    max_distance: a match this far stays, a farther one is dropped (compared in float32, as distances are).
    assignment: 'nearest' as step 6 says. 'optimal': all videos with enough weight and near enough stay candidates of their
    items, and `assign.optimal_pairs` chooses among the pairs.

    Ties, ids compared as text, by code point:
    - several videos with enough votes: nearest kept vote, then smaller video_id;
    - photo box: highest item_score, then smaller img_name, item_media_id, item_rank;
    - video box: highest frame_score, then smaller frame_index, video_media_id, frame_rank;
    - several items that claim a video: nearest, then smaller item_id. The others get no video, not even their second
      best.

    Gives (matches, votes). matches, by rising item_id: item_id, video_id, distance (of the nearest kept vote), votes
    (that the item cast for the video), kept (of these), frame_index, img_name, ix1 iy1 ix2 iy2, fx1 fy1 fx2 fy2.
    votes: the rows as given, with the columns `kept` (bool) and `weight` (float64; 0 where not kept).
    """
    item, item_ids = pd.factorize(votes.item_id, sort=True)  # whole numbers in the order of the ids: fast to compare
    video, video_ids = pd.factorize(votes.video_id, sort=True)
    distance = votes.distance.to_numpy(np.float32)
    nearest, farthest_kept = _nearest_and_quantile(item, distance, keep_quantile)
    kept = distance <= farthest_kept[item]
    n_videos = max(len(video_ids), 1)
    pair, pair_of_vote = np.unique(item * n_videos + video, return_inverse=True)

    weight = kept.astype(np.float64)
    if vote_weight == "distance":
        weight[kept] = np.exp((nearest[item[kept]].astype(np.float64) - distance[kept]) / weight_scale)
    if successive_frames:
        weight[kept] *= _frames_around(pair_of_vote[kept], votes.frame_index.to_numpy()[kept], successive_frames)

    nearest_kept = np.full(len(pair), np.inf, np.float32)
    np.minimum.at(nearest_kept, pair_of_vote[kept], distance[kept])
    pairs = pd.DataFrame(
        {
            "item": pair // n_videos,
            "video": pair % n_videos,
            "distance": nearest_kept,
            "votes": np.bincount(pair_of_vote, minlength=len(pair)),
            "kept": np.bincount(pair_of_vote[kept], minlength=len(pair)),
        }
    )
    of_pair, of_item = np.bincount(pair_of_vote, weight, len(pair)), np.bincount(item, weight, len(item_ids))
    candidates = pairs[(pairs.kept > 0) & (of_pair >= min_share * of_item[pairs.item] - ROUNDING)]
    if assignment == "nearest":
        claims = candidates.sort_values(["distance", "video"]).drop_duplicates("item")
        matches = claims.sort_values(["distance", "item"]).drop_duplicates("video")
        matches = matches[matches.distance <= np.float32(max_distance)]
    else:
        near = candidates[candidates.distance <= np.float32(max_distance)]
        columns = (near[name].to_numpy() for name in ("item", "video", "distance"))
        matches = near[optimal_pairs(*columns, max_distance)]
    matches = matches.sort_values("item")

    match_of_pair = np.full(len(pair), -1)
    match_of_pair[matches.index] = np.arange(len(matches))
    match_of_vote = np.where(kept, match_of_pair[pair_of_vote], -1)
    photo_box = _most_confident(votes, match_of_vote, "item_score", ["img_name", "item_media_id", "item_rank"])
    video_box = _most_confident(votes, match_of_vote, "frame_score", ["frame_index", "video_media_id", "frame_rank"])
    matches = pd.DataFrame(
        {
            "item_id": item_ids.take(matches.item).array,
            "video_id": video_ids.take(matches.video).array,
            **{name: matches[name].array for name in ("distance", "votes", "kept")},
            **{name: photo_box[name].array for name in ("img_name", *PHOTO_KEY, *ITEM_BOX)},
            **{name: video_box[name].array for name in (*FRAME_KEY, *FRAME_BOX)},
        }
    )
    matches = matches.astype(dict.fromkeys(matches.columns[matches.dtypes == "category"], "str"))
    return matches, votes.assign(kept=kept, weight=weight)


def _nearest_and_quantile(item: np.ndarray, distance: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each item, (items,) float32: the smallest distance, and the largest that the quantile keeps."""
    n_votes = np.bincount(item)
    first = np.cumsum(n_votes) - n_votes
    # Floats from 0 up have the order of their bits: items and distances in one whole number are sorted much faster than both.
    ordered = np.sort((item << 32) + (distance + np.float32(0)).view(np.uint32))
    ordered = ordered.astype(np.uint32).view(np.float32)  # the lower half: the distances again
    # A quantile between two distances keeps the lower and not the higher: counting says what interpolating would, and
    # says it exactly.
    place = np.floor((n_votes - 1) * quantile + ROUNDING).astype(np.int64)
    return ordered[first], ordered[first + place]


def _frames_around(pair: np.ndarray, frame: np.ndarray, reach: int) -> np.ndarray:
    """(V,) for each vote, how many frames its pair's votes found within `reach` of its own, which is one of them."""
    key = pair * (frame.max(initial=0) + reach + 1) + frame  # so far apart that no pair reaches into the next
    frames = np.unique(key)
    return np.searchsorted(frames, key + reach, "right") - np.searchsorted(frames, key - reach, "left")


def _most_confident(votes: pd.DataFrame, match: np.ndarray, score: str, ties: list[str]) -> pd.DataFrame:
    """Of each match 0, 1, ... the row with the highest score among its votes; match (V,): of each vote, -1 for none."""
    scores = votes[score].to_numpy()
    highest = np.full(match.max(initial=-1) + 1, -np.inf, scores.dtype)
    rows = np.flatnonzero(match >= 0)
    np.maximum.at(highest, match[rows], scores[rows])
    rows = rows[scores[rows] == highest[match[rows]]]
    best = votes.iloc[rows].assign(match=match[rows])
    return best.sort_values(["match", *ties]).drop_duplicates("match")
