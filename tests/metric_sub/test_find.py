"""find: the ranking against a plain loop over all pairs, what is printed, the sheet, and mistakes in words."""

import json

import numpy as np
import pandas as pd
import pytest

from metric_sub.find import as_json, as_table, draw_pairs, rank_nearest, refuse_other_models
from shared.errors import UserError
from shared.reader import open_reader
from shared.work import Step
from tests.drawing import numbered_frames, write_video
from tests.limits import LIMITS


def boxes(ids, folder):
    n = len(ids)
    frame = {"media_id": [f"{folder}/{each}" for each in ids], "item_id": ids, "name": [f"n{k}" for k in range(n)]}
    edges = {edge: np.float32(np.arange(n) + 10 * k) for k, edge in enumerate(("x1", "y1", "x2", "y2"))}
    return pd.DataFrame({**frame, "frame_index": np.arange(n) * 8, "rank": 0, **edges, "score": np.float32(1)})


def unit_vectors(seed, n):
    vectors = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_candidates_come_by_their_nearest_pair_and_have_its_boxes():
    ids = [f"i{k}" for k in np.random.default_rng(0).integers(0, 7, 40)]
    query, gallery = boxes(["v"] * 9, "video"), boxes(ids, "image")
    asked, there = unit_vectors(1, 9), unit_vectors(2, 40)
    found = rank_nearest(query, asked, gallery, there, 1.0)
    distance = np.linalg.norm(asked[:, None].astype(np.float64) - there, axis=2)  # (9, 40)
    assert found.distance.is_monotonic_increasing and set(found.candidate) == set(ids)
    for row in found.itertuples():
        own = np.flatnonzero(np.array(ids) == row.candidate)
        q, g = np.unravel_index(distance[:, own].argmin(), (9, len(own)))
        assert row.distance == np.float32(distance[:, own].min())
        assert (row.query_name, row.candidate_name) == (f"n{q}", f"n{own[g]}")
        assert (row.candidate_x1, row.candidate_y2, row.query_frame_index) == (own[g], own[g] + 30, 8 * q)
        assert row.boxes == len(own) and row.near == (distance[:, own].min(axis=0) <= 1.0).sum()


def test_equally_near_candidates_come_by_id_and_none_is_none():
    query, gallery = boxes(["v", "v"], "video"), boxes(["b", "a", "a"], "image")
    same = np.tile(np.float32([[1, 0]]), (3, 1))
    found = rank_nearest(query, same[:2], gallery, same, 0.0)
    assert found.candidate.tolist() == ["a", "b"] and found.near.tolist() == [2, 1]
    assert found.candidate_name.tolist() == ["n1", "n0"] and found.query_name.tolist() == ["n0", "n0"]
    none = rank_nearest(query, same[:2], gallery[:0], same[:0], 1.0)
    assert none.empty and json.loads(as_json(none, "videos")) == [] and "no candidate" in as_table(none, "videos")


@pytest.mark.parametrize(
    ("kind", "id_key", "img_name", "frame_index"), [("videos", "item_id", "n1", 0), ("photos", "video_id", "n0", 8)]
)
def test_json_has_result_jsons_names_whichever_side_asks(kind, id_key, img_name, frame_index):
    query, gallery = boxes(["q"], "query"), boxes(["b", "a"], "gallery")
    found = rank_nearest(query, np.float32([[1, 0]]), gallery, np.float32([[0, 1], [0.6, 0.8]]), 1.0)
    first = json.loads(as_json(found, kind))[0]
    assert first[id_key] == "a" and first["img_name"] == img_name and first["frame_index"] == frame_index
    photo, frame = ([1, 11, 21, 31], [0, 10, 20, 30]) if kind == "videos" else ([0, 10, 20, 30], [1, 11, 21, 31])
    assert first["item_box"] == photo and first["frame_box"] == frame
    assert first["distance"] == pytest.approx(0.8**0.5, abs=1e-4) and (first["near"], first["boxes"]) == (1, 1)
    lines = as_table(found, kind).splitlines()
    assert lines[0].split()[:2] == ["rank", id_key] and lines[1].split()[:3] == ["1", "a", "0.894"] and len(lines) == 3


def test_the_sheet_has_both_pictures_of_each_candidate_and_a_blank_for_what_is_gone(tmp_path):
    write_video(tmp_path / "v.mp4", numbered_frames(20))
    query, gallery = boxes(["v"], "video"), boxes(["gone"], "image")
    found = rank_nearest(query, np.float32([[1, 0]]), gallery, np.float32([[0, 1]]), 1.0)
    asked = pd.DataFrame({"media_id": ["video/v"], "path": [str(tmp_path / "v.mp4")]})
    among = pd.DataFrame({"media_id": ["image/gone"], "path": [str(tmp_path / "gone.jpg")]})
    with open_reader(LIMITS) as reader:
        (frame, frame_words), (photo, photo_words) = draw_pairs(found, "videos", asked, among, reader)
    assert frame.size == photo.size == (240, 240) and frame_words == ["1.", "frame 0"]
    assert photo_words == ["gone, 1.414", "photo n0 cannot be read"] and len(photo.getcolors()) == 1 < len(
        frame.getcolors(10**5)
    )


@pytest.mark.parametrize(("key", "other"), [("weights", ["b"]), ("flip", False), ("descriptors", {"colour_histogram": 1.0})])
def test_vectors_of_other_models_are_refused(tmp_path, key, other):
    made = {"weights": ["a"], "flip": True, "descriptors": {"colour_histogram": 0.5}}
    steps = [Step(tmp_path / name, made | change) for name, change in (("one", {}), ("same", {}), ("other", {key: other}))]
    for step in steps:
        step.write({"table": pd.DataFrame()})
    refuse_other_models(steps[0], steps[1])
    with pytest.raises(UserError, match=rf"embedded by other models or settings \({key}\)"):
        refuse_other_models(steps[0], steps[2])
