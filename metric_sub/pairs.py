"""Further products of a matched item: a set's other boxes in the frame that the match names (docs/matching.md)."""

import numpy as np
import pandas as pd

from metric_sub.vote import FRAME_BOX, FRAME_KEY, ITEM_BOX, PHOTO_COLUMNS, PHOTO_KEY, VIDEO_COLUMNS
from shared.work import chunks

COLUMNS = ["item_id", "video_id", "place", "distance", "img_name", *PHOTO_KEY, *ITEM_BOX, *FRAME_KEY, *FRAME_BOX]
ROWS_AT_ONCE = 4096


def further_pairs(
    matches: pd.DataFrame,
    photos: pd.DataFrame,
    photo_vectors: np.ndarray,
    videos: pd.DataFrame,
    video_vectors: np.ndarray,
    max_distance: float,
) -> pd.DataFrame:
    """Pairs of a photo box and a frame box beside the one that each match names, of other products that both show.

    matches: as `vote.match_items` gives them. photos, videos: as `vote.cast_votes` takes them, row i belonging to row i of the
    vectors (N, D), unit length. Of a match, each box of its frame and each box of its item's photos may be a pair. Listed is at first
    the match's own pair. A pair is listed where its boxes are at most max_distance apart (compared in float32) and nearer to each
    other than either is to any box of a listed pair: what is as near to a listed box may be that product again. The nearest such pair
    is taken, then the nearest that is left, until there is none; ties by frame_rank, img_name, item_media_id, item_rank.

    Gives COLUMNS, by item_id and place (1, 2, ... as they were taken); distance is float32.
    """
    photos = photos.rename(columns=PHOTO_COLUMNS).assign(photo_row=np.arange(len(photos)))
    videos = videos.rename(columns=VIDEO_COLUMNS).assign(frame_row=np.arange(len(videos)))
    of_frame = matches[["item_id", "video_id", "video_media_id", "frame_index"]].assign(match=np.arange(len(matches)))
    candidates = of_frame.merge(
        videos[[*FRAME_KEY, *FRAME_BOX, "frame_row"]], on=["video_media_id", "frame_index"]
    ).merge(photos[["item_id", "img_name", *PHOTO_KEY, *ITEM_BOX, "photo_row"]], on="item_id")
    photo_row = _row_of_each(matches, photos, ["item_id", *PHOTO_KEY], "photo_row")
    frame_row = _row_of_each(matches, videos, FRAME_KEY, "frame_row")
    candidates["distance"] = _distances(photo_vectors, candidates.photo_row, video_vectors, candidates.frame_row)
    candidates = candidates[candidates.distance <= np.float32(max_distance)].sort_values(
        ["match", "distance", "frame_rank", "img_name", *PHOTO_KEY]
    )

    taken = []
    while len(candidates):
        own_photo, own_frame = photo_row[candidates.match], frame_row[candidates.match]
        between = [
            _distances(photo_vectors, candidates.photo_row, photo_vectors, own_photo),
            _distances(photo_vectors, candidates.photo_row, video_vectors, own_frame),
            _distances(video_vectors, candidates.frame_row, photo_vectors, own_photo),
            _distances(video_vectors, candidates.frame_row, video_vectors, own_frame),
        ]
        candidates = candidates[candidates.distance < np.min(between, axis=0)]
        nearest = candidates.drop_duplicates("match")
        photo_row[nearest.match], frame_row[nearest.match] = nearest.photo_row, nearest.frame_row
        taken.append(nearest.assign(place=len(taken) + 1))
    pairs = pd.concat([candidates.assign(place=0), *taken])
    return pairs.sort_values(["item_id", "place"], ignore_index=True)[COLUMNS]


def _row_of_each(matches: pd.DataFrame, boxes: pd.DataFrame, key: list[str], row: str) -> np.ndarray:
    """(M,) the place in `boxes` of the one that each match names."""
    return matches[key].merge(boxes[[*key, row]], on=key, how="left", validate="one_to_one")[row].to_numpy().copy()


def _distances(one: np.ndarray, one_rows: np.ndarray, other: np.ndarray, other_rows: np.ndarray) -> np.ndarray:
    """(n,) float32: row by row, between one[one_rows] and other[other_rows]."""
    one_rows, other_rows = np.asarray(one_rows), np.asarray(other_rows)
    distances = np.empty(len(one_rows), np.float32)
    for rows in chunks(len(one_rows), ROWS_AT_ONCE):
        difference = one[one_rows[rows]].astype(np.float64) - other[other_rows[rows]]  # (rows, D)
        distances[rows] = np.sqrt(np.square(difference).sum(axis=1))
    return distances
