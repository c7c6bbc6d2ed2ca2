"""Running a detector: boxes come back in the original's pixels, best first, whatever the sizes and batches."""

import numpy as np
import pytest
import torch
from torch import nn

from bbox_sub.detect import detect_boxes


class BrightBoxDetector(nn.Module):
    """Answers as torchvision's detectors do, with the bounding box of what is bright; knows what it was shown."""

    def __init__(self, boxes=(), scores=(), labels=()):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.fixed = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(scores),
            "labels": torch.tensor(labels),
        }
        self.shown = []

    def forward(self, images):
        self.shown.append([tuple(image.shape) for image in images])
        assert all(image.dtype == torch.float32 and image.max() <= 1 for image in images)
        return [self.fixed if len(self.fixed["scores"]) else self.bright(image) for image in images]

    def bright(self, image):
        rows, columns = torch.nonzero(image.amax(0) > 0.5, as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return {
            "boxes": torch.tensor([box], dtype=torch.float32),
            "scores": torch.tensor([0.9]),
            "labels": torch.tensor([1]),
        }


def picture(height, width, box):
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


SHOWN = [
    ((200, 100), (20, 30, 70, 150)),
    ((100, 200), (5, 10, 60, 90)),
    ((400, 200), (0, 0, 200, 40)),
    ((200, 100), (60, 120, 100, 200)),
    ((30, 20), (5, 5, 15, 25)),
]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_boxes_come_back_in_the_pixels_of_their_own_picture(batch_size):
    images = [picture(*size, box) for size, box in SHOWN]
    model = BrightBoxDetector()
    found = detect_boxes(model, images, short_side=64, max_side=200, batch_size=batch_size)
    for (boxes, scores, labels), (size, box) in zip(found, SHOWN, strict=True):
        assert boxes.dtype == scores.dtype == np.float32 and labels.dtype == np.int64
        assert np.abs(boxes[0] - box).max() <= max(1, min(size) / 64)
    assert all(len(set(batch)) == 1 and len(batch) <= batch_size for batch in model.shown)
    assert sum(len(batch) for batch in model.shown) == len(images)


def test_pictures_of_one_size_share_a_batch():
    model = BrightBoxDetector()
    detect_boxes(model, [picture(*size, box) for size, box in SHOWN], short_side=64, max_side=200, batch_size=8)
    assert sorted(batch[0] + (len(batch),) for batch in model.shown) == [
        (3, 64, 128, 1),
        (3, 96, 64, 1),
        (3, 128, 64, 3),
    ]


def test_best_first_clipped_and_with_an_area():
    model = BrightBoxDetector(
        boxes=[[10, 10, 30, 30], [-8, 4, 50, 200], [0, 0, 20, 10], [70, 0, 90, 10], [5, 5, 5, 9], [1, 1, 2, 2]],
        scores=[0.3, 0.9, 0.5, 0.8, 0.7, 0.5],
        labels=[1, 2, 3, 4, 5, 6],
    )
    [(boxes, scores, labels)] = detect_boxes(
        model, [picture(128, 128, (0, 0, 9, 9))], short_side=64, max_side=64, batch_size=1
    )
    assert scores == pytest.approx([0.9, 0.5, 0.5, 0.3])
    assert labels.tolist() == [2, 3, 6, 1]  # equal scores keep their order; without an area there is no box
    assert boxes.tolist() == [[0, 8, 100, 128], [0, 0, 40, 20], [2, 2, 4, 4], [20, 20, 60, 60]]


def test_each_axis_has_its_own_scale():
    model = BrightBoxDetector(boxes=[[0, 0, 33, 50]], scores=[0.9], labels=[1])
    [(boxes, _, _)] = detect_boxes(model, [np.zeros((101, 67, 3), np.uint8)], short_side=33, max_side=100, batch_size=1)
    assert model.shown == [[(3, 50, 33)]]  # 101 * 33 / 67 = 49.7
    assert boxes[0] == pytest.approx([0, 0, 67, 101])


def test_no_pictures_and_no_boxes():
    assert detect_boxes(BrightBoxDetector(), [], short_side=64, max_side=64, batch_size=2) == []

    class Nothing(BrightBoxDetector):
        def bright(self, image):
            return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}

    [(boxes, scores, labels)] = detect_boxes(
        Nothing(), [np.zeros((8, 8, 3), np.uint8)], short_side=8, max_side=8, batch_size=1
    )
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)
