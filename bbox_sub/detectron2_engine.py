"""`detector.engine: detectron2`: detectron2's own model behind the interface of torchvision's, from the same config section.

Its heads train and infer; pictures, schedule, files and the names of the weights are those of the other engine, so that
either reads what the other trained.
"""

from torch import Tensor, nn

from bbox_sub.body import preprocessing
from bbox_sub.detectron2_names import BODY, PARTS, background_first, background_last
from shared.config import Detector
from shared.errors import UserError

try:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN, Backbone, GeneralizedRCNN
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
    from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage
except ImportError as error:
    raise UserError(
        f"detector.engine: detectron2 is not installed here ({error}). Install it from its source "
        "(`pip install --no-build-isolation` of a checkout, see README), or set detector.engine=torchvision: the weights are the same."
    ) from None

LEVELS = ("p2", "p3", "p4", "p5", "p6")
THEIR_BODY = "network.backbone.bottom_up.body."


class VoVNetBackbone(Backbone):
    """timm's VoVNet as a detectron2 backbone."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self._shapes = {
            f"stage{k + 2}": ShapeSpec(channels=stage["num_chs"], stride=2 ** (k + 2))
            for k, stage in enumerate(body.feature_info[1:])
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, levels = self.body.stem(images), {}
        for name, stage in zip(self._shapes, self.body.stages, strict=True):
            features = levels[name] = stage(features)
        return levels

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes


class Float32Pooler(ROIPooler):
    """detectron2's pooler with boxes in float32 under autocast too: its own rounds them to its features' precision."""

    def forward(self, x: list[Tensor], box_lists: list) -> Tensor:
        return super().forward([level.float() for level in x], box_lists)


class Detectron2RCNN(nn.Module):
    """detectron2's GeneralizedRCNN that takes and gives what torchvision's does; its state dict has our names."""

    def __init__(self, network: GeneralizedRCNN):
        super().__init__()
        self.network = network
        self.register_state_dict_post_hook(_to_our_names)
        self.register_load_state_dict_pre_hook(_to_their_names)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None):
        """Losses in training; in evaluation per picture boxes (D, 4), scores (D,), labels (D,) from 1."""
        inputs = [{"image": image} for image in images]
        if not self.training:
            found = self.network.inference(inputs, do_postprocess=False)
            return [
                {"boxes": each.pred_boxes.tensor, "scores": each.scores, "labels": each.pred_classes + 1}
                for each in found
            ]
        for each, target in zip(inputs, targets, strict=True):
            truth = {"gt_boxes": Boxes(target["boxes"]), "gt_classes": target["labels"] - 1}
            each["instances"] = Instances(tuple(each["image"].shape[-2:]), **truth)
        with EventStorage():  # its heads log into one
            return self.network(inputs)


def build_detectron2(
    config: Detector, body: nn.Module, *, proposals_sampled: int, least_score: float
) -> Detectron2RCNN:
    """detectron2's Faster R-CNN with a pyramid on `body`, with the values that its own configs have where ours is silent."""
    channels, n_classes = config.pyramid_channels, len(config.categories)
    bottom_up = VoVNetBackbone(body)
    pyramid = FPN(bottom_up, list(bottom_up.output_shape()), channels, top_block=LastLevelMaxPool())
    shapes = pyramid.output_shape()
    anchors = DefaultAnchorGenerator(
        sizes=[[size] for size in config.anchor_sizes],
        aspect_ratios=[config.anchor_ratios],
        strides=[shapes[level].stride for level in LEVELS],
        offset=0.0,
    )
    proposals = RPN(
        in_features=list(LEVELS),
        head=StandardRPNHead(in_channels=channels, num_anchors=anchors.num_anchors[0]),
        anchor_generator=anchors,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2 * config.proposals, config.proposals),
        post_nms_topk=(config.proposals, config.proposals),
    )
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=channels, height=7, width=7), conv_dims=[], fc_dims=[config.box_head_features] * 2
    )
    heads = StandardROIHeads(
        num_classes=n_classes,
        batch_size_per_image=proposals_sampled,
        positive_fraction=0.25,
        proposal_matcher=Matcher([0.5], [0, 1]),
        box_in_features=list(LEVELS[:4]),
        box_pooler=Float32Pooler(7, [1 / shapes[level].stride for level in LEVELS[:4]], 0, "ROIAlignV2"),
        box_head=head,
        box_predictor=FastRCNNOutputLayers(
            head.output_shape,
            box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
            num_classes=n_classes,
            test_score_thresh=least_score,
            test_nms_thresh=config.nms_iou,
            test_topk_per_image=config.detections,
        ),
    )
    pixels = preprocessing(config)
    network = GeneralizedRCNN(
        backbone=pyramid,
        proposal_generator=proposals,
        roi_heads=heads,
        pixel_mean=pixels["mean"],
        pixel_std=pixels["std"],
    )
    return Detectron2RCNN(network)


def _to_our_names(_, state: dict[str, Tensor], prefix: str, __) -> None:
    pairs = {f"network.{theirs}": ours for ours, theirs in PARTS.items()} | {THEIR_BODY: BODY}
    _rename(state, prefix, pairs, background_first)


def _to_their_names(_, state: dict[str, Tensor], prefix: str, *__) -> None:
    pairs = {ours: f"network.{theirs}" for ours, theirs in PARTS.items()} | {BODY: THEIR_BODY}
    _rename(state, prefix, pairs, background_last)


def _rename(state: dict[str, Tensor], prefix: str, pairs: dict[str, str], move_background) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        own = name.removeprefix(prefix)
        start = next((old for old in pairs if own.startswith(old)), None)
        if start:
            state[prefix + pairs[start] + own.removeprefix(start)] = move_background(
                own.removeprefix("network."), state.pop(name)
            )
