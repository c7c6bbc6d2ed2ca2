"""The network of stage 1: Faster R-CNN (Ren et al. 2015) on a VoVNetV2 (Lee & Park 2020) with a feature pyramid (Lin et al. 2017).

timm's VoVNet, torchvision's pyramid and heads with detectron2's geometry (rcnn.py). `build_detector` makes it from its config
section, `load_detector` from a trained model's own folder. Pictures come already resized: float32 RGB tensors (3, H, W)
in 0..1.
"""

import re
from functools import partial
from pathlib import Path

import timm
import torch
from pydantic import ValidationError
from timm.data import IMAGENET_DEFAULT_STD
from timm.layers import BatchNormAct2d, GroupNormAct, create_attn, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from bbox_sub.rcnn import Anchors, BoxHeads, BoxPool, Proposals
from shared.config import Detector
from shared.errors import UserError
from shared.weights import fill_backbone, load_weights, read_description

INFERENCE_KEYS = {"proposals", "detections", "nms_iou"}  # of the section `detector`: what inference may choose
BOX_POOL = 7  # RoIAlign's output side
NORMS = {  # groups of 16 channels: all VoVNets' widths are multiples
    "batch": BatchNormAct2d,
    "frozen": BatchNormAct2d,  # and frozen when its weights are in
    "group": partial(GroupNormAct, group_size=16),
}


class VoVNetPyramid(nn.Module):
    """A timm VoVNet's stages at strides 4, 8, 16, 32, each brought to `channels` by a feature pyramid, and stride 64 by pooling."""

    def __init__(self, body: nn.Module, channels: int):
        super().__init__()
        self.body = body
        self.pyramid = FeaturePyramidNetwork(
            [stage["num_chs"] for stage in body.feature_info[1:]], channels, LastLevelMaxPool()
        )
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body.stem(images)  # (B, C, H/4 or H/2, ...): stage 1 brings it to H/4
        levels = {}
        for level, stage in enumerate(self.body.stages):
            features = stage(features)
            levels[str(level)] = features  # (B, C, H/2^(level+2), W/2^(level+2))
        return self.pyramid(levels)


class NormaliseAndPad(GeneralizedRCNNTransform):
    """torchvision's way into the detector without its resizing: pictures come at the size that the network is to see."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


def build_detector(config: Detector, *, load_pretrained: bool, proposals_sampled: int = 512) -> GeneralizedRCNN:
    """The detector of the config; label 0 is background, label k is categories[k - 1].

    `proposals_sampled` per picture serve the box head's loss. Weights are drawn as detectron2 draws them, but the body's,
    which are timm's. Raises UserError for an unknown backbone and for
    weights that do not fit.
    """
    if not re.match(r"(ese_)?vovnet", config.backbone) or not timm.is_model(config.backbone):
        raise UserError(
            f"detector.backbone: expected a VoVNet that timm has ({', '.join(timm.list_models('*vovnet*'))}), found {config.backbone!r}."
        )
    try:
        body = timm.create_model(config.backbone, num_classes=0, global_pool="", norm_layer=NORMS[config.norm])
    except RuntimeError as error:  # the name is known, the tag after its dot is not
        raise UserError(f"detector.backbone: {config.backbone!r}: {error}") from None
    body.head = nn.Identity()
    if config.ese_in_every_block:
        _add_ese(body)
    if load_pretrained:
        fill_backbone(body, config.backbone, config.pretrained, "detector.pretrained", from_detectron2_names)
    if config.norm == "frozen":
        body = freeze_batch_norm_2d(body)
    channels = config.pyramid_channels
    anchors = Anchors(config.anchor_sizes, config.anchor_ratios)
    proposals = Proposals(
        anchors,
        RPNHead(channels, anchors.n_per_cell),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * config.proposals, "testing": config.proposals},
        post_nms_top_n={"training": config.proposals, "testing": config.proposals},
        nms_thresh=0.7,
    )
    heads = BoxHeads(
        BoxPool(BOX_POOL),
        TwoMLPHead(channels * BOX_POOL**2, config.box_head_features),
        FastRCNNPredictor(config.box_head_features, len(config.categories) + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=proposals_sampled,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=config.nms_iou,
        detections_per_img=config.detections,
    )
    _draw_heads(heads)
    mean, std = body.pretrained_cfg["mean"], body.pretrained_cfg["std"]
    transform = NormaliseAndPad(min_size=0, max_size=0, image_mean=list(mean), image_std=list(std))
    return GeneralizedRCNN(VoVNetPyramid(body, channels), proposals, heads, transform)


def _draw_heads(heads: BoxHeads) -> None:
    """detectron2's initial weights: of the box head Xavier's, of the predictor small normal ones, no bias."""
    for layer, draw in (
        (heads.box_head.fc6, lambda weight: nn.init.kaiming_uniform_(weight, a=1)),
        (heads.box_head.fc7, lambda weight: nn.init.kaiming_uniform_(weight, a=1)),
        (heads.box_predictor.cls_score, lambda weight: nn.init.normal_(weight, std=0.01)),
        (heads.box_predictor.bbox_pred, lambda weight: nn.init.normal_(weight, std=0.001)),
    ):
        draw(layer.weight)
        nn.init.zeros_(layer.bias)


def load_detector(folder: Path, *, least_score: float, **chosen: float) -> tuple[GeneralizedRCNN, Detector]:
    """A trained detector in evaluation mode, which gives boxes scored above `least_score`, and its config section.

    `chosen` replaces values of INFERENCE_KEYS that it was trained with.
    """
    try:
        config = Detector.model_validate({**read_description(folder)["architecture"], **chosen})
    except (KeyError, ValidationError) as error:
        raise UserError(
            f"{folder}/model.json: not a detector that this version knows ({error}). Train again."
        ) from None
    model = build_detector(config, load_pretrained=False)
    load_weights(folder, model)
    model.roi_heads.score_thresh = least_score
    return model.eval(), config


def from_detectron2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detectron2 VoVNet's state dict under timm's names, for our input; any other state dict as it is.

    stage3.OSA3_2.layers.4.OSA3_2_4/conv.weight -> stages.1.blocks.1.conv_mid.4.conv.weight. Those networks take BGR of
    0..255 with ImageNet's mean subtracted, ours take RGB of 0..1 that is also divided by its deviation: the first
    convolution's weights take up the difference, so that the features are the same.
    """
    if not any("/conv." in name for name in state):
        return state
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("backbone.").removeprefix("bottom_up.")
        name = name.replace("/norm.", "/bn.")
        if match := re.fullmatch(r"stem\.stem_(\d)/(.+)", name):
            if name == "stem.stem_1/conv.weight":
                value = value[:, [2, 1, 0]] * (255 * torch.tensor(IMAGENET_DEFAULT_STD)).view(1, 3, 1, 1)
            renamed[f"stem.{int(match[1]) - 1}.{match[2]}"] = value
        elif match := re.fullmatch(r"stage(\d)\.OSA\d_(\d+)\.(?:layers\.(\d+)|(concat))\.[^/]+/(.+)", name):
            inner = f"conv_mid.{match[3]}" if match[3] else "conv_concat"
            renamed[f"stages.{int(match[1]) - 2}.blocks.{int(match[2]) - 1}.{inner}.{match[5]}"] = value
        elif match := re.fullmatch(r"stage(\d)\.OSA\d_(\d+)\.ese\.(fc\..+)", name):
            renamed[f"stages.{int(match[1]) - 2}.blocks.{int(match[2]) - 1}.attn.{match[3]}"] = value
        else:
            renamed[name] = value
    return renamed


def _add_ese(body: nn.Module) -> None:
    """eSE on the blocks that lack it: the detectron2 VoVNets have it in every block, timm's in a stage's last."""
    for stage in body.stages:
        for block in stage.blocks:
            if block.attn is None:
                block.attn = create_attn("ese", block.conv_concat.conv.out_channels)
