"""The matching rule: a photo box votes for the video of its nearest video box; near votes decide (docs/matching.md)."""

import numpy as np
import pandas as pd

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

ROUNDING = 1e-9  # votes; far below one vote, far above the rounding of a share times a count


def cast_votes(photos: pd.DataFrame, videos: pd.DataFrame, distances: np.ndarray, indices: np.ndarray) -> pd.DataFrame:
    """Step 1 of the rule: one vote per photo box, for the video box that `indices` names.

    photos (N rows): item_id, media_id, name, rank, x1, y1, x2, y2, score. videos (M rows): video_id, media_id,
    frame_index, rank, x1, y1, x2, y2, score. distances, indices: (N,), or (N, k) as `search.nearest` gives them, of
    which the first column counts.
    Gives, in the order of `photos` and with a fresh index: item_id, item_media_id, img_name, item_rank, ix1 iy1 ix2
    iy2, item_score, video_id, video_media_id, frame_index, frame_rank, fx1 fy1 fx2 fy2, frame_score, distance
    (float32).
    Without a photo box or without a video box: no rows, the same columns.
    Raises ValueError where the lengths do not fit.
    """
    if len(distances) != len(photos) or len(indices) != len(photos):
        raise ValueError(f"{len(photos)} photo boxes, but {len(distances)} distances and {len(indices)} indices")
    if photos.empty or videos.empty:
        photos, found, distance = photos.iloc[:0], np.empty(0, np.int64), np.empty(0, np.float32)
    else:
        found = np.reshape(indices, (len(photos), -1))[:, 0]
        distance = np.reshape(distances, (len(photos), -1))[:, 0]
    photo_boxes = photos[list(PHOTO_COLUMNS)].rename(columns=PHOTO_COLUMNS).reset_index(drop=True)
    video_boxes = videos[list(VIDEO_COLUMNS)].rename(columns=VIDEO_COLUMNS).iloc[found].reset_index(drop=True)
    votes = pd.concat([photo_boxes, video_boxes], axis=1)
    return votes.assign(distance=np.asarray(distance, np.float32))


def match_items(
    votes: pd.DataFrame, *, keep_quantile: float, min_share: float, max_distance: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steps 2 to 6 of the rule: at most one video per item and at most one item per video.

    votes: as `cast_votes` gives them; the order of the rows does not matter.
    keep_quantile (0..1): a vote is kept where its distance is at most this quantile of its item's distances (linear
    interpolation, inclusive). So of n votes the floor((n - 1) keep_quantile) + 1 nearest are kept, and all that are as
    near as the last of these; one vote stays one vote.
    min_share (0..1): a video must have this share of the item's kept votes, or more.
    max_distance: a match this far stays, a farther one is dropped (compared in float32, as distances are).

    Ties, ids compared as text, by code point:
    - several videos with enough votes: nearest kept vote, then smaller video_id;
    - photo box: highest item_score, then smaller img_name, item_media_id, item_rank;
    - video box: highest frame_score, then smaller frame_index, video_media_id, frame_rank;
    - several items that claim a video: nearest, then smaller item_id. The others get no video, not even their second
      best.

    Gives (matches, votes). matches, by rising item_id: item_id, video_id, distance (of the nearest kept vote), votes
    (that the item cast for the video), kept (of these), frame_index, img_name, ix1 iy1 ix2 iy2, fx1 fy1 fx2 fy2.
    votes: the rows as given, with the bool column `kept`.
    """
    of_item = votes.groupby("item_id", sort=False).distance
    n_votes = of_item.transform("size").to_numpy(np.int64)
    n_nearer = of_item.rank(method="min").to_numpy() - 1
    # A quantile between two distances keeps the lower and not the higher: counting says what interpolating would, and
    # says it exactly.
    votes = votes.assign(kept=n_nearer <= np.floor((n_votes - 1) * keep_quantile + ROUNDING))

    tally = votes.groupby(["item_id", "video_id"], as_index=False).agg(votes=("kept", "size"), kept=("kept", "sum"))
    kept = votes[votes.kept]
    nearest = kept.groupby(["item_id", "video_id"], as_index=False).distance.min()
    tally = tally.merge(nearest, on=["item_id", "video_id"])  # without the videos that have no kept vote
    kept_of_item = tally.groupby("item_id").kept.transform("sum")
    claims = tally[tally.kept >= min_share * kept_of_item - ROUNDING]
    claims = claims.sort_values(["distance", "video_id"]).drop_duplicates("item_id")
    matches = claims.sort_values(["distance", "item_id"]).drop_duplicates("video_id")
    matches = matches[matches.distance <= np.float32(max_distance)]

    evidence = kept.merge(matches[["item_id", "video_id"]], on=["item_id", "video_id"])
    photo_box = _most_confident(evidence, "item_score", ["img_name", "item_media_id", "item_rank"])
    video_box = _most_confident(evidence, "frame_score", ["frame_index", "video_media_id", "frame_rank"])
    matches = matches.merge(photo_box[["item_id", "img_name", *ITEM_BOX]], on="item_id")
    matches = matches.merge(video_box[["item_id", "frame_index", *FRAME_BOX]], on="item_id")
    columns = ["item_id", "video_id", "distance", "votes", "kept", "frame_index", "img_name", *ITEM_BOX, *FRAME_BOX]
    return matches.sort_values("item_id", ignore_index=True)[columns], votes


def _most_confident(evidence: pd.DataFrame, score: str, ties: list[str]) -> pd.DataFrame:
    """Each item's row with the highest score."""
    ordered = evidence.sort_values([score, *ties], ascending=[False] + [True] * len(ties))
    return ordered.drop_duplicates("item_id")
