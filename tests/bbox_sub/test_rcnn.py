"""The parts of Faster R-CNN against hand-worked cases, plain loops and torchvision's own functions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align

from bbox_sub.rcnn import Anchors, BoxHeads, BoxPool, Float32Coder, Proposals, level_of_boxes, vote_for_boxes

SIZES, RATIOS = [32, 64, 128, 256, 512], [0.5, 1.0, 2.0]


def proposals_module(before=100, after=50, iou=0.7):
    anchors = Anchors(SIZES, RATIOS)
    top = {"training": before, "testing": before}, {"training": after, "testing": after}
    return Proposals(anchors, RPNHead(8, 3), 0.7, 0.3, 256, 0.5, *top, iou).eval()


def test_anchors_by_hand():
    levels = [torch.zeros(2, 1, side, side + 1) for side in (6, 3, 2, 1, 1)]
    anchors = Anchors(SIZES, RATIOS)(ImageList(torch.zeros(2, 3, 24, 28), [(24, 28), (20, 20)]), levels)
    assert len(anchors) == 2 and anchors[0].shape == ((6 * 7 + 3 * 4 + 2 * 3 + 2 + 2) * 3, 4)
    half = 32 / math.sqrt(0.5) / 2, 32 * math.sqrt(0.5) / 2  # of the first: ratio 1 : 2, around the corner (0, 0)
    assert anchors[0][0].tolist() == pytest.approx([-half[0], -half[1], half[0], half[1]])
    second_row = anchors[0][7 * 3 + 2 * 3 + 1]  # level p2, row 1, cell 2, the square: around x 8, y 4
    assert second_row.tolist() == [8 - 16, 4 - 16, 8 + 16, 4 + 16]
    last = anchors[0][-2]  # level p6, row 0, cell 1, the square
    assert last.tolist() == [64 - 256, -256, 64 + 256, 256]


@given(st.floats(8, 600), st.floats(0.1, 10))
def test_anchors_have_their_area_and_ratio_and_are_not_rounded(size, ratio):
    cells = [torch.zeros(1, 1, 1, 1)] * 5
    anchor = Anchors([size] * 5, [ratio])(ImageList(torch.zeros(1, 3, 4, 4), [(4, 4)]), cells)[0][0]
    width, height = (anchor[2:] - anchor[:2]).tolist()
    assert width * height == pytest.approx(size**2, rel=1e-4) and height / width == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447, 2), (448, 3), (5000, 3), (0, 0)],
)
def test_levels_by_hand(side, level):
    """Equation 1 of Lin et al. 2017: a box of 224 px is pooled at stride 16, which is level 2 from the finest."""
    assert level_of_boxes(torch.tensor([[10.0, 20.0, 10 + side, 20 + side]]), 4).item() == level


def test_boxes_are_pooled_from_their_levels_half_a_pixel_aligned():
    torch.manual_seed(0)
    levels = {str(k): torch.randn(2, 3, 512 // stride, 640 // stride) for k, stride in enumerate((4, 8, 16, 32, 64))}
    boxes = [torch.tensor([[10.0, 20, 60, 90], [0, 0, 500, 400]]), torch.tensor([[100.0, 100, 250, 300]])]
    pooled = BoxPool(7)(levels, boxes, [(512, 640)] * 2)
    for row, (picture, box, level, stride) in enumerate(
        [(0, boxes[0][0], "0", 4), (0, boxes[0][1], "2", 16), (1, boxes[1][0], "1", 8)]
    ):
        roi = torch.cat([torch.tensor([picture]), box])[None]
        expected = roi_align(levels[level], roi, 7, 1 / stride, sampling_ratio=0, aligned=True)
        torch.testing.assert_close(pooled[row : row + 1], expected)


def test_half_a_pixel_by_hand():
    """On a ramp along x a bin's value is its centre's x in cells, less the half cell that a pixel's centre stands at."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    levels = {str(k): ramp[..., :: 2**k, :: 2**k] / 2**k for k in range(5)}
    pooled = BoxPool(2)(levels, [torch.tensor([[40.0, 40.0, 80.0, 80.0]])], [(256, 256)])
    assert pooled[0, 0, 0].tolist() == pytest.approx([50 / 4 - 0.5, 70 / 4 - 0.5])


def test_no_box_pools_nothing():
    levels = {str(k): torch.zeros(1, 3, 8, 8) for k in range(5)}
    assert BoxPool(7)(levels, [torch.zeros(0, 4)], [(32, 32)]).shape == (0, 3, 7, 7)


def plain_proposals(boxes, logits, counts, image_hw, before, after, iou):
    """The rule in plain loops for one picture: per level the best, clip, drop what has no area, NMS within the level."""
    chosen, start = [], 0
    for level, count in enumerate(counts):
        ranked = sorted(range(start, start + count), key=lambda k: -logits[k].item())[:before]
        chosen += [(logits[k].item(), level, k) for k in ranked]
        start += count
    kept = []
    for logit, level, k in sorted(chosen, key=lambda entry: -entry[0]):
        x1, y1, x2, y2 = boxes[k].tolist()
        box = [
            min(max(x1, 0), image_hw[1]),
            min(max(y1, 0), image_hw[0]),
            min(max(x2, 0), image_hw[1]),
            min(max(y2, 0), image_hw[0]),
        ]
        if not all(map(math.isfinite, (x1, y1, x2, y2, logit))) or box[0] >= box[2] or box[1] >= box[3]:
            continue
        same = [other for other, other_level, _ in kept if other_level == level]
        if all(box_iou(torch.tensor([box]), torch.tensor([other]))[0, 0] <= iou for other in same):
            kept.append((box, level, logit))
    return kept[:after]


@pytest.mark.parametrize("seed", range(4))
def test_proposals_are_those_of_the_plain_rule(seed):
    torch.manual_seed(seed)
    counts = [60, 20, 8, 3, 3]
    corner = torch.rand(2, sum(counts), 2) * 120 - 20
    boxes = torch.cat(
        [corner, corner + torch.rand(2, sum(counts), 2) * 60 - 2], dim=2
    )  # some overrun, some are inside out
    boxes[0, 3] = float("nan")
    logits = torch.randn(2, sum(counts))
    logits[1, 5] = float("inf")
    logits[0, :4] = torch.tensor([40.0, 41.0, 42.0, 43.0])  # a sigmoid would make them all one
    shapes = [(90, 100), (64, 80)]
    found, found_logits = proposals_module(before=30, after=25).filter_proposals(
        boxes, logits.reshape(-1, 1), shapes, counts
    )
    for k, shape in enumerate(shapes):
        expected = plain_proposals(boxes[k], logits[k], counts, shape, 30, 25, 0.7)
        torch.testing.assert_close(found[k], torch.tensor([box for box, _, _ in expected]))
        torch.testing.assert_close(found_logits[k], torch.tensor([logit for _, _, logit in expected]))


def heads_module(**options):
    sampling = dict(
        fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=64, positive_fraction=0.25, bbox_reg_weights=None
    )
    return BoxHeads(
        None, None, None, **sampling, **{"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100, **options}
    )


def test_detections_by_hand():
    """Two proposals, two classes: deltas of zero give the proposals back; scores are softmax's; NMS runs within a class."""
    proposals = [torch.tensor([[10.0, 10, 50, 50], [12.0, 10, 52, 50]])]
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.04, 0.76]]))
    boxes, scores, labels = heads_module().postprocess_detections(logits, torch.zeros(2, 12), proposals, [(45, 100)])
    assert labels[0].tolist() == [2, 1]  # 0.3 of class 2 overlaps 0.76, 0.04 is under the least score
    assert scores[0].tolist() == pytest.approx([0.76, 0.6])
    assert boxes[0].tolist() == [[12, 10, 52, 45], [10, 10, 50, 45]]


def test_a_score_that_equals_the_least_is_left_out_and_the_count_is_kept_to():
    proposals = [torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]])]
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]))
    found = [
        heads_module(**keys).postprocess_detections(logits, torch.zeros(3, 8), proposals, [(20, 60)])[1][0].tolist()
        for keys in ({"score_thresh": 0.5}, {"detections_per_img": 1})
    ]
    assert found == [pytest.approx([0.875, 0.75]), pytest.approx([0.875])]


def test_box_voting_by_hand():
    """Two boxes overlap the best by 0.8 or more, one by less; that of the other class and the low score count as the rule says."""
    chosen, labels = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 100]]), torch.tensor([0, 1])
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 90, 100], [0, 0, 80, 100], [0, 0, 79, 100]])[:, None].repeat(1, 2, 1)
    scores = torch.tensor([[0.5, 0.1], [0.4, 0.0], [0.1, 0.0], [0.9, 0.9]])
    moved = vote_for_boxes(chosen, labels, boxes, scores, 0.8)
    assert moved[0].tolist() == pytest.approx([0, 0, 0.5 * 100 + 0.4 * 90 + 0.1 * 80, 100])
    assert moved[1].tolist() == [0, 0, 100, 100]
    assert vote_for_boxes(chosen, labels, boxes, scores * 0, 0.8).tolist() == chosen.tolist()
    assert vote_for_boxes(chosen[:0], labels[:0], boxes, scores, 0.8).shape == (0, 4)


@pytest.mark.parametrize("seed", range(3))
def test_voting_moves_the_boxes_of_detections_and_nothing_else(seed):
    torch.manual_seed(seed)
    corner = 60 * torch.rand(40, 2)
    proposals, logits = [torch.cat([corner, corner + 10 + 30 * torch.rand(40, 2)], dim=1)], 2 * torch.randn(40, 3)
    proposals[0][:20] = proposals[0][20:] + torch.randn(20, 4)  # every box has one that overlaps it well
    plain, voting = heads_module(), heads_module()
    voting.vote_iou = 0.6
    deltas = 0.1 * torch.randn(40, 12)
    [boxes], [scores], [labels] = plain.postprocess_detections(logits, deltas, proposals, [(80, 90)])
    [moved], *rest = voting.postprocess_detections(logits, deltas, proposals, [(80, 90)])
    assert len(boxes) > 8 and torch.equal(rest[0][0], scores) and torch.equal(rest[1][0], labels)
    every = clip_boxes_to_image(plain.box_coder.decode(deltas, proposals).reshape(40, 3, 4), (80, 90))
    shares = logits.softmax(dim=1)
    expected = []
    for box, label in zip(boxes.double(), labels, strict=True):
        total, weight = torch.zeros(4, dtype=torch.float64), 0.0
        for voter, share in zip(every[:, label].double(), shares[:, label], strict=True):
            if iou_of(box, voter) >= 0.6:
                total, weight = total + share * voter, weight + share
        expected.append(total / weight)
    torch.testing.assert_close(moved.double(), torch.stack(expected), rtol=0, atol=1e-3)
    assert (moved != boxes).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_voting_is_in_float32_whatever_the_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([803.0, 205, 1051, 601]) + torch.randn(60, 1, 4, generator=generator)
    scores, labels = torch.rand(60, 1, generator=generator), torch.zeros(1, dtype=torch.int64)
    expected = vote_for_boxes(boxes[0], labels, boxes, scores, 0.8)
    with torch.autocast("cpu", dtype):
        assert torch.equal(vote_for_boxes(boxes[0], labels, boxes, scores, 0.8), expected)


def iou_of(a, b):
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    return width * height / (sum((each[2] - each[0]) * (each[3] - each[1]) for each in (a, b)) - width * height)


def test_no_proposal_gives_no_detection():
    found = heads_module().postprocess_detections(
        torch.zeros(0, 3), torch.zeros(0, 12), [torch.zeros(0, 4)], [(20, 60)]
    )
    assert [each[0].shape for each in found] == [(0, 4), (0,), (0,)]


def test_boxes_are_decoded_in_float32_whatever_the_precision():
    anchors = torch.tensor([[300.3, 200.7, 401.1, 333.3]])
    deltas = torch.zeros(1, 4, dtype=torch.bfloat16)
    decoded = Float32Coder(weights=(1.0, 1.0, 1.0, 1.0)).decode(deltas, [anchors])
    torch.testing.assert_close(decoded[:, 0], anchors, rtol=0, atol=1e-4)


def test_by_look_up_a_level_gives_what_the_operator_gives_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(3, 5, 24, 30, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    corners = torch.rand(20, 2, 2, generator=generator) * torch.tensor([120.0, 96.0])
    boxes, picture_of = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1), torch.arange(20) % 3
    upstream = torch.randn(20, 5, 7, 7, generator=generator)
    found = []
    for pool in (BoxPool(7).pool_from, BoxPool(7).pool_by_operator):
        pooled = pool(level, picture_of, boxes, 4)
        found.append((pooled, *torch.autograd.grad((pooled * upstream).sum(), level)))
    assert found[0][0].shape == (20, 5, 7, 7) and found[0][1].abs().max() > 0.1
    for ours, operators in zip(*found, strict=True):
        assert torch.allclose(ours, operators, atol=1e-5)
