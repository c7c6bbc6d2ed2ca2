"""Which pictures of a data set calibrate INT8 weights."""

import numpy as np
import pandas as pd

from shared.config import FrameList
from shared.errors import UserError
from shared.tables import Dataset


def calibration_pictures(dataset: Dataset, frames: FrameList, n_pictures: int, seed: int) -> pd.DataFrame:
    """Photos and frames drawn at random, as many of each where there are enough: the columns of `dataset.media` and frame_index.

    Labelled ones; where none is labelled, any photos, and of videos those of `frames`. By media_id and frame_index. Raises
    UserError where there are no media.
    """
    known = dataset.labelled.merge(dataset.media, on="media_id")
    if known.empty:
        videos = dataset.media[dataset.media.kind == "video"].merge(pd.DataFrame({"frame_index": frames.indices}), how="cross")
        known = pd.concat([dataset.media[dataset.media.kind == "photo"].assign(frame_index=0), videos])
    if known.empty:
        raise UserError("no photo or video to calibrate by: --data wants the data set that the models were trained on, or one like it.")
    return draw_evenly(known, n_pictures, seed).sort_values(["media_id", "frame_index"], ignore_index=True)


def draw_evenly(rows: pd.DataFrame, n_rows: int, seed: int) -> pd.DataFrame:
    """n_rows of a table at random, or all where there are no more: half of them of kind 'photo', half of the others, as far as there are."""
    shuffled = rows.sample(frac=1, random_state=np.random.default_rng(seed))
    is_photo = shuffled.kind == "photo"
    n_photos = min(int(is_photo.sum()), max(n_rows // 2, n_rows - int((~is_photo).sum())))
    return pd.concat([shuffled[is_photo][:n_photos], shuffled[~is_photo][: n_rows - n_photos]])
