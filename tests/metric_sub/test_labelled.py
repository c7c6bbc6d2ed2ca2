"""Labelled boxes as detections: which there are, the pictures under them, and the score of vectors that tell products apart."""

import json

import numpy as np
import pandas as pd
import pytest

from metric_sub.labelled import boxed_pictures, labelled_boxes, match_and_score
from shared.config import FrameList
from shared.dataset import read_dataset
from shared.reader import open_reader
from tests.drawing import COLOURS, product_box
from tests.limits import LIMITS

FRAMES = FrameList(start=0, stop=16, step=16)  # of 0, 8, 16


def pictures_of(boxes, **how):
    with open_reader(LIMITS, **how) as reader:
        return list(boxed_pictures(boxes, reader))


def test_boxes_of_photos_and_of_the_frames_that_are_asked_for(tiny_data):
    boxes = labelled_boxes(read_dataset(tiny_data, LIMITS), FRAMES)
    assert boxes.groupby("kind").size().to_dict() == {"photo": 12, "video": 6}
    assert sorted(boxes.frame_index[boxes.kind == "video"].unique()) == [0, 16]
    photo = boxes[boxes.media_id == "validation/image/000002/1.jpg"]
    assert photo["rank"].tolist() == [0, 1] and photo.instance_id.tolist() == [20000201, 0]
    assert photo.item_kind.tolist() == ["even", ""] and photo.score.tolist() == [1, 1]


def test_items_without_a_kind(tiny_data):
    (tiny_data / "items.json").write_text(json.dumps([{"item_id": "000000", "kind": "known"}]))
    boxes = labelled_boxes(read_dataset(tiny_data, LIMITS), FRAMES)
    assert set(zip(boxes.product_id, boxes.item_kind, strict=True)) == {
        ("000000", "known"), ("000001", "?"), ("000002", "?"), ("000003", "?"), ("", ""),
    }  # fmt: skip


def test_every_picture_comes_once_with_its_boxes(tiny_data):
    boxes = labelled_boxes(read_dataset(tiny_data, LIMITS), FRAMES)
    seen = []
    for places, image_rgb in pictures_of(boxes):
        rows = boxes.iloc[places]
        assert len(rows[["media_id", "frame_index"]].drop_duplicates()) == 1
        for row in rows[rows.instance_id > 0].itertuples():
            colour = image_rgb[int(row.y1) + 9, int(row.x1) + 9].astype(int)  # between two stripes
            assert abs(colour - COLOURS[row.product_id]).max() < 40
            assert row.kind == "photo" or (row.x1, row.y1, row.x2, row.y2) == product_box(row.item_id, row.frame_index)
        seen += places.tolist()
    assert sorted(seen) == list(range(len(boxes)))


def test_what_cannot_be_read_is_left_out_and_named(tiny_data, caplog):
    (tiny_data / "train" / "image" / "000000" / "0.jpg").write_bytes(b"no picture")
    (tiny_data / "train" / "video" / "000001.mp4").write_bytes(b"no video")
    annotation = tiny_data / "validation" / "video_annotation" / "000002.json"
    annotation.write_text(annotation.read_text().replace('"frame_index": 16', '"frame_index": 32'))
    boxes = labelled_boxes(read_dataset(tiny_data, LIMITS), FrameList(start=0, stop=32, step=16))
    read = np.concatenate([places for places, _ in pictures_of(boxes)])
    lost = boxes.drop(read)
    assert lost.media_id.str.contains("000000/0.jpg|000001.mp4|000002.mp4").all() and len(lost) == 4
    assert all(word in caplog.text for word in ("000000/0.jpg", "000001.mp4", "no frames [32]"))


def test_a_video_that_the_decoder_does_not_survive_is_left_out_alone(caplog):
    names = ["good", "crash", "also-good"]
    boxes = pd.DataFrame([(name, "video", name, index) for name in names for index in (0, 3)])
    boxes.columns = ["media_id", "kind", "path", "frame_index"]
    found = pictures_of(boxes, decoder="tests.shared.bad_decoder")
    assert [places.tolist() for places, _ in found] == [[0], [1], [2], [4], [5]]  # of `crash` the frame before
    assert [image_rgb[0, 0, 0] for _, image_rgb in found] == [0, 3, 0, 0, 3]
    assert "crash: left out: the decoder crashed at it (SIGSEGV)" in caplog.text


def test_vectors_that_are_the_product_match_every_video(tiny_data, tiny_config):
    dataset = read_dataset(tiny_data, LIMITS)
    boxes = labelled_boxes(dataset, FRAMES)
    numbers = np.unique(boxes.instance_id.where(boxes.instance_id > 0, -boxes.index - 1), return_inverse=True)[1]
    vectors = np.eye(numbers.max() + 1, dtype=np.float32)[numbers]  # every distractor is a thing of its own
    match = tiny_config.match.model_copy(update={"max_distance": 0.1})
    score = match_and_score(boxes, vectors, dataset, match, tiny_config.score)
    assert (score["S1"], score["S2"], score["S3"], score["N_GT"]) == (1, 1, 1, 3)


@pytest.mark.parametrize(
    "option",
    [
        {"neighbours": 4, "keep_quantile": 1.0, "vote_weight": "distance", "successive_frames": 8},
        {"assignment": "optimal", "min_share": 0.25},
        {"rerank": "expansion"},
        {"rerank": "reciprocal", "neighbours": 2},
    ],
)
def test_every_option_matches_vectors_that_are_the_product(tiny_data, tiny_config, option):
    dataset = read_dataset(tiny_data, LIMITS)
    boxes = labelled_boxes(dataset, FRAMES)
    boxes = boxes[boxes.instance_id > 0].reset_index(drop=True)  # no distractors, to be nobody's second neighbour
    vectors = np.eye(4, dtype=np.float32)[boxes.product_id.astype(int)]
    match = tiny_config.match.model_copy(update=option)
    score = match_and_score(boxes, vectors, dataset, match, tiny_config.score)
    assert score["TP"]["S1"] == score["N_GT"] == 3


def test_far_vectors_fall_to_the_cut_off(tiny_data, tiny_config):
    dataset = read_dataset(tiny_data, LIMITS)
    boxes = labelled_boxes(dataset, FRAMES)
    vectors = np.eye(len(boxes), dtype=np.float32)  # sqrt(2) apart, each from each
    match = tiny_config.match.model_copy(update={"max_distance": 1.41})
    assert match_and_score(boxes, vectors, dataset, match, tiny_config.score)["N_P"] == 0
