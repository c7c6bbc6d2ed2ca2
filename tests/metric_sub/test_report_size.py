"""A report of a thousand videos stays under 60 MB, though every video is wrong and every picture as large as it may be."""

import base64
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metric_sub.cards import CardMaker
from metric_sub.finished_run import Run, score_run
from metric_sub.report import render_page
from metric_sub.thumbnails import LARGEST_HW, MOST_BYTES, small_webp, thumbnail
from metric_sub.vote import cast_votes, match_items
from shared.config import load_config
from shared.tables import BOX, LABEL_COLUMNS, Dataset
from tests.metric_sub.test_report import CONFIG, RULE

N_VIDEOS = 1000
VOTES_EACH = 12


def wrong_run(n):
    """n items and videos; the votes of item k go to video k + 1, but one, so all are matched and all are wrong."""
    ids = [f"{k:06d}" for k in range(n)]
    media = pd.DataFrame(
        [
            (f"{folder}/{item}", kind, item, "0", f"/{item}")
            for item in ids
            for folder, kind in (("i", "photo"), ("v", "video"))
        ],
        columns=["media_id", "kind", "item_id", "name", "path"],
    )
    labels = pd.DataFrame(
        [
            (f"{folder}/{item}", frame, "dress", 0, 0, 1, item, 10, 10, 90, 90)
            for item in ids
            for folder, frames in (("i", [0]), ("v", range(0, 400, 40)))
            for frame in frames
        ],
        columns=LABEL_COLUMNS,
    )
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(n), VOTES_EACH)
    video = np.where(np.arange(len(item)) % VOTES_EACH, (item + 1) % n, item)
    boxes = dict.fromkeys(BOX, 10.0) | {"score": 0.9, "rank": 0}
    photos = pd.DataFrame({"item_id": np.take(ids, item), "name": "0"}).assign(**boxes)
    videos = pd.DataFrame({"video_id": np.take(ids, video), "frame_index": rng.integers(4, 20, len(item)) * 20})
    photos["media_id"], videos["media_id"] = "i/" + photos.item_id, "v/" + videos.video_id
    distance = np.float32(rng.uniform(0.3, 1.0, len(item)))
    matches, votes = match_items(cast_votes(photos, videos.assign(**boxes), distance, np.arange(len(item))), **RULE)
    settings = load_config(CONFIG, []).match.model_dump() | RULE
    return Run(
        data=Dataset(media, labels, labels[["media_id", "frame_index"]].drop_duplicates(), dict.fromkeys(ids, "kind")),
        paths=dict(zip(media.media_id, media.path, strict=True)),
        matches=matches.assign(probability=0.5),
        votes=votes,
        pairs=matches.iloc[:0],
        rule=settings,
        fps=dict.fromkeys(media.media_id, 25.0),
        n_frames=dict.fromkeys(media.media_id, 400),
        detected=frozenset(ids),
        skipped={},
    )


def wrong_page(n, pictures):
    """The page of `wrong_run`; pictures: card number -> its three."""
    run = wrong_run(n)
    score = score_run(run, load_config(CONFIG, []).score)
    maker = CardMaker(run, score, 80)
    videos = run.data.media[run.data.media.kind == "video"]
    cards = [replace(maker.card(video), pictures=pictures(k)) for k, video in enumerate(videos.itertuples())]
    return cards, render_page("size", run, score, cards, [])


def noise(seed, grain):
    """A picture of the largest size, the harder to compress the smaller its grain (px)."""
    height, width = LARGEST_HW
    rough = np.random.default_rng(seed).integers(0, 256, (height // grain, width // grain, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("grain", [1, 2, 5, 20])
def test_picture_is_small_whatever_it_shows(grain):
    data = small_webp(noise(0, grain))
    assert len(data) <= MOST_BYTES
    picture = Image.open(io.BytesIO(data))
    assert picture.size[0] / picture.size[1] == pytest.approx(LARGEST_HW[1] / LARGEST_HW[0], rel=0.02)


def test_a_thousand_wrong_videos_stay_under_60_mb():
    picture = thumbnail("item 000000 · photo 0", noise(0, 5), {"found": np.array([10, 10, 90, 90])})
    longest = "data:image/webp;base64," + base64.b64encode(bytes(MOST_BYTES)).decode()
    assert len(picture.uri) <= len(longest)
    cards, page = wrong_page(N_VIDEOS, lambda k: [replace(picture, uri=longest)] * 3)
    assert sum(card.verdict == "wrong" and bool(card.lost) for card in cards) == N_VIDEOS
    assert page.count("<article") == N_VIDEOS
    assert len(page.encode()) < 60e6
