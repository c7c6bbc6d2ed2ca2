"""The matching rule against a slow reference that follows it as written, over random cases, and properties that it has."""

import math
import random
from collections import namedtuple
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items

PLAIN = {"vote_weight": "count", "weight_scale": 1.0, "successive_frames": 0, "assignment": "nearest"}
RULE = {"keep_quantile": 0.28, "min_share": 0.5, "max_distance": 1.12, **PLAIN}

Photo = namedtuple("Photo", "item_id media_id name rank score place")
Video = namedtuple("Video", "video_id media_id frame_index rank score place")


def random_case(rng, prefix, at_least=1):
    """A few boxes in which ties of every sort are frequent: their vectors have one value each, few different ones; video boxes
    are `at_least` so many."""
    scores, places = [0.5, 0.75, 0.875], [rng.randrange(12) / 8 for _ in range(rng.randint(1, 6))]
    photos, videos = [], []
    for item in range(rng.randint(1, 5)):
        for box in range(rng.choice([1, 1, 2, 3, 4, 5, 8])):
            name, ending = str(box // 4), ("jpg", "png")[box // 2 % 2]  # two photos of one name
            media_id = f"{prefix}image/i{item}/{name}.{ending}"
            photos.append(Photo(f"{prefix}i{item}", media_id, name, box % 2, rng.choice(scores), rng.choice(places)))
    for video in range(rng.randint(1, 4)):
        for box in range(rng.randint(at_least, 4)):
            frame = 20 * (box // 2) + 20 * rng.randrange(2) * (box // 2)
            media_id = f"{prefix}video/v{video}.mp4"
            videos.append(Video(f"{prefix}v{video}", media_id, frame, box % 2, rng.choice(scores), rng.choice(places)))
    return photos, videos


def reference(photos, videos, *, keep_quantile, min_share, max_distance, neighbours, successive_frames):
    """The rule as a person would follow it by hand, in exact numbers. {item: (video, distance, votes, kept, photo, video box)}."""
    votes = []
    for i, photo in enumerate(photos):
        ordered = sorted(range(len(videos)), key=lambda k: (abs(videos[k].place - photo.place), k))
        votes += [(i, k, abs(videos[k].place - photo.place)) for k in ordered[:neighbours]]
    claims = []
    for item in {photo.item_id for photo in photos}:
        own = [vote for vote in votes if photos[vote[0]].item_id == item]
        distances = sorted(distance for _, _, distance in own)
        place = (len(own) - 1) * keep_quantile
        low, high = Fraction(distances[math.floor(place)]), Fraction(distances[math.ceil(place)])
        threshold = low + (place - math.floor(place)) * (high - low)
        near = [vote for vote in own if vote[2] <= threshold]
        weight_of = {}
        for vote in near:
            box = videos[vote[1]]
            boxes = [videos[k] for _, k, _ in near if videos[k].video_id == box.video_id]
            agree = {each.frame_index for each in boxes if abs(each.frame_index - box.frame_index) <= successive_frames}
            weight_of[box.video_id] = weight_of.get(box.video_id, 0) + len(agree)
        candidates = []
        for video in weight_of:
            found = [vote for vote in near if videos[vote[1]].video_id == video]
            if weight_of[video] >= min_share * sum(weight_of.values()):
                candidates.append((min(distance for _, _, distance in found), video, found))
        if candidates:
            distance, video, found = min(candidates, key=lambda candidate: candidate[:2])
            photo = min(
                (vote[0] for vote in found), key=lambda i: (-photos[i].score, *photos[i][2:0:-1], photos[i].rank)
            )
            frame = min(
                (vote[1] for vote in found), key=lambda k: (-videos[k].score, videos[k].frame_index, videos[k].rank)
            )
            cast = sum(videos[k].video_id == video for _, k, _ in own)
            claims.append((distance, item, video, cast, len(found), photos[photo], videos[frame]))
    answer, taken = {}, set()
    for distance, item, video, *rest in sorted(claims):
        if video not in taken and distance <= max_distance:
            taken.add(video)
            answer[item] = (video, distance, *rest)
    return answer


def tables_of(photos, videos):
    """The cases' tables; a box has its place in the list for x1."""
    text = dict.fromkeys(("item_id", "video_id", "media_id", "name"), "str")
    tables = []
    for rows, fields in ((photos, Photo._fields), (videos, Video._fields)):
        table = pd.DataFrame(rows, columns=fields).astype({"score": "float32", "rank": "int64"})
        table = table.astype({name: kind for name, kind in text.items() if name in table})
        corners = np.arange(len(table), dtype=np.float32)
        tables.append(table.assign(x1=corners, y1=corners, x2=corners, y2=corners))
    return tables


def search(photos, videos, neighbours):
    """What search.nearest finds for the places of the boxes, 1-dimensional vectors."""
    query, gallery = (np.array([[box.place] for box in boxes], np.float32) for boxes in (photos, videos))
    return nearest(query, gallery, neighbours)


def match_case(photos, videos, *, neighbours, **rule):
    distances, indices = search(photos, videos, neighbours)
    return match_items(cast_votes(*tables_of(photos, videos), distances, indices), **rule)


@pytest.mark.parametrize(
    ("quantile", "share", "largest", "neighbours", "successive"),
    [
        ("0.28", "0.5", "1.125", 1, 0),
        ("0.28", "0.5", "0.5", 1, 0),
        ("0", "0.5", "2", 1, 0),
        ("1", "0.5", "0.25", 1, 0),
        ("0.5", "0.25", "1.25", 1, 0),
        ("0.28", "0", "2", 1, 0),
        ("0.6", "1", "1.125", 1, 0),
        ("0.28", "0.5", "1.125", 3, 0),
        ("1", "0.4", "1.0", 3, 0),
        ("1", "0.5", "2", 3, 20),
    ],
)
def test_agrees_with_the_slow_reference(quantile, share, largest, neighbours, successive):
    """1,000 cases a rule. Their votes are counted in one call: each has ids of its own, so that none disturbs another."""
    rule = {"keep_quantile": quantile, "min_share": share, "max_distance": largest}
    exact = {name: Fraction(value) for name, value in rule.items()}
    rng = random.Random(f"{quantile} {share} {largest} {neighbours} {successive}")
    expected, all_photos, all_videos, found = {}, [], [], []
    for number in range(1000):
        photos, videos = random_case(rng, f"{number:03d}", at_least=neighbours)
        expected |= reference(photos, videos, **exact, neighbours=neighbours, successive_frames=successive)
        distances, indices = search(photos, videos, neighbours)
        found.append((distances, indices + len(all_videos)))
        all_photos += photos
        all_videos += videos
    photo_table, video_table = tables_of(all_photos, all_videos)
    distances, indices = map(np.concatenate, zip(*found, strict=True))
    votes = cast_votes(photo_table, video_table, distances, indices).sample(frac=1, random_state=0)
    plain = {**PLAIN, "successive_frames": successive}
    matches, _ = match_items(votes, **{name: float(value) for name, value in rule.items()}, **plain)
    found = {
        row.item_id: (
            row.video_id,
            row.distance,
            row.votes,
            row.kept,
            all_photos[int(row.ix1)],
            all_videos[int(row.fx1)],
        )
        for row in matches.itertuples()
    }
    assert len(expected) > 300 and found == expected


# --- properties --------------------------------------------------------------------------------------------------------

some_case = st.builds(random_case, st.randoms(use_true_random=False), st.just("p"))
some_rule = st.sampled_from(
    [
        {**RULE, "neighbours": 1},
        {**RULE, "neighbours": 1, "assignment": "optimal", "min_share": 0.25},
        {**RULE, "neighbours": 3, "keep_quantile": 0.75, "vote_weight": "distance", "weight_scale": 0.25},
        {**RULE, "neighbours": 3, "keep_quantile": 1.0, "successive_frames": 20},
        {**RULE, "neighbours": 2, "keep_quantile": 1.0, "vote_weight": "distance", "successive_frames": 20,
         "assignment": "optimal"},
    ]
)  # fmt: skip
few = settings(max_examples=20, deadline=None, derandomize=True)


@given(case=some_case, rule=some_rule, seed=st.integers(0, 1000))
@few
def test_the_order_of_the_rows_does_not_matter(case, rule, seed):
    photos, videos = case
    distances, indices = search(photos, videos, rule["neighbours"])
    votes = cast_votes(*tables_of(photos, videos), distances, indices)
    rule = {name: value for name, value in rule.items() if name != "neighbours"}
    matches, with_kept = match_items(votes, **rule)
    again, shuffled = match_items(votes.sample(frac=1, random_state=seed), **rule)
    pd.testing.assert_frame_equal(matches, again)
    pd.testing.assert_frame_equal(with_kept, shuffled.sort_index())


@given(case=some_case, rule=some_rule, video=st.sampled_from(["pv0", "a new one", "z new"]), at=st.integers(0, 20))
@few
def test_a_farther_video_box_changes_no_answer(case, rule, video, at):
    """At a place 3 or more away from all others; wherever it comes in the table, and with the highest score."""
    photos, videos = case
    rule = {**rule, "neighbours": min(rule["neighbours"], len(videos))}
    before, _ = match_case(photos, videos, **rule)
    places = [box.place for box in videos]
    farther = Video(video, "another.mp4", 20, 0, 1.0, 5.0)
    after, _ = match_case(photos, [*videos[:at], farther, *videos[at:]], **rule)
    assert max(places) < 2
    boxes = ["fx1", "fy1", "fx2", "fy2"]  # which say the place in the list
    pd.testing.assert_frame_equal(before.drop(columns=boxes), after.drop(columns=boxes))
    moved = before[boxes] + (before[boxes] >= at)
    pd.testing.assert_frame_equal(moved.astype("float32"), after[boxes])


@given(case=some_case, rule=some_rule, data=st.data())
@few
def test_ids_may_have_any_names_of_the_same_order(case, rule, data):
    """Also such as UTF-16 or a locale would put in another order."""
    photos, videos = case
    signs = st.text("09aZz_ é\uffee\U0001f457", min_size=1, max_size=4)
    names = {}
    for ids in ({photo.item_id for photo in photos}, {video.video_id for video in videos}):
        new = data.draw(st.lists(signs, min_size=len(ids), max_size=len(ids), unique=True))
        names |= dict(zip(sorted(ids), sorted(new), strict=True))
    before, _ = match_case(photos, videos, **rule)
    renamed = [photo._replace(item_id=names[photo.item_id]) for photo in photos]
    after, _ = match_case(renamed, [video._replace(video_id=names[video.video_id]) for video in videos], **rule)
    before = before.assign(item_id=before.item_id.map(names), video_id=before.video_id.map(names))
    assert before.to_dict("records") == after.to_dict("records")


@given(case=some_case, rule=some_rule)
@few
def test_what_every_answer_has(case, rule):
    matches, votes = match_case(*case, **rule)
    assert matches.video_id.is_unique and matches.item_id.is_unique
    assert (matches.distance <= np.float32(rule["max_distance"])).all()
    assert votes.groupby("item_id").kept.any().all()  # an item with votes keeps at least one
    assert ((votes.weight > 0) == votes.kept).all()
    for match in matches.itertuples():
        cast = votes[(votes.item_id == match.item_id) & (votes.video_id == match.video_id)]
        proof = cast[cast.kept]
        assert (len(cast), len(proof)) == (match.votes, match.kept) and match.kept >= 1
        assert match.distance == proof.distance.min()
        assert match.ix1 in set(proof.ix1) and match.fx1 in set(proof.fx1)
        weight = votes.weight[votes.item_id == match.item_id].sum()
        assert proof.weight.sum() >= rule["min_share"] * weight - 1e-6


@given(case=some_case, rule=some_rule)
@few
def test_a_farther_item_changes_nobody_elses_match(case, rule):
    photos, videos = case
    before, _ = match_case(photos, videos, **rule)
    after, _ = match_case([*photos, Photo("q-last", "q.jpg", "0", 0, 1.0, 5.0)], videos, **rule)
    pd.testing.assert_frame_equal(before, after)
