"""COCO files as data sets: what fits is read exactly, what does not is listed with its place, nothing leaves the folder."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from shared import coco
from shared import dataset as reader
from shared.check import main as check
from shared.dataset import coco_files, train_and_validation
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from tests.limits import LENIENT, LIMITS


def read_dataset(root):
    return reader.read_dataset(root, LIMITS)


def read_media(root):
    return reader.read_media(root, LIMITS)[0]


def read_coco(paths):
    return coco.read_coco(paths, LIMITS.max_coco_bytes)


def read_coco_file(path):
    return coco.read_coco_file(path, LIMITS.max_coco_bytes)


CATEGORIES = [{"id": 7, "name": "bag"}, {"id": 3, "name": "käse"}]


def image(image_id, file_name):
    return {"id": image_id, "file_name": file_name, "width": 40, "height": 30}


def box(annotation_id, image_id, bbox=(1, 2, 10, 20), **changes):
    return {"id": annotation_id, "image_id": image_id, "category_id": 7, "bbox": list(bbox), "iscrowd": 0, **changes}


def write_coco(path, *, images=None, annotations=(), categories=CATEGORIES, **more):
    """A COCO file at `path`, and its pictures, black, beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [image(1, "a.png")] if images is None else images
    for entry in images:
        draw(path.parent / entry["file_name"])
    value = {"images": images, "annotations": list(annotations), "categories": categories, **more}
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def test_boxes_labels_and_pictures(tmp_path):
    path = write_coco(
        tmp_path / "coco.json",
        images=[image(5, "z.png"), image(2, "deep/er/b.png"), image(9, "empty.png")],
        annotations=[box(1, 5, (1.5, 2, 10, 20.25)), box(2, 2, category_id=3), box(4, 5, (0, 0, 40, 30))],
    )
    dataset = read_dataset(path)
    assert dataset.problems == [] and dataset.kinds == {}
    assert dataset.media.media_id.tolist() == ["deep/er/b.png", "empty.png", "z.png"]
    assert set(dataset.media.kind) == {"photo"} and set(dataset.media.part) == {"."}
    assert dataset.media.path[0] == str(tmp_path / "deep/er/b.png") and dataset.media.item_id.is_unique
    assert dataset.labels[["media_id", "frame_index", "label", "x1", "y1", "x2", "y2"]].values.tolist() == [
        ["deep/er/b.png", 0, "käse", 1, 2, 11, 22],
        ["z.png", 0, "bag", 1.5, 2, 11.5, 22.25],
        ["z.png", 0, "bag", 0, 0, 40, 30],
    ]
    assert set(dataset.labels.instance_id) == {0} and set(dataset.labels.product_id) == {""}
    assert dataset.labelled.media_id.tolist() == dataset.media.media_id.tolist()  # also the picture without a box


def test_pictures_in_images_beside_the_file(tmp_path):
    path = write_coco(tmp_path / "coco.json", images=[], annotations=[box(1, 1)])
    draw(tmp_path / "images" / "sub" / "a.png")
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": [image(1, "sub/a.png")]}))
    assert read_dataset(path).media.media_id.tolist() == ["images/sub/a.png"]


def test_each_file_of_a_folder_is_a_part(tmp_path):
    write_coco(tmp_path / "train.json", images=[image(1, "a.png")], annotations=[box(1, 1)])
    write_coco(tmp_path / "validation.json", images=[image(1, "b.png")], annotations=[box(1, 1, (0, 0, 3, 3))])
    (tmp_path / "items.json").write_text("[]")
    dataset = read_dataset(tmp_path)
    assert list(zip(dataset.media.media_id, dataset.media.part, strict=True)) == [
        ("a.png", "train"),
        ("b.png", "validation"),
    ]
    train, validation = train_and_validation(dataset, ["train"], ["validation"], 0.1)
    assert train.labels.x2.tolist() == [11] and validation.labels.x2.tolist() == [3]
    assert read_media(tmp_path).equals(dataset.media)


def test_a_folder_with_one_file_is_that_file(tmp_path):
    path = write_coco(tmp_path / "train.json", images=[image(k, f"{k}.png") for k in range(60)])
    assert read_dataset(tmp_path).media.equals(read_dataset(path).media)
    train, validation = train_and_validation(read_dataset(tmp_path), ["train"], ["validation"], 0.3)
    assert len(train.media) + len(validation.media) == 60 and len(validation.media) > 5


def test_a_folder_with_image_or_video_is_none_of_coco(tmp_path):
    write_coco(tmp_path / "train.json")
    assert coco_files(tmp_path) == [tmp_path / "train.json"]
    (tmp_path / "part" / "video").mkdir(parents=True)
    assert coco_files(tmp_path) == []
    assert coco_files(tmp_path / "train.json") == [tmp_path / "train.json"]  # named, it is meant
    assert coco_files(tmp_path / "gone.json") == []


def test_boxes_of_crowds_are_left_out_and_counted(tmp_path, caplog):
    path = write_coco(tmp_path / "c.json", annotations=[box(1, 1), box(2, 1, iscrowd=1), box(3, 1, iscrowd=1)])
    with caplog.at_level("INFO"):
        file = read_coco_file(path)
    assert file.n_crowd == 2 and len(file.boxes[1]) == 1 and file.problems == []
    assert "2 boxes of crowds" in caplog.text and str(path) in caplog.text


def test_a_file_without_annotations_has_pictures_to_search_and_nothing_labelled(tmp_path):
    path = write_coco(tmp_path / "c.json")
    path.write_text(json.dumps({"images": [image(1, "a.png")]}))
    dataset = read_dataset(path)
    assert len(dataset.media) == 1 and dataset.labelled.empty and dataset.labels.empty
    with pytest.raises(UserError, match="no annotated photo or frame"):
        extract_labelled_frames(dataset, tmp_path / "work", LIMITS, False)


GONE = {"images": [image(1, "a.png"), image(2, "gone.png")]}
PROBLEMS = {  # what replaces a part of a sound file -> words of the one problem
    "missing picture": (GONE, "image 2: no file 'gone.png'"),
    "a folder for a picture": ({"images": [image(1, "a.png"), image(2, "")]}, "image 2: no file ''"),
    "a name no file can have": ({"images": [image(1, "a.png"), image(2, "a\0b")]}, "image 2: no file"),
    "a name too long": ({"images": [image(1, "a.png"), image(2, "x" * 5000)]}, "image 2: no file"),
    "leaves the folder": ({"images": [image(1, "a.png"), image(2, "../b/a.png")]}, "image 2: file_name '../b/a.png'"),
    "absolute": ({"images": [image(1, "a.png"), image(2, "/etc/hostname")]}, "leaves the folder"),
    "image twice": (
        {"images": [image(1, "a.png"), image(1, "a.png")]},
        "images[1]: expected an id of its own, found 1",
    ),
    "picture twice": ({"images": [image(1, "a.png"), image(2, "./a.png")]}, "image 2: './a.png' belongs to another"),
    "image id": ({"images": [image(1, "a.png"), image("2", "a.png")]}, "images[1]: id: "),
    "no image": ({"images": [image(1, "a.png"), None]}, "images[1]: "),
    "category twice": ({"categories": [*CATEGORIES, {"id": 7, "name": "hat"}]}, "categories[2]: expected an id of its"),
    "name twice": ({"categories": [*CATEGORIES, {"id": 8, "name": "bag"}]}, "found 'bag' 2 times"),
    "category name": ({"categories": [*CATEGORIES, {"id": 8, "name": 5}]}, "categories[2]: name: "),
    "annotation twice": ({"annotations": [box(1, 1), box(1, 1)]}, "annotations[1]: expected an id of its own, found 1"),
    "unknown image": ({"annotations": [box(1, 1), box(4, 99)]}, "annotation 4: image_id 99"),
    "unknown category": ({"annotations": [box(1, 1), box(4, 1, category_id=1)]}, "annotation 4: category_id 1"),
    "no box": ({"annotations": [box(1, 1), {"id": 2, "image_id": 1, "category_id": 7}]}, "annotations[1]: bbox: "),
    "three numbers": ({"annotations": [box(1, 1), box(2, 1, (1, 2, 3))]}, "annotations[1]: bbox: "),
    "five numbers": ({"annotations": [box(1, 1), box(2, 1, (1, 2, 3, 4, 5))]}, "annotations[1]: bbox: "),
    "a word": ({"annotations": [box(1, 1), box(2, 1, (1, 2, 3, "4"))]}, "annotations[1]: bbox.3: "),
    "no number": ({"annotations": [box(1, 1), box(2, 1, (1, 2, float("nan"), 4))]}, "annotations[1]: bbox.2: "),
    "beyond numbers": ({"annotations": [box(1, 1), box(2, 1, (1, 2, 10**400, 4))]}, "annotations[1]: bbox.2: "),
    "inside out": ({"annotations": [box(1, 1), box(2, 1, (5, 5, -3, 4))]}, "annotation 2: bbox"),
    "flat": ({"annotations": [box(1, 1), box(2, 1, (5, 5, 3, 0))]}, "width and height above 0"),
    "crowd of two": ({"annotations": [box(1, 1), box(2, 1, iscrowd=2)]}, "annotations[1]: iscrowd: "),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_does_not_fit_is_listed_and_what_fits_stays(tmp_path, name):
    changes, words = PROBLEMS[name]
    path = write_coco(tmp_path / "coco.json")
    sound = {"images": [image(1, "a.png")], "annotations": [box(1, 1)], "categories": CATEGORIES}
    path.write_text(json.dumps({**sound, **changes}))
    dataset = read_dataset(path)
    [problem] = dataset.problems
    assert problem.path == str(path) and words in problem.fault
    lost = changes.keys() == {"images"}
    assert bool(problem.media_id) == lost and len(reader.read_media(path, LIMITS)[1]) == lost
    assert dataset.media.media_id.tolist() == ["a.png"] and len(dataset.labels) == 1


def test_annotations_of_a_missing_picture_are_no_problem_of_their_own(tmp_path):
    path = write_coco(tmp_path / "coco.json")
    path.write_text(json.dumps({**GONE, "annotations": [box(1, 2)], "categories": CATEGORIES}))
    assert len(read_dataset(path).problems) == 1


def test_a_picture_of_two_parts_is_a_problem(tmp_path):
    write_coco(tmp_path / "train.json")
    write_coco(tmp_path / "validation.json")
    [problem] = read_dataset(tmp_path).problems
    assert problem.path == str(tmp_path / "validation.json") and "a.png is also in part 'train'" in problem.fault
    assert problem.media_id == "a.png"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"images": 3}', '{"images": [], "annotations": {}}', b"\xff\xfe{", "[" * 100_000],
)
def test_another_file_is_refused_by_name(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"other\.json: expected a COCO file"):
        read_dataset(tmp_path)


def test_a_file_with_more_bytes_than_allowed_is_refused(tmp_path):
    path = write_coco(tmp_path / "coco.json", annotations=[box(1, 1)])
    n_bytes = path.stat().st_size
    assert len(coco.read_coco_file(path, n_bytes).boxes) == 1
    with pytest.raises(UserError, match=rf"coco\.json: .*{n_bytes} bytes, more than data\.max_coco_bytes \({n_bytes - 1}\)"):
        coco.read_coco_file(path, n_bytes - 1)


def test_without_one_picture_it_is_refused(tmp_path):
    path = tmp_path / "coco.json"
    for images, words in (([], "images is empty"), ([image(1, "gone.png")], "no file 'gone.png'")):
        path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
        with pytest.raises(UserError, match=rf"coco\.json.*{words}"):
            read_dataset(path)


def test_training_stops_at_problems(tmp_path):
    path = write_coco(tmp_path / "coco.json", annotations=[box(1, 1), box(2, 9)])
    with pytest.raises(UserError, match="1 things in the data set do not fit.*\n.*annotation 2: image_id 9"):
        extract_labelled_frames(read_dataset(path), tmp_path / "work", LIMITS, False)
    assert len(extract_labelled_frames(read_dataset(path), tmp_path / "work", LENIENT, False)) == 1
    [left_out] = json.loads((tmp_path / "work" / "frames" / "left_out.json").read_text())
    assert left_out == {"path": str(path), "fault": "annotation 2: image_id 9: no such id among the images"}


def test_check_counts_and_lists(tmp_path, capsys):
    path = write_coco(tmp_path / "coco.json", annotations=[box(1, 1), box(2, 1, category_id=3)])
    with pytest.raises(SystemExit) as ended:
        check(["--data", str(path)])
    assert ended.value.code == 0 and "labels: bag 1, käse 1\nfaults: 0" in capsys.readouterr().out
    write_coco(path, annotations=[box(1, 1, (0, 0, 90, 10)), box(2, 9)])
    with pytest.raises(SystemExit) as ended:
        check(["--data", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (
        ended.value.code == 1 and "faults: 2" in printed and "leaves the picture" in printed and "image_id 9" in printed
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 3), *[st.floats(0, 500, width=32)] * 2, *[st.floats(0.5, 500, width=32)] * 2),
        max_size=8,
    )
)
def test_it_reads_what_pycocotools_reads(tmp_path_factory, boxes):
    """pycocotools is the reference for which boxes a picture has; corners agree up to float32."""
    root = tmp_path_factory.mktemp("coco")
    annotations = [box(k, image_id, bbox) for k, (image_id, *bbox) in enumerate(boxes, 1)]
    path = write_coco(root / "c.json", images=[image(k, f"{k}.png") for k in range(4)], annotations=annotations)
    labels, reference = read_coco([path]).labels, COCO(str(path))
    for image_id in range(4):
        ours = labels[labels.media_id == f"{image_id}.png"][["x1", "y1", "x2", "y2"]].to_numpy()
        theirs = [entry["bbox"] for entry in reference.loadAnns(reference.getAnnIds(imgIds=[image_id]))]
        theirs = np.reshape(theirs, (-1, 4))
        np.testing.assert_allclose(ours, np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:]], 1), rtol=1e-6)
