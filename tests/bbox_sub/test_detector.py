"""The detector's network: its geometry, what it refuses, detectron2's names, and a model's folder."""

import re

import numpy as np
import pytest
import timm
import torch

from bbox_sub.body import build_body
from bbox_sub.detect import detect_boxes
from bbox_sub.detector import build_detector, load_detector
from bbox_sub.detectron2_names import vovnet_name
from shared.config import Detector
from shared.errors import UserError
from shared.runtime import PLAIN
from shared.weights import save_weights

LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


@pytest.fixture
def config(tiny_config):
    return tiny_config.detector


def changed(config, **keys):
    return Detector.model_validate({**config.model_dump(), **keys})


def build(config, seed=0, **options):
    torch.manual_seed(seed)
    return build_detector(config, **{"load_pretrained": False, **options})


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_the_pyramid_has_strides_4_to_64(config):
    backbone = build(config).eval().backbone
    with torch.inference_mode():
        levels = backbone(torch.rand(2, 3, 128, 192))
    assert [tuple(level.shape) for level in levels.values()] == [
        (2, 16, 128 // stride, 192 // stride) for stride in (4, 8, 16, 32, 64)
    ]


def test_pictures_are_normalised_and_padded_but_not_resized(config):
    model = build(config)
    images = [torch.rand(3, 50, 70), torch.rand(3, 64, 40)]
    batch, _ = model.transform(images)
    assert batch.tensors.shape == (2, 3, 64, 96) and batch.image_sizes == [(50, 70), (64, 40)]
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]),
        torch.tensor([0.229, 0.224, 0.225]),
    )  # ImageNet's, as timm has it for VoVNets
    assert torch.allclose(
        batch.tensors[0, :, :50, :70], (images[0] - mean[:, None, None]) / std[:, None, None], atol=1e-5
    )
    assert batch.tensors[0, :, 50:].abs().max() == 0


def test_detections_keep_to_the_contract(config):
    model = build(changed(config, categories=["a", "b"], detections=7)).eval()
    model.roi_heads.score_thresh = 0.0
    sizes = [(90, 60), (64, 64), (33, 200)]
    for (boxes, scores, labels), (height, width) in zip(
        detect_boxes(model, pictures(*sizes), short_side=64, max_side=128, batch_size=2), sizes, strict=True
    ):
        assert (
            len(boxes) <= 7
            and set(labels) <= {1, 2}
            and (np.diff(scores) <= 0).all()
            and ((scores >= 0) & (scores <= 1)).all()
        )
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width).all() and (boxes[:, [1, 3]] <= height).all()
        assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 1]).all()


def test_a_batch_finds_what_single_pictures_find(config):
    model = build(config).eval()
    model.roi_heads.score_thresh = 0.0
    images = pictures((64, 64), (64, 64), (64, 64))
    together, alone = (detect_boxes(model, images, short_side=64, max_side=64, batch_size=size) for size in (3, 1))
    for a, b in zip(together, alone, strict=True):
        assert np.allclose(a[1], b[1], atol=1e-4)


def test_it_learns_also_from_pictures_without_boxes(config):
    model = build(config).train()
    targets = [
        {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], targets)
    assert set(losses) == LOSSES and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


@pytest.mark.parametrize("categories", [["product"], ["a", "b", "c"]])
def test_categories_are_those_of_the_config_and_background(config, categories):
    assert (
        build(changed(config, categories=categories)).roi_heads.box_predictor.cls_score.out_features
        == len(categories) + 1
    )


def test_frozen_batch_norms_neither_learn_nor_drift(config):
    model = build(changed(config, norm="frozen")).train()
    before = {name: value.clone() for name, value in model.backbone.body.state_dict().items() if ".bn." in name}
    assert before and not any(".bn." in name for name, _ in model.backbone.body.named_parameters())
    model([torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}])
    after = model.backbone.body.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("every_block", [True, False])
def test_ese_stands_in_every_block_or_where_timm_has_it(config, every_block):
    model = build(changed(config, backbone="ese_vovnet39b", ese_in_every_block=every_block))
    has = [[block.attn is not None for block in stage.blocks] for stage in model.backbone.body.stages]
    assert [len(blocks) for blocks in has] == [1, 1, 2, 2]  # VoVNet-39: one, one, two, two blocks
    assert has == (
        [[True], [True], [True, True], [True, True]] if every_block else [[True], [True], [False, True], [False, True]]
    )


@pytest.mark.parametrize("name", ["resnet50", "ese_vovnet99x", "ese_vovnet39b_evos", "ese_vovnet19b.tag", "", "../weights"])
def test_a_backbone_that_is_no_vovnet_is_refused(config, name):
    with pytest.raises(UserError, match="detector.backbone.*ese_vovnet19b"):
        build(changed(config, backbone=name))


def test_every_backbone_that_the_refusal_names_can_be_had(config):
    with pytest.raises(UserError) as refusal:
        build(changed(config, backbone="resnet50"))
    names = re.search(r"\((.*)\)", str(refusal.value)).group(1).split(", ")
    assert {"eca_vovnet39b", "ese_vovnet19b_slim", "ese_vovnet99b", "vovnet57a"} <= set(names)
    for name in names:
        body = build_body(changed(config, backbone=name), load_pretrained=False)
        assert [stage["reduction"] for stage in body.feature_info] == [2, 4, 8, 16, 32], name


def test_an_unknown_tag_is_refused(config):
    with pytest.raises(UserError, match=r"detector\.backbone: 'ese_vovnet19b_dw\.none'.*tag"):
        build(changed(config, backbone="ese_vovnet19b_dw.none"))


def test_a_detectron2_backbone_loads_wholly(config, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("ese_vovnet19b_slim", num_classes=0, global_pool="").state_dict()
    source = {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in source.items()}
    theirs = {vovnet_name(name): value for name, value in source.items() if "num_batches_tracked" not in name}
    assert "stage5.OSA5_1.layers.2.OSA5_1_2/norm.running_mean" in theirs
    theirs["classifier.weight"] = torch.rand(1000, 512)  # of the ImageNet training
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    config = changed(config, backbone="ese_vovnet19b_slim", pretrained=str(tmp_path / "theirs.pth"))
    body = build(config, load_pretrained=True).backbone.body.state_dict()
    assert set(body) == set(source)
    stem = "stem.0.conv.weight"  # takes up the difference of the inputs, tested above
    kept = [name for name in source if "num_batches_tracked" not in name and name != stem]
    assert all(torch.equal(body[name], source[name]) for name in kept) and not torch.equal(body[stem], source[stem])
    frozen = build(changed(config, norm="frozen"), load_pretrained=True).backbone.body.state_dict()
    assert all(torch.equal(value, source[name]) for name, value in frozen.items() if name != stem)
    del theirs["stage3.OSA3_1.ese.fc.bias"]
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"1 missing \['stages.1.blocks.0.attn.fc.bias'\]"):
        build(config, load_pretrained=True)


def test_pretrained_weights_are_not_asked_for_when_a_trained_model_is_built(config, tmp_path):
    config = changed(config, pretrained=str(tmp_path / "nowhere.pth"))
    build(config, load_pretrained=False)
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        build(config, load_pretrained=True)


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_a_detector_comes_back_from_its_folder_as_it_was(config, tmp_path, norm):
    config = changed(config, norm=norm, categories=["a", "b"])
    model = build(config, seed=3).train()
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    model([torch.rand(3, 64, 64)] * 2, [target] * 2)  # moves running statistics where they move
    save_weights(tmp_path, model, {"architecture": config.model_dump()})
    loaded, architecture = load_detector(tmp_path, runtime=PLAIN, least_score=0.0)
    assert architecture == config and not loaded.training
    model.eval().roi_heads.score_thresh = 0.0
    images = pictures((64, 48), (64, 64))
    for mine, theirs in zip(
        *(detect_boxes(each, images, short_side=64, max_side=64, batch_size=2) for each in (model, loaded)), strict=True
    ):
        assert len(mine[0]) and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_least_score_is_kept_to(config, tmp_path):
    save_weights(tmp_path, build(config), {"architecture": config.model_dump()})
    image = pictures((64, 64))
    all_scores = detect_boxes(
        load_detector(tmp_path, runtime=PLAIN, least_score=0.0)[0], image, short_side=64, max_side=64, batch_size=1
    )[0][1]
    least = float(np.median(all_scores))
    scores = detect_boxes(
        load_detector(tmp_path, runtime=PLAIN, least_score=least)[0], image, short_side=64, max_side=64, batch_size=1
    )[0][1]
    assert len(scores) and scores.min() >= least


def test_a_folder_without_a_detector_is_refused(tmp_path):
    with pytest.raises(UserError, match="no trained model"):
        load_detector(tmp_path, runtime=PLAIN, least_score=0.5)
