"""The detector outside of torch: OpenVINO runs what multiplies matrices, that is all but a hundredth of the work.

Backbone, pyramid and the proposals' head are one model, the box head another; both take any size of picture and any number of
boxes. Between them torch picks the proposals and pools their boxes, and behind them it picks the detections, in float32 and by
the very functions of rcnn.py.
"""

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from bbox_sub.pooling import pool_in_any_order
from bbox_sub.rcnn import STRIDES, level_of_boxes
from bbox_sub.winograd import with_winograd
from shared.runtime import Cache, Request, Runtime, Workers, compiled, cpu_has_amx, from_torch

POOLED_LEVELS = len(STRIDES) - 1
MODELS = ("front", "box_head")
# What makes the models.
SOURCES = [
    Path(__file__).with_name(name)
    for name in ("openvino_engine.py", "detector.py", "body.py", "rcnn.py", "winograd.py")
]
DIVISOR = 32  # pictures are padded to multiples of it


class Front(nn.Module):
    """Pictures uint8 (B, 3, H, W) -> the levels p2 to p5, then the proposals' logits of p2 to p6, then their deltas; each (B, h, w, C).

    Channels come last, as OpenVINO computes them.
    """

    def __init__(self, network: GeneralizedRCNN):
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head
        mean, std = (
            torch.tensor(each).view(3, 1, 1) for each in (network.transform.image_mean, network.transform.image_std)
        )
        self.register_buffer("black", -mean / std)
        self.register_buffer("step", 1 / (255 * std))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        height, width = pictures.shape[-2:]
        images = pictures.float() * self.step + self.black
        images = functional.pad(
            images, (0, -width % DIVISOR, 0, -height % DIVISOR)
        )  # with the mean colour, as in training
        levels = list(self.backbone(images).values())
        logits, deltas = self.head(levels)
        return tuple(each.permute(0, 2, 3, 1) for each in (*levels[:POOLED_LEVELS], *logits, *deltas))


class BoxHead(nn.Module):
    """Pooled boxes (N, side * side * C), channels last -> class logits (N, K + 1) and deltas (N, 4 (K + 1))."""

    def __init__(self, network: GeneralizedRCNN):
        super().__init__()
        heads = network.roi_heads
        self.predictor, self.fc7 = heads.box_predictor, heads.box_head.fc7
        channels_first = heads.box_head.fc6
        side, features = heads.box_roi_pool.side, channels_first.out_features
        weight = channels_first.weight.reshape(features, -1, side * side).transpose(1, 2)
        self.fc6 = nn.Linear(channels_first.in_features, features)
        self.fc6.weight = nn.Parameter(weight.reshape(features, -1), requires_grad=False)
        self.fc6.bias = channels_first.bias

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.fc7(self.fc6(pooled).relu()).relu())


def detector_models(network: GeneralizedRCNN, precision: str) -> dict[str, Callable[[], ov.Model]]:
    """What makes the two models of a detector that OpenVINO is to run in `precision`, by the names in MODELS; they are in float32 still.

    front: a picture uint8 (1, 3, H, W), of any size. box_head: pooled boxes float32 (N, side * side * C).
    """
    makes = quantizable_models(network)
    if precision == "bf16" and cpu_has_amx():  # the products that Winograd saves cost less there than its sums
        return makes
    return {**makes, "front": lambda: with_winograd(makes["front"](), DIVISOR)}


def quantizable_models(network: GeneralizedRCNN) -> dict[str, Callable[[], ov.Model]]:
    """The same two with convolutions as the network has them, for INT8 to calibrate: Winograd's sums would want steps of their own."""
    n_pooled = network.roi_heads.box_roi_pool.side**2 * network.backbone.out_channels
    return {
        "front": lambda: from_torch(Front(network), torch.zeros(1, 3, 64, 96, dtype=torch.uint8)),
        "box_head": lambda: from_torch(BoxHead(network), torch.zeros(2, n_pooled)),
    }


class CompiledDetector:
    """Called with resized pictures, uint8 (3, H, W), it gives of each boxes (D, 4), scores (D,) and labels (D,) from 1.

    Several pictures are at work at a time, each by itself: what is found in one never depends on which others came with it.
    """

    def __init__(
        self,
        network: GeneralizedRCNN,
        makes: dict[str, Callable[[], ov.Model]],
        runtime: Runtime,
        caches: dict[str, Cache | None],
    ):
        """makes, caches: by the names in MODELS; what `detector_models` gives, or models that do the same in less precision."""
        self._rpn, self._heads = network.rpn, network.roi_heads
        self._side = self._heads.box_roi_pool.side
        self._workers = Workers(*(compiled(makes[name], runtime, caches[name]) for name in MODELS))

    def __call__(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        return self._workers.map(self._detect, pictures)

    def pooled_proposals(self, pictures: list[Tensor]) -> list[Tensor]:
        """What the box head is given for each of the pictures: (P, side * side * C) float32, by level and by
        the size of the proposals."""

        def pooled(front: Request, _, picture: Tensor) -> Tensor:
            _, levels, boxes = self._look(front, picture)
            return self._pool(levels, boxes)[0]

        return self._workers.map(pooled, pictures)

    def _look(self, front: Request, picture: Tensor) -> tuple[ImageList, list[Tensor], Tensor]:
        """The picture, its levels p2 to p5, and its proposals (P, 4)."""
        given = front(picture[None])
        levels, rest = given[:POOLED_LEVELS], [each.permute(0, 3, 1, 2) for each in given[POOLED_LEVELS:]]
        images = ImageList(picture[None], [tuple(picture.shape[-2:])])
        [boxes] = self._propose(images, rest[: len(rest) // 2], rest[len(rest) // 2 :])
        return images, levels, boxes

    def _detect(self, front: Request, box_head: Request, picture: Tensor) -> dict[str, Tensor]:
        images, levels, boxes = self._look(front, picture)
        if not len(boxes):
            return {"boxes": boxes, "scores": boxes[:, 0], "labels": torch.zeros(0, dtype=torch.int64)}
        pooled, box_of = self._pool(levels, boxes)
        back = box_of.argsort()
        logits, deltas = (each[back] for each in box_head(pooled))
        found = self._heads.postprocess_detections(logits, deltas, [boxes], images.image_sizes)
        return dict(zip(("boxes", "scores", "labels"), (of_picture[0] for of_picture in found), strict=True))

    def _propose(self, images: ImageList, logits: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
        anchors = self._rpn.anchor_generator(images, logits)
        n_per_level = [each[0].numel() for each in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        proposals = self._rpn.box_coder.decode(deltas, anchors).reshape(1, -1, 4)
        return self._rpn.filter_proposals(proposals, logits, images.image_sizes, n_per_level)[0]

    def _pool(self, levels: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(N, side * side * C) of the boxes (N, 4), by level and size, and which box each row is (N,)."""
        level_of, pooled, box_of = level_of_boxes(boxes, len(levels)), [], []
        for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=False)):
            places = torch.where(level_of == number)[0]
            of_level, order = pool_in_any_order(level, torch.zeros_like(places), boxes[places], stride, self._side)
            pooled.append(of_level)
            box_of.append(places[order])
        return torch.cat(pooled).flatten(1), torch.cat(box_of)
