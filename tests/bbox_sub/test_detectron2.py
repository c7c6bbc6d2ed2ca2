"""Our network against detectron2's own, weight for weight; skipped where detectron2 is not installed."""

import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import box_iou

from bbox_sub.detector import build_detector, load_detector
from bbox_sub.detectron2_names import to_detectron2
from bbox_sub.import_weights import import_weights
from bbox_sub.resize import resize_picture, resized_size
from shared.config import Config, dump_config
from shared.media import read_photo
from shared.runtime import PLAIN
from shared.weights import save_weights
from tests.bbox_sub.vovnet import VoVNet
from tests.conftest import PROJECT

pytest.importorskip("detectron2", reason="detectron2 is not installed; these tests compare with it")

STREET = Path(os.environ.get("VID2SHOP_STREET", "../shared/data/street"))  # photographs of any kind and size


def changed(config, **keys):
    return Config.model_validate({**config.model_dump(), "detector": {**config.detector.model_dump(), **keys}})


def calibrated(model, batch):
    """Scales the random network's last layers so that logits and deltas spread over a few units."""
    seen = {}
    layers = {"objectness": (model.rpn.head.cls_logits, 3.0), "anchors": (model.rpn.head.bbox_pred, 0.3)}
    layers |= {
        "scores": (model.roi_heads.box_predictor.cls_score, 2.0),
        "boxes": (model.roi_heads.box_predictor.bbox_pred, 1.0),
    }
    for name, (layer, target) in layers.items():
        hook = layer.register_forward_hook(
            lambda _, __, output, name=name: seen.setdefault(name, []).append(output.flatten())
        )
        with torch.inference_mode():
            model(list(batch))
        hook.remove()
        with torch.no_grad():
            layer.weight.mul_(target / torch.cat(seen[name]).std())
            layer.bias.zero_()
    return model


def pair(config, backbone, pictures=None):
    """The same random weights in our network and in detectron2's, both in evaluation.

    Batch norms take their statistics from `pictures`: with others a deep random network would run out of its numbers.
    """
    pictures = pictures or pictures_of_many_sizes(4)
    batch = torch.stack([resize_picture(picture, (256, 320)) for picture in pictures]).float() / 255
    section = changed(config, backbone=backbone, categories=["a", "b"], proposals=300, detections=50).detector
    torch.manual_seed(0)
    ours = build_detector(section, load_pretrained=False).train()
    for module in ours.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over what it sees
            module.reset_running_stats()
    with torch.no_grad():
        ours.backbone(ours.transform(list(batch))[0].tensors)
    ours = calibrated(ours.eval(), batch)
    theirs = build_detector(section.model_copy(update={"engine": "detectron2"}), load_pretrained=False).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def assert_same(found, expected, least_iou=0.999, most_difference=1e-4):
    assert len(found["boxes"]) == len(expected["boxes"]) > 0
    iou, match = (
        box_iou(expected["boxes"], found["boxes"])
        .where(expected["labels"][:, None] == found["labels"], torch.tensor(0.0))
        .max(dim=1)
    )
    assert iou.min() >= least_iou and sorted(match.tolist()) == list(range(len(match)))
    assert (expected["scores"] - found["scores"][match]).abs().max() <= most_difference


def pictures_of_many_sizes(n):
    rng = np.random.default_rng(0)
    return [
        cv2.resize(
            rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (int(width), int(height)), interpolation=cv2.INTER_CUBIC
        )
        for height, width in rng.integers(60, 400, (n, 2))
    ]


def compare(ours, theirs, pictures, short_side, max_side):
    for image_rgb in pictures:
        image = resize_picture(image_rgb, resized_size(*image_rgb.shape[:2], short_side, max_side)).float() / 255
        with torch.inference_mode():
            batch, _ = ours.transform([image])
            levels = ours.backbone(batch.tensors)
            their_batch = theirs.network.preprocess_image([{"image": image}])
            their_levels = theirs.network.backbone(their_batch.tensor)
            for level, their_level in zip(levels.values(), their_levels.values(), strict=True):
                torch.testing.assert_close(level, their_level, rtol=1e-4, atol=1e-4)
            proposals, _ = ours.rpn(batch, levels)
            (their_proposals,), _ = theirs.network.proposal_generator(their_batch, their_levels)
            every = torch.zeros(len(proposals[0]))
            assert_same(
                {"boxes": proposals[0], "scores": every, "labels": every},
                {"boxes": their_proposals.proposal_boxes.tensor, "scores": every, "labels": every},
            )
            assert_same(ours([image])[0], theirs([image])[0])


@pytest.mark.parametrize("backbone", ["ese_vovnet19b_slim", "ese_vovnet39b"])
def test_the_same_weights_give_the_same_boxes(tiny_config, backbone):
    pictures = pictures_of_many_sizes(4)
    compare(*pair(tiny_config, backbone, pictures), pictures, 160, 256)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "short_side"), [("ese_vovnet19b_slim", 320), ("ese_vovnet99b", 240)])
def test_the_same_weights_give_the_same_boxes_on_photographs(tiny_config, backbone, short_side):
    files = sorted(STREET.glob("*.jpg"))[:: max(1, len(list(STREET.glob("*.jpg"))) // 20)][:20]
    if len(files) < 20:
        pytest.skip(f"20 photographs wanted in {STREET}; VID2SHOP_STREET names another folder")
    pictures = [read_photo(str(file), 10**8) for file in files]
    compare(*pair(tiny_config, backbone, pictures), pictures, short_side, 800)


def test_either_engine_reads_what_the_other_wrote(tiny_config, tmp_path):
    ours, theirs = pair(tiny_config, "ese_vovnet19b_slim")
    section = changed(
        tiny_config, backbone="ese_vovnet19b_slim", categories=["a", "b"], proposals=300, detections=50
    ).detector
    image = resize_picture(pictures_of_many_sizes(1)[0], (96, 128)).float() / 255
    for writer, engine in ((ours, "detectron2"), (theirs, "torchvision")):
        save_weights(tmp_path / engine, writer, {"architecture": section.model_dump()})
        reader, _ = load_detector(tmp_path / engine, runtime=PLAIN, least_score=0.05, engine=engine)
        with torch.inference_mode():
            assert_same(reader([image])[0], writer([image])[0])


def test_a_detector_saved_by_detectron2_comes_in(tiny_config, tmp_path):
    """detectron2's own model on an independent VoVNet, saved by its own checkpointer, pixels as its configs have them."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN, Backbone
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    class Bottom(VoVNet, Backbone):
        def output_shape(self):
            channels = zip((112, 256, 384, 512), (4, 8, 16, 32), strict=True)
            return {f"stage{k}": ShapeSpec(channels=c, stride=s) for k, (c, s) in enumerate(channels, 2)}

    config = changed(tiny_config, backbone="ese_vovnet19b_slim", categories=["a", "b"], proposals=300, detections=50)
    ours, _ = pair(tiny_config, "ese_vovnet19b_slim")
    network = build_detector(config.detector.model_copy(update={"engine": "detectron2"}), load_pretrained=False).network
    torch.manual_seed(1)
    network.backbone = FPN(
        Bottom("ese_vovnet19b_slim"),
        [f"stage{k}" for k in range(2, 6)],
        config.detector.pyramid_channels,
        top_block=LastLevelMaxPool(),
    )
    network.load_state_dict(to_detectron2(ours.state_dict()), strict=False)
    network.pixel_mean.copy_(torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1))
    network.pixel_std.fill_(1)
    DetectionCheckpointer(network, str(tmp_path)).save("theirs", iteration=3)
    filled, drawn, left = import_weights(tmp_path / "theirs.pth", config, tmp_path / "detector")
    assert not drawn and not left
    reader, _ = load_detector(tmp_path / "detector", runtime=PLAIN, least_score=0.05)
    image = resize_picture(pictures_of_many_sizes(1)[0], (128, 160)).float()
    with torch.inference_mode():
        (expected,) = network.eval().inference([{"image": image.flip(0)}], do_postprocess=False)
        expected = {"boxes": expected.pred_boxes.tensor, "scores": expected.scores, "labels": expected.pred_classes + 1}
        assert_same(reader([image / 255])[0], expected)


def test_run_sh_trains_ten_iterations_and_infers_with_its_own_model(tiny_config, tiny_data, tmp_path):
    """Ten pictures, some without a box; the average of weights, a checkpoint and the other engine take part."""
    phase = tiny_config.detector_train.phases[0].model_copy(update={"iterations": 10})
    update = {"phases": [phase], "checkpoint_every": 4, "ema": 0.9}
    config = changed(tiny_config, engine="detectron2", backbone="ese_vovnet19b_slim")
    config = config.model_copy(update={"detector_train": config.detector_train.model_copy(update=update)})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    work = tmp_path / "work"
    common = ["--stage", "detect", "--config", str(tmp_path / "c.yaml"), "--work", str(work), "detect.video_score=0"]
    found = {}
    for verb, data, *more in (
        ("train", tiny_data),
        ("infer", tiny_data / "validation"),
        ("infer", tiny_data / "validation", "detector.engine=torchvision"),
    ):
        command = ["bash", str(PROJECT / "run.sh"), verb, *common, "--data", str(data), *more]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0 and not run.stdout, run.stderr
        if verb == "infer":
            found[len(more)] = pd.read_parquet(work / "detections" / "videos" / "table.parquet")
    assert len(found[0]) and len(found[0]) == len(found[1])
    ordered = [table.sort_values(["media_id", "frame_index", "score"]).score.to_numpy() for table in found.values()]
    assert ordered[0] == pytest.approx(ordered[1], abs=1e-4)
