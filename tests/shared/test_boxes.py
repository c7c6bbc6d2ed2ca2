"""Box geometry against torchvision, whole-pixel masks and laws that must hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou, clip_boxes_to_image

from shared.boxes import box_areas, clip_boxes, expand_boxes, pairwise_iou

whole = st.integers(-20, 40)
inside = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30)).map(
    lambda t: (t[0], t[1], t[0] + t[2], t[1] + t[3])
)
some_boxes = st.lists(inside, min_size=1, max_size=6).map(lambda boxes: np.array(boxes, np.float32))


@given(some_boxes, some_boxes)
def test_iou_equals_torchvision(a, b):
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert pairwise_iou(a, b) == pytest.approx(expected, abs=1e-6)


@given(inside, inside)
def test_iou_of_whole_pixel_boxes_is_that_of_their_pixels(a, b):
    masks = []
    for x1, y1, x2, y2 in (a, b):
        mask = np.zeros((61, 61), bool)
        mask[y1:y2, x1:x2] = True
        masks.append(mask)
    expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
    assert pairwise_iou([a], [b])[0, 0] == pytest.approx(expected)
    assert box_areas([a, b]).tolist() == [mask.sum() for mask in masks]


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # x2 is exclusive: neighbours do not touch
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((5, 5, 5, 9), (5, 5, 5, 9), 0),  # empty
        ((9, 9, 1, 1), (0, 0, 10, 10), 0),  # inside out
    ],
)
def test_iou_by_hand(a, b, iou):
    assert pairwise_iou([a], [b])[0, 0] == pytest.approx(iou)
    assert pairwise_iou([b], [a])[0, 0] == pytest.approx(iou)


def test_iou_is_a_matrix_also_without_boxes():
    none, two = np.zeros((0, 4)), [[0, 0, 1, 1], [0, 0, 2, 2]]
    assert pairwise_iou(none, two).shape == (0, 2)
    assert pairwise_iou(two, none).shape == (2, 0)
    assert pairwise_iou([], []).shape == (0, 0)


@given(st.lists(st.tuples(whole, whole, whole, whole), min_size=1, max_size=6), st.integers(1, 30), st.integers(1, 30))
def test_clip_equals_torchvision(boxes, width, height):
    expected = clip_boxes_to_image(torch.tensor(boxes, dtype=torch.float32), (height, width)).numpy()
    clipped = clip_boxes(boxes, width, height)
    assert clipped.dtype == np.float32
    assert np.array_equal(clipped, expected)


def test_clip_takes_a_size_per_box():
    clipped = clip_boxes([[-1, -1, 50, 50], [-1, -1, 50, 50]], np.array([10, 20]), np.array([30, 40]))
    assert clipped.tolist() == [[0, 0, 10, 30], [0, 0, 20, 40]]


def test_clip_leaves_what_it_was_given():
    boxes = np.float32([[-5, -5, 50, 50]])
    clip_boxes(boxes, 10, 10)
    assert boxes.tolist() == [[-5, -5, 50, 50]]


def test_a_box_wholly_outside_keeps_no_area():
    outside = clip_boxes([[-30, 2, -10, 8], [12, 2, 20, 8], [2, 50, 8, 60]], 10, 10)
    assert box_areas(outside).tolist() == [0, 0, 0]


@given(inside, st.floats(0, 2))
def test_expand_keeps_the_centre_and_scales_the_sides(box, margin):
    grown = expand_boxes([box], margin)[0]
    x1, y1, x2, y2 = box
    assert (grown[:2] + grown[2:]) / 2 == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2], abs=1e-4)
    assert grown[2:] - grown[:2] == pytest.approx(
        [(x2 - x1) * (1 + 2 * margin), (y2 - y1) * (1 + 2 * margin)], abs=1e-4
    )


def test_expand_by_hand():
    assert expand_boxes([[10, 20, 30, 60]], 0.1)[0] == pytest.approx([8, 16, 32, 64])
    assert expand_boxes(np.zeros((0, 4)), 0.1).shape == (0, 4)
