"""The compiled detector against the same network in torch."""

import os
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from bbox_sub.detect import detect_boxes
from bbox_sub.detector import detector_runtime, load_detector
from bbox_sub.openvino_engine import BoxHead, detector_models
from shared.config import RuntimeChoice
from shared.errors import UserError
from shared.runtime import PLAIN, Request, Runtime, compiled, cpu_has_bf16
from tests.drawn_networks import write_detector

F32 = Runtime("openvino", "f32", "cpu", "")
BF16 = Runtime("openvino", "bf16", "cpu", "")
needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU does not multiply bf16")
SIZES = [(96, 64), (64, 100), (70, 70), (96, 64)]  # two of them no multiple of 32


def images():
    rng = np.random.default_rng(0)
    return [np.repeat(np.repeat(rng.integers(0, 256, (h // 2, w // 2, 3), np.uint8), 2, 0), 2, 1) for h, w in SIZES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a detector with three classes; its compiled models are kept from test to test."""
    return write_detector(tmp_path_factory.mktemp("weights") / "detector")


def detect(folder, runtime, pictures, batch_size=4, least_score=0.1, **chosen):
    model, _ = load_detector(folder, runtime=runtime, least_score=least_score, **chosen)
    return detect_boxes(model, pictures, short_side=96, max_side=200, batch_size=batch_size)


def same_boxes(found, expected, *, px, score):
    for (boxes, scores, labels), (true_boxes, true_scores, true_labels) in zip(found, expected, strict=True):
        assert len(boxes) > 5 and labels.tolist() == true_labels.tolist()
        assert np.abs(boxes - true_boxes).max() <= px and np.abs(scores - true_scores).max() <= score


def test_in_float32_the_boxes_of_torch(folder):
    expected = detect(folder, PLAIN, images())
    assert len({label for _, _, labels in expected for label in labels}) == 3
    same_boxes(detect(folder, F32, images()), expected, px=0.01, score=1e-4)


def test_voting_moves_boxes_alike_in_both_engines(folder):
    plain, torch_boxes, boxes = (
        detect(folder, runtime, images(), **keys)
        for runtime, keys in ((PLAIN, {}), (PLAIN, {"vote_iou": 0.5}), (F32, {"vote_iou": 0.5}))
    )
    same_boxes(boxes, torch_boxes, px=0.01, score=1e-4)
    assert all(np.abs(moved[0] - own[0]).max() > 1 for moved, own in zip(boxes, plain, strict=True))


@needs_bf16
@torch.inference_mode()
def test_in_bf16_the_maps_of_torch_to_three_digits(folder):
    model, _ = load_detector(folder, runtime=PLAIN, least_score=0.1)
    request = Request(compiled(detector_models(model, "bf16")["front"], BF16, None).model)
    picture = torch.from_numpy(images()[0]).permute(2, 0, 1)[None]  # (1, 3, 96, 64)
    transformed, _ = model.transform([picture[0].float() / 255])
    levels = list(model.backbone(transformed.tensors).values())
    logits, deltas = model.rpn.head(levels)
    for found, expected in zip(request(picture), [*levels[:4], *logits, *deltas], strict=True):
        found = found.permute(0, 3, 1, 2)
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("runtime", [F32, pytest.param(BF16, marks=needs_bf16)])
def test_a_picture_has_the_same_bits_in_any_company(folder, runtime, two_threads):
    model, _ = load_detector(folder, runtime=runtime, least_score=0.1)
    assert model._workers.n == 2  # so that company is at work at the same time
    pictures = images()
    sides = {"short_side": 96, "max_side": 200}
    alone = [detect_boxes(model, [picture], batch_size=1, **sides)[0] for picture in pictures]
    together = detect_boxes(model, pictures + pictures[::-1], batch_size=8, **sides)
    same_boxes(together, alone + alone[::-1], px=0, score=0)


def test_the_kept_model_gives_the_bits_of_the_fresh_one(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "detector", ignore=shutil.ignore_patterns("compiled"))
    fresh, kept = (detect(tmp_path / "detector", F32, images()) for _ in range(2))
    assert sorted(path.name.split(".")[0] for path in (tmp_path / "detector" / "compiled").iterdir()) == [
        "box_head",
        "front",
    ]
    same_boxes(kept, fresh, px=0, score=0)


def test_new_weights_of_another_network_are_compiled_anew(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "detector")
    kept = set((tmp_path / "detector" / "compiled").iterdir())
    write_detector(tmp_path / "detector", categories=["product"], norm="group", box_head_features=48)
    found, expected = (detect(tmp_path / "detector", runtime, images()) for runtime in (F32, PLAIN))
    same_boxes(found, expected, px=0.01, score=1e-4)
    now = set((tmp_path / "detector" / "compiled").glob("*.f32.*"))
    assert len(now) == 2 and not now & kept


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_weights_that_may_not_be_written_beside_serve(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "detector", ignore=shutil.ignore_patterns("compiled"))
    (tmp_path / "detector").chmod(0o555)
    try:
        same_boxes(detect(tmp_path / "detector", F32, images()), detect(folder, PLAIN, images()), px=0.01, score=1e-4)
        assert not (tmp_path / "detector" / "compiled").exists()
    finally:
        (tmp_path / "detector").chmod(0o755)


def test_weights_of_detectron2s_engine_run_without_it(folder):
    found = detect(folder, F32, images(), engine="detectron2")
    same_boxes(found, detect(folder, PLAIN, images()), px=0.01, score=1e-4)


def test_detectron2s_engine_is_torch_where_the_runtime_is_left_open(tiny_config):
    section = tiny_config.detector.model_copy(update={"engine": "detectron2"})
    config = tiny_config.model_copy(
        update={"detector": section, "runtime": RuntimeChoice(engine="auto", precision="auto", device="cpu")}
    )
    chosen = detector_runtime(config)
    assert chosen.engine == "torch" and "detectron2" in chosen.why
    voting = config.model_copy(update={"detect": config.detect.model_copy(update={"vote_iou": 0.8})})
    with pytest.raises(UserError, match="detect.vote_iou: expected 0 with detector.engine: detectron2, .* found 0.8"):
        detector_runtime(voting)
    in_openvino = RuntimeChoice(engine="openvino", precision="f32", device="cpu")  # which runs our build of the network
    assert detector_runtime(voting.model_copy(update={"runtime": in_openvino})).engine == "openvino"


def test_a_picture_without_proposals_has_no_boxes(folder):
    model, _ = load_detector(folder, runtime=F32, least_score=0.1)
    model._rpn.post_nms_top_n = lambda: 0
    [(boxes, scores, labels)] = detect_boxes(model, images()[:1], short_side=96, max_side=200, batch_size=1)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


@torch.inference_mode()
def test_the_box_head_takes_channels_last(folder):
    model, _ = load_detector(folder, runtime=PLAIN, least_score=0.1)
    pooled = torch.randn(3, model.backbone.out_channels, 7, 7)
    expected = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    found = BoxHead(model)(pooled.permute(0, 2, 3, 1).flatten(1))
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, expected, strict=True))
