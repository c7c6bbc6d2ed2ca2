"""Further pairs of a match: hand-worked sets, and a plain, slow reference over random cases."""

import numpy as np
import pandas as pd
import pytest

from metric_sub.calibrate import Boxes, Matcher
from metric_sub.infer import match_boxes, pair_boxes
from metric_sub.pairs import COLUMNS, further_pairs
from metric_sub.result import build_result
from metric_sub.settings import Settings
from metric_sub.vote import cast_votes, match_items
from shared.tables import BOX

RULE = {"keep_quantile": 1.0, "min_share": 0.0, "max_distance": 1.12, "vote_weight": "count"}
RULE |= {"weight_scale": 1.0, "successive_frames": 0, "assignment": "nearest"}


def unit(degrees):
    """Vectors on a circle: their distance is 2 sin(half the angle between them)."""
    radians = np.radians(np.asarray(degrees, float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


def boxes_of(id_key, rows):
    """rows: (id, file, frame_index, rank, score). Every box has corners of its own."""
    table = pd.DataFrame(rows, columns=[id_key, "name", "frame_index", "rank", "score"])
    table["media_id"] = table[id_key] + "/" + table.name
    for side, name in enumerate(BOX):
        table[name] = np.arange(len(table), dtype=np.float32) * 10 + side
    return table


def pairs_of(photos, photo_degrees, videos, video_degrees, max_distance=1.12):
    """The pairs beside the match of the one item 'a' and the one video 'v' that the first rows stand for."""
    photos, videos = boxes_of("item_id", photos), boxes_of("video_id", videos)
    x, y = unit(photo_degrees), unit(video_degrees)
    distances = np.linalg.norm(x[:1] - y[:1], axis=1)[:, None]
    votes = cast_votes(photos.iloc[:1], videos.iloc[:1], distances, np.zeros((1, 1), int))
    matches, _ = match_items(votes, **RULE)
    assert len(matches) == 1
    return further_pairs(matches, photos, x, videos, y, max_distance)


def in_short(pairs):
    return [(row.place, row.img_name, row.item_rank, row.frame_rank) for row in pairs.itertuples()]


SHIRT, SKIRT, SHOE = 0, 40, -40  # degrees


def test_the_other_product_of_a_set_is_a_further_pair():
    photos = [("a", "0", 0, 0, 0.9), ("a", "0", 0, 1, 0.8)]
    videos = [("v", "v", 80, 0, 0.9), ("v", "v", 80, 1, 0.8)]
    pairs = pairs_of(photos, [SHIRT, SKIRT], videos, [SHIRT + 5, SKIRT + 6])
    assert in_short(pairs) == [(1, "0", 1, 1)]
    assert pairs.distance[0] == pytest.approx(2 * np.sin(np.radians(3)), abs=1e-6)
    row = pairs.iloc[0]
    assert (row.item_id, row.video_id, row.frame_index) == ("a", "v", 80)
    assert [row.ix1, row.iy2, row.fx1, row.fy2] == [10, 13, 10, 13]


@pytest.mark.parametrize(
    ("photo_degrees", "frame_degrees", "max_distance", "why"),
    [
        ([SHIRT, SHIRT + 4], [SHIRT + 5, SHIRT + 8], 1.12, "the same product twice, in photo and frame"),
        ([SHIRT, SKIRT], [SHIRT + 5, SKIRT - 25], 1.12, "the frame's box is nearer to the shirt's"),
        ([SHIRT, SKIRT], [SHIRT + 5, SKIRT + 60], 1.0, "too far"),
        ([SHIRT, SKIRT], [SHIRT + 5], 1.12, "the frame shows one product"),
        ([SHIRT], [SHIRT + 5, SKIRT], 1.12, "the photos show one product"),
    ],
)
def test_no_further_pair(photo_degrees, frame_degrees, max_distance, why):
    photos = [("a", "0", 0, rank, 0.9) for rank in range(len(photo_degrees))]
    videos = [("v", "v", 80, rank, 0.9) for rank in range(len(frame_degrees))]
    assert pairs_of(photos, photo_degrees, videos, frame_degrees, max_distance).empty, why


def test_only_the_matchs_frame_video_and_item_count():
    photos = [("a", "0", 0, 0, 0.9), ("b", "0", 0, 0, 0.9)]
    videos = [("v", "v", 80, 0, 0.9), ("v", "v", 100, 0, 0.9), ("w", "w", 80, 0, 0.9)]
    assert pairs_of(photos, [SHIRT, SKIRT], videos, [SHIRT, SKIRT, SKIRT]).empty
    photos[1] = ("a", "1", 0, 0, 0.9)
    assert pairs_of(photos, [SHIRT, SKIRT], videos, [SHIRT, SKIRT, SKIRT]).empty
    videos[1] = ("v", "v", 80, 1, 0.9)
    assert in_short(pairs_of(photos, [SHIRT, SKIRT], videos, [SHIRT, SKIRT, SKIRT])) == [(1, "1", 0, 1)]


def test_three_products_the_nearer_first_and_each_once():
    photos = [("a", "0", 0, 0, 0.9), ("a", "0", 0, 1, 0.9), ("a", "1", 0, 0, 0.9), ("a", "2", 0, 0, 0.9)]
    videos = [("v", "v", 80, rank, 0.9) for rank in range(3)]
    pairs = pairs_of(photos, [SHIRT, SKIRT, SHOE, SKIRT + 2], videos, [SHIRT, SKIRT + 3, SHOE + 5])
    assert in_short(pairs) == [(1, "2", 0, 1), (2, "1", 0, 2)]  # the skirt's second photo is the nearer to its frame


def test_equally_near_pairs_go_by_rank_and_name():
    photos = [("a", "0", 0, 0, 0.9), ("a", "2", 0, 0, 0.9), ("a", "1", 0, 0, 0.9)]
    videos = [("v", "v", 80, 0, 0.9), ("v", "v", 80, 1, 0.9)]
    assert in_short(pairs_of(photos, [SHIRT, SKIRT, SKIRT], videos, [SHIRT, SKIRT])) == [(1, "1", 0, 1)]


def test_without_a_match_no_pair_and_the_same_columns():
    photos, videos = boxes_of("item_id", [("a", "0", 0, 0, 0.9)]), boxes_of("video_id", [("v", "v", 80, 0, 0.9)])
    votes = cast_votes(photos, videos, np.full((1, 1), 1.5), np.zeros((1, 1), int))
    matches, _ = match_items(votes, **RULE)
    pairs = further_pairs(matches, photos, unit([0]), videos, unit([0]), 1.12)
    assert pairs.empty and list(pairs) == COLUMNS


def slow_pairs(x, y, own, max_distance):
    """Of one match, by the words of the docs. x, y: vectors of its item's photo boxes and its frame's boxes."""
    listed, made = [own], []
    while True:
        possible = []
        for p in range(len(x)):
            for f in range(len(y)):
                d = np.linalg.norm(x[p] - y[f])
                others = [np.linalg.norm(u - v) for q, g in listed for u in (x[p], y[f]) for v in (x[q], y[g])]
                if d <= max_distance and d < min(others):
                    possible.append((d, p, f))
        if not possible:
            return made
        _, p, f = min(possible)
        listed.append((p, f))
        made.append((p, f))


def test_random_sets_against_the_slow_reference():
    rng = np.random.default_rng(0)
    n_pairs = 0
    for _ in range(50):
        photos, videos, x, y = [], [], [], []
        for match in range(3):
            products = rng.normal(size=(4, 6))
            for file in range(rng.integers(1, 4)):
                for rank in range(rng.integers(1, 4)):
                    photos.append((f"i{match}", str(file), 0, rank, 0.9))
                    x.append(products[rng.integers(4)] + 0.3 * rng.normal(size=6))
            for rank in range(rng.integers(1, 5)):
                videos.append((f"v{match}", "v", 80, rank, 0.9))
                y.append(products[rng.integers(4)] + 0.3 * rng.normal(size=6))
        photos, videos = boxes_of("item_id", photos), boxes_of("video_id", videos)
        x, y = (np.array([v / np.linalg.norm(v) for v in rows], np.float32) for rows in (x, y))
        max_distance = rng.uniform(0.3, 1.2)
        own = [(photos.index[photos.item_id == f"i{k}"][0], videos.index[videos.video_id == f"v{k}"][0]) for k in range(3)]
        rows = [p for p, _ in own]
        votes = cast_votes(photos.iloc[rows], videos, np.full((3, 1), 0.1), np.array([[f] for _, f in own]))
        matches, _ = match_items(votes, **RULE)
        pairs = further_pairs(matches, photos, x, videos, y, max_distance)
        for k in range(3):
            of_item, of_video = photos.index[photos.item_id == f"i{k}"], videos.index[videos.video_id == f"v{k}"]
            expected = slow_pairs(x[of_item].astype(float), y[of_video].astype(float), (0, 0), max_distance)
            made = pairs[pairs.item_id == f"i{k}"]
            assert [(row.ix1, row.fx1) for row in made.itertuples()] == [
                (photos.x1[of_item[p]], videos.x1[of_video[f]]) for p, f in expected
            ]
            n_pairs += len(made)
    assert n_pairs > 40


@pytest.mark.parametrize(("pairs", "listed"), [("one", ["0"]), ("products", ["0", "1"])])
def test_the_config_tells_whether_result_lists_them(tiny_config, pairs, listed):
    photos = boxes_of("item_id", [("a", "0", 0, 0, 0.9), ("a", "1", 0, 0, 0.8)])
    videos = boxes_of("item_id", [("v", "v", 80, 0, 0.9), ("v", "v", 80, 1, 0.8)])
    sides = photos, unit([SHIRT, SKIRT]), videos, unit([SHIRT + 5, SKIRT + 6])
    match = tiny_config.match.model_copy(update={"pairs": pairs, "max_distance": 1.12})
    matches, _ = match_boxes(*sides, match)
    entry = build_result(matches, pair_boxes(matches, *sides, match))["v"]
    assert [box["img_name"] for box in entry["result"]] == listed
    assert all(entry["result"][k]["frame_box"][0] == 10 * k for k in range(len(listed)))


@pytest.mark.parametrize(("video_score", "listed"), [(0.5, ["0", "1"]), (0.85, ["0"])])
def test_calibrate_pairs_the_boxes_over_its_thresholds(tiny_config, video_score, listed):
    photos = boxes_of("item_id", [("a", "0", 0, 0, 0.9), ("a", "1", 0, 0, 0.9)])
    videos = boxes_of("item_id", [("v", "v", 80, 0, 0.9), ("v", "v", 80, 1, 0.8)])
    boxes = Boxes(photos, unit([SHIRT, SKIRT]), videos, unit([SHIRT + 5, SKIRT + 6]))
    matcher = Matcher(boxes, False, tiny_config.match.model_copy(update={"pairs": "products"}))
    entry = matcher.result(Settings(video_score, 0.5, tiny_config.match.min_share), 1.12)["v"]
    assert [box["img_name"] for box in entry["result"]] == listed
