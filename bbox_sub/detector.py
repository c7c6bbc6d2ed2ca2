"""The network of stage 1: Faster R-CNN (Ren et al. 2015) on a VoVNetV2 (Lee & Park 2020) with a feature pyramid (Lin et al. 2017).

timm's VoVNet, torchvision's pyramid and heads with detectron2's geometry (rcnn.py). `build_detector` makes it from its config
section, `load_detector` from a trained model's own folder. Pictures come already resized: float32 RGB tensors (3, H, W)
in 0..1.
"""

from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from bbox_sub.body import build_body, preprocessing
from bbox_sub.openvino_engine import MODELS, SOURCES, CompiledDetector, detector_models
from bbox_sub.rcnn import Anchors, BoxHeads, BoxPool, Proposals
from shared.config import Config, Detector
from shared.errors import UserError
from shared.quantized import made_or_quantized
from shared.runtime import Cache, Runtime, choose_runtime, on_device
from shared.weights import load_weights, read_description, refuse_other_shapes

INFERENCE_KEYS = {
    "engine",
    "proposals",
    "detections",
    "nms_iou",
}  # of the section `detector`: what inference may choose
BOX_POOL = 7  # RoIAlign's output side


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


def build_detector(
    config: Detector, *, load_pretrained: bool, proposals_sampled: int = 512, least_score: float = 0.05
) -> GeneralizedRCNN:
    """The detector of the config; label 0 is background, label k is categories[k - 1].

    `proposals_sampled` per picture serve the box head's loss. Weights are drawn as detectron2 draws them, but the body's,
    which are timm's. Raises UserError for an unknown backbone and for
    weights that do not fit.
    """
    if config.engine == "detectron2":
        from bbox_sub.detectron2_engine import build_detectron2

        return build_detectron2(
            config, build_body(config, load_pretrained), proposals_sampled=proposals_sampled, least_score=least_score
        )
    body = build_body(config, load_pretrained)
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
        score_thresh=least_score,
        nms_thresh=config.nms_iou,
        detections_per_img=config.detections,
    )
    _draw_heads(heads)
    pixels = preprocessing(config)
    transform = NormaliseAndPad(min_size=0, max_size=0, image_mean=pixels["mean"], image_std=pixels["std"])
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


def detector_runtime(config: Config) -> Runtime:
    """What the config's detector runs on.

    With `detector.engine: detectron2` an engine that is left open is torch: the user wants detectron2's own model. Raises UserError
    where that model is to vote for boxes, which it cannot.
    """
    only_torch = "detector.engine is detectron2" if config.detector.engine == "detectron2" else ""
    runtime = choose_runtime(config.runtime, only_torch=only_torch)
    if only_torch and runtime.engine == "torch" and config.detect.vote_iou:
        raise UserError(
            f"detect.vote_iou: expected 0 with detector.engine: detectron2, whose own model has no box voting, found "
            f"{config.detect.vote_iou:g}. Set it to 0, or detector.engine=torchvision, which runs the same weights."
        )
    return runtime


def load_detector(
    folder: Path, *, runtime: Runtime, least_score: float, vote_iou: float = 0.0, **chosen: float
) -> tuple[GeneralizedRCNN | CompiledDetector, Detector]:
    """A trained detector ready for `detect_boxes`, which gives boxes scored above `least_score`, and its config section.

    vote_iou: of `rcnn.vote_for_boxes`, 0 for none; detectron2's own model has no voting. `chosen` replaces values of
    INFERENCE_KEYS that it was trained with. OpenVINO runs torchvision's build of the network whatever the engine: the weights
    are the same.
    """
    if runtime.engine == "openvino":
        chosen = {**chosen, "engine": "torchvision"}
    try:
        config = Detector.model_validate({**read_description(folder)["architecture"], **chosen})
    except ValidationError as error:
        raise UserError(
            f"{folder}/model.json: not a detector that this version knows ({error}). Train again."
        ) from None
    refuse_other_shapes(folder, lambda: build_detector(config.model_copy(update={"engine": "torchvision"}), load_pretrained=False))
    model = build_detector(config, load_pretrained=False, least_score=least_score)
    load_weights(folder, model)
    model.eval()
    if config.engine == "torchvision":
        model.roi_heads.vote_iou = vote_iou
    if runtime.engine == "openvino":
        makes = detector_models(model, runtime.precision)
        chosen = {name: made_or_quantized(makes[name], runtime, Cache.of(folder, name, SOURCES), folder) for name in MODELS}
        makes, caches = ({name: of[k] for name, of in chosen.items()} for k in (0, 1))
        return CompiledDetector(model, makes, runtime, caches), config
    return on_device(model, runtime), config
