"""The network of stage 1: Faster R-CNN (Ren et al. 2015) on a VoVNetV2 (Lee & Park 2020) with a feature pyramid (Lin et al. 2017).

torchvision's Faster R-CNN, timm's VoVNet. `build_detector` makes it from its config section, `load_detector` from a trained
model's own folder. Pictures come already resized: float32 RGB tensors (3, H, W) in 0..1.
"""

import re
from pathlib import Path

import timm
import torch
from timm.data import IMAGENET_DEFAULT_STD
from timm.layers import create_attn, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from shared.config import Detector
from shared.errors import UserError
from shared.weights import fill_backbone, load_weights, read_description

INFERENCE_KEYS = {"proposals", "detections", "nms_iou"}  # of the section `detector`: what inference may choose
BOX_POOL = 7  # RoIAlign's output side, torchvision's default for boxes


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

    canvas_hw = (0, 0)  # what training pads to at least: the largest picture of a batch that several processes share

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        if not self.training:
            return super().batch_images(images, size_divisible)
        blank = images[0].new_zeros(3, *self.canvas_hw)
        return super().batch_images([*images, blank], size_divisible)[:-1]  # (B, 3, H, W)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


def build_detector(config: Detector, *, load_pretrained: bool, training: dict | None = None) -> FasterRCNN:
    """The detector of the config; label 0 is background, label k is categories[k - 1].

    `training` gives torchvision's names for what only training needs. Raises UserError for an unknown backbone and for
    weights that do not fit.
    """
    if not re.match(r"(ese_)?vovnet", config.backbone) or not timm.is_model(config.backbone):
        raise UserError(
            f"detector.backbone: expected a VoVNet that timm has ({', '.join(timm.list_models('*vovnet*'))}), found {config.backbone!r}."
        )
    try:
        body = timm.create_model(config.backbone, num_classes=0, global_pool="")
    except RuntimeError as error:  # the name is known, the tag after its dot is not
        raise UserError(f"detector.backbone: {config.backbone!r}: {error}") from None
    body.head = nn.Identity()
    if config.ese_in_every_block:
        _add_ese(body)
    if load_pretrained:
        fill_backbone(body, config.backbone, config.pretrained, "detector.pretrained", from_detectron2_names)
    if config.freeze_batch_norm:
        body = freeze_batch_norm_2d(body)
    mean, std = body.pretrained_cfg["mean"], body.pretrained_cfg["std"]
    anchors = AnchorGenerator(
        tuple((size,) for size in config.anchor_sizes), (tuple(config.anchor_ratios),) * len(config.anchor_sizes)
    )
    head = TwoMLPHead(config.pyramid_channels * BOX_POOL**2, config.box_head_features)
    predictor = FastRCNNPredictor(config.box_head_features, len(config.categories) + 1)
    model = FasterRCNN(
        VoVNetPyramid(body, config.pyramid_channels),
        rpn_anchor_generator=anchors,
        box_head=head,
        box_predictor=predictor,
        rpn_post_nms_top_n_test=config.proposals,
        rpn_pre_nms_top_n_test=config.proposals,
        box_nms_thresh=config.nms_iou,
        box_detections_per_img=config.detections,
        **(training or {}),
    )
    model.transform = NormaliseAndPad(min_size=0, max_size=0, image_mean=list(mean), image_std=list(std))
    return model


def load_detector(folder: Path, *, least_score: float, **chosen: float) -> tuple[FasterRCNN, Detector]:
    """A trained detector in evaluation mode, which gives boxes scored above `least_score`, and its config section.

    `chosen` replaces values of INFERENCE_KEYS that it was trained with.
    """
    config = Detector.model_validate({**read_description(folder)["architecture"], **chosen})
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
