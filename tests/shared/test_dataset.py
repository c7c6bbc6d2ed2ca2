"""The data set reader: layouts, ids of any kind, annotations that fit and those that do not, splits."""

import json
from pathlib import Path

import pandas as pd
import pytest

from shared import dataset as reader
from shared.dataset import annotation_path, item_of_instance, split_parts, train_and_validation
from shared.errors import UserError
from tests.drawing import COLOURS, LABELLED_FRAMES, product_box
from tests.limits import LIMITS


def read_dataset(root):
    return reader.read_dataset(root, LIMITS)


def read_media(root):
    return reader.read_media(root, LIMITS)[0]


def touch(root, *names):
    """Empty files: the reader goes by names alone."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def ids_of(media):
    return list(zip(media.kind, media.part, media.item_id, media["name"], strict=True))


def test_several_parts(tiny_data):
    media = read_media(tiny_data)
    assert sorted(set(media.part)) == ["train", "validation"]
    assert media.media_id.is_monotonic_increasing and media.media_id.is_unique
    photos, videos = media[media.kind == "photo"], media[media.kind == "video"]
    assert sorted(photos.item_id) == sorted([*COLOURS] * 2)
    assert videos.item_id.tolist() == ["000000", "000001", "000002"]
    assert media.media_id[0] == "train/image/000000/0.jpg"
    for row in media.itertuples():
        path = tiny_data / row.media_id
        assert Path(row.path) == path and row.bytes == path.stat().st_size and row.mtime_ns == path.stat().st_mtime_ns


def test_one_folder_without_annotations(tmp_path):
    root = touch(tmp_path, "image/a/front.jpg", "image/a/back.png", "image/b/0.webp", "video/clip.mov")
    dataset = read_dataset(root)
    assert ids_of(dataset.media) == [
        ("photo", ".", "a", "back"),
        ("photo", ".", "a", "front"),
        ("photo", ".", "b", "0"),
        ("video", ".", "clip", "clip"),
    ]
    assert dataset.labels.empty and dataset.labelled.empty and dataset.kinds == {} and dataset.problems == []


@pytest.mark.parametrize("item_id", ["shoe A", "käse-7", "短袖", "a.b", "000001", "-x", "100%", "a'b\"c"])
def test_ids_of_any_kind(tmp_path, item_id):
    root = touch(tmp_path / "data", f"image/{item_id}/photo 1.v2.jpg", f"video/{item_id}.mp4")
    media = read_media(root)
    assert ids_of(media) == [("photo", ".", item_id, "photo 1.v2"), ("video", ".", item_id, item_id)]


def test_videos_may_lie_one_folder_deeper(tmp_path):
    root = touch(tmp_path, "video/shop 1/a.mp4", "video/b.mp4")
    write_json(
        root / "video_annotation/shop 1/a.json", {"video_id": "a", "frames": [{"frame_index": 3, "annotations": []}]}
    )
    dataset = read_dataset(root)
    assert dataset.media.item_id.tolist() == ["b", "a"]
    assert dataset.labelled.values.tolist() == [["video/shop 1/a.mp4", 3]]


def test_only_photos_or_only_videos_are_enough(tmp_path):
    assert read_media(touch(tmp_path / "p", "image/a/0.jpg")).kind.tolist() == ["photo"]
    assert read_media(touch(tmp_path / "v", "video/a.mp4")).kind.tolist() == ["video"]


def test_hidden_files_and_notes_are_no_media(tmp_path):
    root = touch(
        tmp_path,
        "image/a/0.jpg",
        "image/a/.DS_Store",
        "image/a/._0.jpg",
        "image/.cache/0.jpg",
        "image/a/note.txt",
        "image/Thumbs.db",
        "image/loose.jpg",
        "video/.b.mp4",
        "video/readme.md",
        "video/c.json",
        ".hidden/image/a/0.jpg",
    )
    assert read_media(root).media_id.tolist() == ["image/a/0.jpg"]


def test_the_root_itself_goes_before_folders_in_it(tmp_path):
    root = touch(tmp_path, "image/a/0.jpg", "part/image/b/0.jpg")
    assert read_media(root).media_id.tolist() == ["image/a/0.jpg"]


@pytest.mark.parametrize(
    "names", [("image/a/0.jpg", "image/a/0.png"), ("video/a.mp4", "video/a.mov"), ("video/a.mp4", "video/deep/a.mp4")]
)
def test_of_twins_the_first_is_used_and_the_other_told(tmp_path, names):
    media, [problem] = reader.read_media(touch(tmp_path, *names), LIMITS)
    first, second = sorted(names)
    assert media.media_id.tolist() == [first] and problem.media_id == second and problem.path == str(tmp_path / second)
    assert f"the same name as {first} up to the extension" in problem.fault


def test_the_same_name_elsewhere_is_no_twin(tmp_path):
    assert len(read_media(touch(tmp_path, "image/a/0.jpg", "image/b/0.jpg", "video/a.mp4", "video/0.mp4"))) == 4


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "expected image/<item>/ and video/"),
        (lambda root: touch(root, "pictures/a/0.jpg"), "pictures"),
        (lambda root: (root / "image").mkdir(parents=True), "no photo"),
        (lambda root: touch(root.parent, root.name), "no such folder"),
    ],
)
def test_a_root_without_media_is_refused(tmp_path, make, expected):
    make(tmp_path / "data")
    with pytest.raises(UserError, match="data") as caught:
        read_dataset(tmp_path / "data")
    assert expected in str(caught.value)


def test_labels_of_photos_and_frames(tiny_data):
    dataset = read_dataset(tiny_data)
    assert dataset.problems == []
    photo = dataset.labels[dataset.labels.media_id == "train/image/000001/1.jpg"]
    assert photo[["label", "viewpoint", "display", "instance_id", "product_id"]].values.tolist() == [
        ["skirt", 0, 1, 20000101, "000001"],
        ["skirt", 0, 1, 0, ""],
    ]
    assert photo[["x1", "y1", "x2", "y2"]].values.tolist() == [[10, 8, 48, 60], [4, 66, 30, 90]]
    frames = dataset.labels[dataset.labels.media_id == "validation/video/000002.mp4"]
    assert frames.frame_index.tolist() == list(LABELLED_FRAMES)
    assert frames[["x1", "y1", "x2", "y2"]].values.tolist() == [list(product_box("000002", k)) for k in LABELLED_FRAMES]
    assert len(dataset.labelled) == 4 * 2 + 3 * len(LABELLED_FRAMES)


def test_an_empty_annotation_is_labelled_and_has_no_box(tmp_path):
    root = touch(tmp_path, "image/a/0.jpg", "image/a/1.jpg")
    write_json(root / "image_annotation/a/0.json", {"annotations": []})
    dataset = read_dataset(root)
    assert dataset.labelled.values.tolist() == [["image/a/0.jpg", 0]] and dataset.labels.empty


@pytest.mark.parametrize(
    ("instance_id", "item_id"), [(20000101, "000001"), (20399902, "003999"), (21234501, "012345"), (29999999, "099999")]
)
def test_item_of_instance(instance_id, item_id):
    assert item_of_instance(instance_id) == item_id


def annotated(**changes):
    return {"label": "top", "viewpoint": 0, "display": 0, "instance_id": 20000101, "box": [1, 2, 3, 4], **changes}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"annotations": [annotated(box=[30, 2, 10, 4])]}, "x1 < x2"),
        ({"annotations": [annotated(box=[1, 2, 3, 2])]}, "y1 < y2"),
        ({"annotations": [annotated(box=[1, 2, 3])]}, "annotations.0.box"),
        ({"annotations": [annotated(box=[1, 2, 3, "wide"])]}, "annotations.0.box"),
        ({"annotations": [annotated(instance_id=7)]}, "instance_id 7"),
        ({"annotations": [annotated(instance_id=None)]}, "annotations.0.instance_id"),
        ({"annotations": [annotated(instance_id=10000101)]}, "instance_id 10000101"),
        ({"annotations": [{"box": [1, 2, 3, 4], "instance_id": 0}]}, "annotations.0.label"),
        ({}, "annotations"),
        ([], "file"),
        ("{", "JSON"),
        ("", "JSON"),
    ],
)
def test_an_annotation_that_does_not_fit_is_a_problem_with_its_file(tmp_path, value, expected):
    root = touch(tmp_path, "image/a/0.jpg", "image/a/1.jpg")
    write_json(root / "image_annotation/a/0.json", value)
    write_json(root / "image_annotation/a/1.json", {"annotations": [annotated()]})
    dataset = read_dataset(root)
    [problem] = dataset.problems
    assert problem.path == str(root / "image_annotation/a/0.json") and expected in problem.fault
    assert problem.media_id == ""  # the picture itself is sound
    assert dataset.labels.media_id.tolist() == ["image/a/1.jpg"]  # what fits stays


def test_a_problem_in_a_video_tells_the_frame(tmp_path):
    root = touch(tmp_path, "video/a.mp4")
    write_json(
        root / "video_annotation/a.json",
        {"frames": [{"frame_index": 40, "annotations": [annotated(box=[9, 0, 1, 5]), annotated()]}]},
    )
    dataset = read_dataset(root)
    assert "frame 40" in dataset.problems[0].fault and len(dataset.labels) == 1


@pytest.mark.parametrize(
    ("media_id", "part", "expected"),
    [
        ("image/a/0.jpg", ".", "image_annotation/a/0.json"),
        ("image/image/x.y.png", ".", "image_annotation/image/x.y.json"),
        ("train/image/a/0.jpg", "train", "train/image_annotation/a/0.json"),
        ("video/7.mp4", ".", "video_annotation/7.json"),
        ("video/shop/7.mp4", ".", "video_annotation/shop/7.json"),
        ("video/video/7.mp4", ".", "video_annotation/video/7.json"),
    ],
)
def test_annotation_paths(media_id, part, expected):
    assert annotation_path("/d", media_id, part) == Path("/d") / expected


def test_of_a_video_id_in_two_parts_the_first_is_used(tmp_path):
    touch(tmp_path, "train_1/video/7.mp4")
    media, [problem] = reader.read_media(touch(tmp_path, "train_2/video/7.mov"), LIMITS)
    assert media.media_id.tolist() == ["train_1/video/7.mp4"]
    assert problem.media_id == "train_2/video/7.mov" and problem.part == "train_2"


def test_kinds_come_from_the_root_or_from_above_it(tiny_data):
    kinds = {"000000": "even", "000001": "odd", "000002": "even", "000003": "odd"}
    assert read_dataset(tiny_data).kinds == kinds
    assert read_dataset(tiny_data / "train").kinds == kinds
    write_json(tiny_data / "train" / "items.json", [{"item_id": "000000", "kind": "own"}])
    assert read_dataset(tiny_data / "train").kinds == {"000000": "own"}


def test_kinds_of_videos_without_an_item(tiny_data):
    write_json(
        tiny_data / "items.json",
        [
            {"item_id": None, "video_id": "a", "kind": "N"},
            {"item_id": "b", "video_id": "c", "kind": "M"},
            {"video_id": "d", "kind": "N"},
        ],
    )
    assert read_dataset(tiny_data).kinds == {"a": "N", "b": "M", "d": "N"}


@pytest.mark.parametrize(
    "value",
    [
        "{",
        {"000000": "even"},
        [{"item_id": "000000"}],
        [{"item_id": "000000", "kind": None}],
        [{"item_id": "000000", "kind": ["P"]}],
        ["000000"],
        3,
        "[" * 100_000,
        '[{"item_id": "\\ud800", "kind": "odd"}]',
    ],
)
def test_an_items_file_of_another_shape_is_refused(tiny_data, value):
    write_json(tiny_data / "items.json", value)
    with pytest.raises(UserError, match=r"items\.json.*item_id.*kind"):
        read_dataset(tiny_data)


def test_split_by_the_first_letters_of_the_part(tmp_path):
    root = touch(
        tmp_path,
        *(
            f"{part}/image/{k}/0.jpg"
            for k, part in enumerate(("train_part1", "train_part2", "validation_part1", "test"))
        ),
    )
    dataset = read_dataset(root)
    assert sorted(split_parts(dataset, ["train"]).media.part) == ["train_part1", "train_part2"]
    assert sorted(split_parts(dataset, ["train_part2", "validation"]).media.part) == ["train_part2", "validation_part1"]
    assert split_parts(dataset, []).media.empty


def test_splitting_keeps_labels_with_their_media(tiny_data):
    dataset = read_dataset(tiny_data)
    train, validation = train_and_validation(dataset, ["train"], ["validation"], 0.1)
    assert set(train.media.part) == {"train"} and set(validation.media.part) == {"validation"}
    for side in (train, validation):
        assert set(side.labels.media_id) <= set(side.media.media_id) and set(side.labelled.media_id) <= set(
            side.media.media_id
        )
    assert len(train.labels) + len(validation.labels) == len(dataset.labels)


@pytest.mark.parametrize("part", ["", "train_part1/"])
def test_without_a_validation_part_whole_items_are_held_out(tmp_path, part):
    names = [f"{part}image/{k:06d}/{photo}.jpg" for k in range(400) for photo in "01"] + [
        f"{part}video/{k:06d}.mp4" for k in range(400)
    ]
    dataset = read_dataset(touch(tmp_path, *names))
    train, validation = train_and_validation(dataset, ["train"], ["validation"], 0.25)
    trained, held = set(train.media.item_id), set(validation.media.item_id)
    assert not trained & held and len(trained | held) == 400
    assert 70 <= len(held) <= 130  # 100 expected, standard deviation 8.7
    assert len(validation.media) == 3 * len(held)  # photos and video of an item stay together
    again = train_and_validation(dataset, ["train"], ["validation"], 0.25)
    assert again[1].media.media_id.tolist() == validation.media.media_id.tolist()
    more = set(train_and_validation(dataset, ["train"], ["validation"], 0.5)[1].media.item_id)
    assert held < more  # a larger share adds items


def test_what_is_held_out_does_not_change_when_items_come(tmp_path):
    few = read_dataset(touch(tmp_path, *(f"image/{k}/0.jpg" for k in range(100))))
    held = set(train_and_validation(few, ["train"], ["validation"], 0.3)[1].media.item_id)
    more = read_dataset(touch(tmp_path, *(f"image/{k}/0.jpg" for k in range(100, 200))))
    held_of_more = set(train_and_validation(more, ["train"], ["validation"], 0.3)[1].media.item_id)
    assert held == {item for item in held_of_more if int(item) < 100}


def test_a_side_without_media_is_refused(tiny_data):
    dataset = read_dataset(tiny_data)
    with pytest.raises(UserError, match="begins with any of .*'training'.*found .*'train', 'validation'"):
        train_and_validation(dataset, ["training"], ["validation"], 0.1)
    with pytest.raises(UserError, match="'other'"):
        train_and_validation(dataset, ["train"], ["other"], 0.0)


def test_of_media_takes_any_mask(tiny_data):
    dataset = read_dataset(tiny_data)
    videos = dataset.of_media(dataset.media.kind == "video")
    assert set(videos.media.kind) == {"video"} and videos.media.index.tolist() == [0, 1, 2]
    assert dataset.of_media(pd.Series([False] * len(dataset.media))).labels.empty
