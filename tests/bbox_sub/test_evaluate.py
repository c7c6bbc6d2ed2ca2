"""COCO's average precision on cases worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from bbox_sub.evaluate import average_precision, evaluate_detector
from bbox_sub.targets import LabelledPicture
from shared.config import Config

SIZE = (300, 300)
BOX = [0.0, 0.0, 100.0, 100.0]


def truth(*boxes, labels=None):
    return np.float32(boxes).reshape(-1, 4), np.array(labels or [1] * len(boxes), np.int64), SIZE


def found(*boxes_and_scores, labels=None):
    boxes = np.float32([box for box, _ in boxes_and_scores]).reshape(-1, 4)
    return boxes, np.float32([score for _, score in boxes_and_scores]), np.array(labels or [1] * len(boxes), np.int64)


def lower(height):
    """A box whose IoU with BOX is height / 100."""
    return [0.0, 0.0, 100.0, float(height)]


FAR, ELSEWHERE = [150.0, 150.0, 250.0, 250.0], [200.0, 0.0, 290.0, 90.0]

CASES = {  # truth and detections by picture -> mAP, AP50, AR
    "perfect": (
        [truth(BOX, FAR), truth(ELSEWHERE)],
        [found((BOX, 0.9), (FAR, 0.8)), found((ELSEWHERE, 0.7))],
        (1, 1, 1),
    ),
    # Recall reaches a half: precision is 1 at the recall thresholds 0, 0.01, ..., 0.50, which are 51 of 101.
    "one of two missed": ([truth(BOX, FAR)], [found((BOX, 0.9))], (51 / 101, 51 / 101, 0.5)),
    "one of two pictures missed": ([truth(BOX), truth(BOX)], [found((BOX, 0.9)), found()], (51 / 101, 51 / 101, 0.5)),
    # IoU 0.72 is enough for 0.50, 0.55, 0.60, 0.65 and 0.70: five of ten thresholds.
    "half of the thresholds": ([truth(BOX)], [found((lower(72), 0.9))], (0.5, 1, 0.5)),
    "IoU under a half": ([truth(BOX)], [found((lower(48), 0.9))], (0, 0, 0)),
    # A better-scored wrong box: the right one comes second, so precision is a half at every recall.
    "a false alarm before": ([truth(BOX)], [found((FAR, 0.9), (BOX, 0.8))], (0.5, 0.5, 1)),
    "a false alarm after": ([truth(BOX)], [found((BOX, 0.9), (FAR, 0.8))], (1, 1, 1)),
    "a false alarm in a picture without boxes": (
        [truth(), truth(BOX)],
        [found((FAR, 0.9)), found((BOX, 0.8))],
        (0.5, 0.5, 1),
    ),
    "found twice": ([truth(BOX)], [found((BOX, 0.9), (lower(97), 0.8))], (1, 1, 1)),
    "nothing found": ([truth(BOX)], [found()], (0, 0, 0)),
    "nothing to find": ([truth(), truth()], [found((BOX, 0.9)), found()], (0, 0, 0)),
    "no pictures": ([], [], (0, 0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    truths, detections, expected = CASES[name]
    metrics = average_precision(truths, detections, ["product"])
    assert list(metrics) == ["mAP", "AP50", "AR"]
    assert tuple(metrics.values()) == pytest.approx(expected, abs=1e-9)


def test_the_mean_over_categories_that_there_are():
    truths = [truth(BOX, FAR, labels=[1, 2])]
    detections = [found((BOX, 0.9), (FAR, 0.8), labels=[1, 1])]  # the second is named wrongly
    assert average_precision(truths, detections, ["top", "skirt", "never"])["mAP"] == pytest.approx(0.5)


def test_nothing_is_printed(capsys):
    average_precision(*CASES["perfect"][:2], ["product"])
    assert capsys.readouterr().out == ""


class ProductFinder(nn.Module):
    """Finds what stands out of tests/drawing.py's dark noise; counts what it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, images):
        assert not self.training
        self.seen += len(images)
        answers = []
        for image in images:
            rows, columns = torch.nonzero(image.amax(0) > 0.45, as_tuple=True)
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            answers.append({"boxes": box[None], "scores": torch.tensor([0.9]), "labels": torch.tensor([1])})
        return answers


def pictures_of(data):
    """The photos with one product each."""
    parts = {"000000": "train", "000001": "train", "000002": "validation", "000003": "validation"}
    paths = [data / part / "image" / item_id / "0.jpg" for item_id, part in parts.items()]
    return [LabelledPicture(str(path), np.float32([[10, 8, 48, 60]]), np.array([1])) for path in paths]


@pytest.mark.parametrize("training", [True, False])
def test_a_detector_that_finds_the_products(tiny_data, tiny_config, training):
    model = ProductFinder().train(training)
    metrics = evaluate_detector(model, pictures_of(tiny_data), tiny_config)
    assert metrics["AP50"] == pytest.approx(1) and metrics["mAP"] > 0.7
    assert model.training is training and model.seen == 4


@pytest.mark.parametrize(("at_most", "chosen"), [(1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (99, [0, 1, 2, 3])])
def test_an_even_choice_of_pictures(tiny_data, tiny_config, at_most, chosen):
    tree = tiny_config.model_dump()
    tree["detector_train"]["evaluate_pictures"] = at_most
    pictures = pictures_of(tiny_data)
    wrong = [
        picture if k in chosen else LabelledPicture("nowhere.jpg", picture.boxes_xyxy, picture.labels)
        for k, picture in enumerate(pictures)
    ]
    assert evaluate_detector(ProductFinder(), wrong, Config.model_validate(tree))["AP50"] == pytest.approx(1)
