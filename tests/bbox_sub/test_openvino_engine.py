"""The compiled detector against the same network in torch."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from bbox_sub.detect import detect_boxes
from bbox_sub.detector import build_detector, detector_runtime, load_detector
from bbox_sub.openvino_engine import BoxHead
from shared.boxes import pairwise_iou
from shared.config import Detector, RuntimeChoice
from shared.runtime import PLAIN, Runtime, cpu_has_bf16
from shared.weights import save_weights

F32 = Runtime("openvino", "f32", "cpu", "")
BF16 = Runtime("openvino", "bf16", "cpu", "")
SIZES = [(96, 64), (64, 100), (70, 70), (96, 64)]  # two of them no multiple of 32


def images():
    rng = np.random.default_rng(0)
    return [np.repeat(np.repeat(rng.integers(0, 256, (h // 2, w // 2, 3), np.uint8), 2, 0), 2, 1) for h, w in SIZES]


@pytest.fixture
def save(tiny_config, tmp_path):
    """save(**changes) writes a detector whose weights give boxes of many scores, sizes and classes, and gives its folder."""

    def write(**changes):
        changes = {"categories": ["a", "b", "c"], "detections": 30} | changes
        section = Detector.model_validate({**tiny_config.detector.model_dump(), **changes})
        torch.manual_seed(0)
        model = build_detector(section, load_pretrained=False)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        predictor, head = model.roi_heads.box_predictor, model.rpn.head
        with torch.inference_mode():
            model.train().backbone(torch.randn(4, 3, 96, 96))
            for layer, std in (
                (predictor.cls_score, 0.3),
                (predictor.bbox_pred, 0.3),
                (head.cls_logits, 0.1),
                (head.bbox_pred, 0.02),
            ):
                layer.weight.normal_(std=std)
        save_weights(tmp_path / "detector", model, {"architecture": section.model_dump(), "fingerprint": "drawn"})
        return tmp_path / "detector"

    return write


def detect(folder, runtime, pictures, batch_size=4, least_score=0.1, **chosen):
    model, _ = load_detector(folder, runtime=runtime, least_score=least_score, **chosen)
    return detect_boxes(model, pictures, short_side=96, max_side=200, batch_size=batch_size)


def same_boxes(found, expected, *, px, score):
    for (boxes, scores, labels), (true_boxes, true_scores, true_labels) in zip(found, expected, strict=True):
        assert len(boxes) > 5 and labels.tolist() == true_labels.tolist()
        assert np.abs(boxes - true_boxes).max() <= px and np.abs(scores - true_scores).max() <= score


def test_in_float32_the_boxes_of_torch(save):
    folder = save()
    expected = detect(folder, PLAIN, images())
    assert len({label for _, _, labels in expected for label in labels}) == 3
    same_boxes(detect(folder, F32, images()), expected, px=0.01, score=1e-4)


def test_one_class_and_group_norm(save):
    folder = save(categories=["product"], norm="group")
    same_boxes(detect(folder, F32, images()), detect(folder, PLAIN, images()), px=0.01, score=1e-4)


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16")
def test_in_bf16_near_the_boxes_of_torch(save):
    folder = save()
    shares = []
    for (boxes, scores, labels), (found_boxes, found_scores, found_labels) in zip(
        detect(folder, PLAIN, images()), detect(folder, BF16, images(), least_score=0.05), strict=True
    ):
        near = (pairwise_iou(boxes, found_boxes) > 0.8) & (labels[:, None] == found_labels[None])
        near &= np.abs(scores[:, None] - found_scores[None]) < 0.05
        shares.append(near.any(axis=1).mean())
    assert (
        np.mean(shares) > 0.85
    )  # of weights drawn at random, with boxes of nearly equal scores that NMS chooses among


@pytest.mark.parametrize(
    "runtime", [F32, pytest.param(BF16, marks=pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16"))]
)
def test_a_picture_has_the_same_bits_in_any_company(save, runtime):
    model, _ = load_detector(save(), runtime=runtime, least_score=0.1)
    pictures = images()
    sides = {"short_side": 96, "max_side": 200}
    alone = [detect_boxes(model, [picture], batch_size=1, **sides)[0] for picture in pictures]
    together = detect_boxes(model, pictures + pictures[::-1], batch_size=8, **sides)
    for found, expected in zip(together, alone + alone[::-1], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_kept_model_gives_the_bits_of_the_fresh_one(save):
    folder = save()
    fresh, kept = detect(folder, F32, images()), detect(folder, F32, images())
    assert sorted(path.name.split(".")[0] for path in (folder / "compiled").iterdir()) == ["box_head", "front"]
    for found, expected in zip(kept, fresh, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_new_weights_are_compiled_anew(save):
    before = detect(save(), F32, images())
    folder = save(box_head_features=48)
    same_boxes(detect(folder, F32, images()), detect(folder, PLAIN, images()), px=0.01, score=1e-4)
    assert any(
        len(one[1]) != len(other[1]) or not np.allclose(one[1], other[1])
        for one, other in zip(before, detect(folder, F32, images()), strict=True)
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_weights_that_may_not_be_written_beside_serve(save):
    folder = save()
    folder.chmod(0o555)
    try:
        same_boxes(detect(folder, F32, images()), detect(folder, PLAIN, images()), px=0.01, score=1e-4)
        assert not (folder / "compiled").exists()
    finally:
        folder.chmod(0o755)


def test_weights_of_detectron2s_engine_run_without_it(save):
    folder = save()
    found = detect(folder, F32, images(), engine="detectron2")
    same_boxes(found, detect(folder, PLAIN, images()), px=0.01, score=1e-4)


def test_detectron2s_engine_is_torch_where_the_runtime_is_left_open(tiny_config):
    section = tiny_config.detector.model_copy(update={"engine": "detectron2"})
    config = tiny_config.model_copy(
        update={"detector": section, "runtime": RuntimeChoice(engine="auto", precision="auto", device="cpu")}
    )
    chosen = detector_runtime(config)
    assert chosen.engine == "torch" and "detectron2" in chosen.why


def test_a_picture_without_proposals_has_no_boxes(save):
    model, _ = load_detector(save(), runtime=F32, least_score=0.1)
    model._rpn.post_nms_top_n = lambda: 0
    [(boxes, scores, labels)] = detect_boxes(model, images()[:1], short_side=96, max_side=200, batch_size=1)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


@torch.inference_mode()
def test_the_box_head_takes_channels_last(save):
    model, _ = load_detector(save(), runtime=PLAIN, least_score=0.1)
    pooled = torch.randn(3, model.backbone.out_channels, 7, 7)
    expected = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    found = BoxHead(model)(pooled.permute(0, 2, 3, 1).flatten(1))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, expected, strict=True))
