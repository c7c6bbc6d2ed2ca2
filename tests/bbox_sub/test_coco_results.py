"""Detections as COCO results, read back by pycocotools itself."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import bbox_sub.detections
import bbox_sub.infer
from bbox_sub.coco_results import images_path, main
from bbox_sub.detector import build_detector
from shared.config import dump_config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.weights import save_weights
from shared.work import read_step
from tests.bbox_sub.test_evaluate import ProductFinder
from tests.drawing import product_box
from tests.limits import LIMITS


@pytest.fixture
def detect(tiny_config, tmp_path, monkeypatch):
    """detect(data, category) fills a work folder with what ProductFinder sees in the data, and gives it."""

    def run(data, category="product"):
        detector = tiny_config.detector.model_copy(update={"categories": [category]})
        config = tiny_config.model_copy(update={"detector": detector})
        monkeypatch.setattr(bbox_sub.detections, "load_detector", lambda folder, **_: (ProductFinder().eval(), detector))
        weights = tmp_path / "weights"
        net = build_detector(detector, load_pretrained=False)
        save_weights(weights / "detector", net, {"kind": "detector", "architecture": detector.model_dump()})
        (weights / "config.yaml").write_text(dump_config(config))
        work = tmp_path / "work"
        bbox_sub.infer.main(["--data", str(data), "--weights", str(weights), "--work", str(work)])
        return work

    return run


@pytest.fixture
def coco_data(tiny_data):
    """A COCO file of the first photos of three items; ids as they come in other people's files."""
    root = tiny_data / "train" / "image"
    value = {
        "images": [
            {"id": 907, "file_name": "000001/0.jpg", "width": 64, "height": 96},
            {"id": 12, "file_name": "000000/0.jpg", "width": 64, "height": 96},
        ],
        "categories": [{"id": 31, "name": "top"}, {"id": 5, "name": "skirt"}],
        "annotations": [
            {"id": 1, "image_id": 12, "category_id": 31, "bbox": [10, 8, 38, 52], "area": 1976, "iscrowd": 0},
            {"id": 2, "image_id": 907, "category_id": 31, "bbox": [10, 8, 38, 52], "area": 1976, "iscrowd": 0},
        ],
    }
    (root / "coco.json").write_text(json.dumps(value))
    return root / "coco.json"


def read(path):
    return json.loads(path.read_text())


def rewrite(path, **changes):
    path.write_text(json.dumps({**read(path), **changes}))


def test_with_a_coco_file_the_ids_are_that_files(detect, coco_data, tmp_path):
    work = detect(coco_data, "top")
    out = tmp_path / "deep" / "results.json"
    main(["--work", str(work), "--data", str(coco_data), "--out", str(out)])
    assert [(row["image_id"], row["category_id"]) for row in read(out)] == [(12, 31), (907, 31)]
    assert all(row["score"] == pytest.approx(0.9) for row in read(out))
    np.testing.assert_allclose([row["bbox"] for row in read(out)], [[10, 8, 38, 52]] * 2, atol=1.5)
    assert not images_path(out).exists()
    truth = COCO(str(coco_data))
    judge = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[1] == pytest.approx(1)


def test_without_one_ids_are_made_for_every_photo_and_searched_frame(detect, tiny_data, tmp_path):
    (tiny_data / "train" / "image" / "000000" / "broken.jpg").write_bytes(b"no picture")
    work = detect(tiny_data)
    out = tmp_path / "results.json"
    main(["--work", str(work), "--out", str(out)])
    coco = COCO(str(images_path(out)))
    images = coco.loadImgs(coco.getImgIds())
    assert [image["id"] for image in images] == list(range(1, 8 + 3 * 3 + 1))
    places = [(image["file_name"], image.get("frame_index", 0)) for image in images]
    assert places == sorted(places) and ("train/video/000001.mp4", 16) in places
    assert all((image["width"], image["height"]) == (64, 96) for image in images)
    results = coco.loadRes(str(out))
    detections = [read_step(work / "detections" / kind).table("table") for kind in ("photos", "videos")]
    assert len(results.anns) == sum(map(len, detections))
    [frame] = [
        image["id"] for image in images if image["file_name"] == "train/video/000001.mp4" and image["frame_index"] == 8
    ]
    [box] = results.loadAnns(results.getAnnIds(imgIds=[frame]))
    x1, y1, x2, y2 = product_box("000001", 8)
    np.testing.assert_allclose(box["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=2)
    assert results.loadCats(box["category_id"])[0]["name"] == "product"


def test_round_trip_into_a_data_set(detect, coco_data, tmp_path):
    """What was written, put into a COCO file as its annotations, reads as the same boxes."""
    work = detect(coco_data, "top")
    out = tmp_path / "results.json"
    main(["--work", str(work), "--data", str(coco_data), "--out", str(out)])
    rewrite(coco_data, annotations=[{"id": k, **row} for k, row in enumerate(read(out))])
    labels = read_dataset(coco_data, LIMITS).labels
    table = read_step(work / "detections" / "photos").table("table")
    columns = ["media_id", "x1", "y1", "x2", "y2"]
    assert labels[columns].values.tolist() == table[columns].values.tolist()


def test_a_category_by_another_name(detect, coco_data, tmp_path, caplog):
    work, out = detect(coco_data), tmp_path / "results.json"
    main(["--work", str(work), "--data", str(coco_data), "--out", str(out)])
    assert {row["category_id"] for row in read(out)} == {5} and "useCats" in caplog.text
    truth = COCO(str(coco_data))
    judge = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    judge.params.useCats = 0
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[1] == pytest.approx(1)  # as the warning advises
    caplog.clear()
    rewrite(coco_data, categories=[{"id": 31, "name": "garment"}])
    out = tmp_path / "again.json"
    main(["--work", str(work), "--data", str(coco_data), "--out", str(out)])
    assert {row["category_id"] for row in read(out)} == {31} and "useCats" not in caplog.text


def test_boxes_in_other_pictures_are_left_out_and_counted(detect, coco_data, tmp_path, caplog):
    work, out = detect(coco_data, "top"), tmp_path / "results.json"
    rewrite(coco_data, images=read(coco_data)["images"][:1], annotations=[])
    main(["--work", str(work), "--data", str(coco_data), "--out", str(out)])
    assert [row["image_id"] for row in read(out)] == [907] and "1 boxes in pictures" in caplog.text


def test_no_file_is_written_over(detect, coco_data, tmp_path):
    work, before = detect(coco_data), coco_data.read_bytes()
    for out in (coco_data, tmp_path / "mine.json", tmp_path / "results.json"):
        (tmp_path / "mine.json").write_text("mine")
        (tmp_path / "results.images.json").write_text("mine")
        with pytest.raises(UserError, match="is there already. Move it away"):
            main(["--work", str(work), "--out", str(out)])
    assert coco_data.read_bytes() == before and (tmp_path / "results.images.json").read_text() == "mine"


def test_mistakes_are_told_in_words_and_write_nothing(detect, coco_data, tmp_path):
    work, out = detect(coco_data), tmp_path / "results.json"

    def told(words, *arguments):
        with pytest.raises(UserError, match=words):
            main(["--work", str(work), "--out", str(out), *map(str, arguments)])
        assert not out.exists() and not images_path(out).exists()

    told("nowhere: no such work folder", "--work", tmp_path / "nowhere")
    told("not finished", "--work", tmp_path)
    told("expected one COCO file.*found none", "--data", tmp_path / "gone.json")
    told("cannot be written", "--out", coco_data / "results.json")
    rewrite(coco_data, categories=[])
    told("coco.json: 2 entries do not fit, for example annotation 1: category_id 31", "--data", coco_data)
    rewrite(coco_data, annotations=[])
    told("coco.json: expected the category 'product', found none", "--data", coco_data)
    (coco_data.parent / "other.jpg").write_bytes((coco_data.parent / "000000" / "0.jpg").read_bytes())
    rewrite(coco_data, images=[{"id": 1, "file_name": "other.jpg"}])
    told("none of its pictures was searched; expected such as 000000/0.jpg, found other.jpg", "--data", coco_data)
    (coco_data.parent / "more.json").write_text("{}")
    told("expected one COCO file.*found coco.json, more.json", "--data", coco_data.parent)
