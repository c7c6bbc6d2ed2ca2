"""The detector outside of torch: backbone, pyramid and heads compiled by OpenVINO, behind the interface of torchvision's.

Pictures are run one by one, so that what is found in one never depends on which others came with it.
"""

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from shared.runtime import Runtime, compile_model, from_torch

POOLED_LEVELS = 4
MODELS = ["front", "box_head"]


class _Front(nn.Module):
    """Normalised pictures -> the levels p2 to p5, and of p2 to p6 the proposals' logits and deltas."""

    def __init__(self, network: GeneralizedRCNN):
        super().__init__()
        self.backbone = network.backbone
        self.head = network.rpn.head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = list(self.backbone(images).values())
        logits, deltas = self.head(levels)
        return (*levels[:POOLED_LEVELS], *logits, *deltas)


class _BoxHead(nn.Module):
    def __init__(self, network: GeneralizedRCNN):
        super().__init__()
        self.head, self.predictor = network.roi_heads.box_head, network.roi_heads.box_predictor

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.head(pooled))


def detector_models(network: GeneralizedRCNN) -> dict[str, ov.Model]:
    """The two parts of a network that OpenVINO runs, by the names in MODELS, in float32."""
    side = network.roi_heads.box_roi_pool.side
    return {
        "front": from_torch(_Front(network), torch.zeros(1, 3, 64, 96)),
        "box_head": from_torch(_BoxHead(network), torch.zeros(2, network.backbone.out_channels, side, side)),
    }


@torch.inference_mode()
def inputs_of(network: GeneralizedRCNN, picture: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the two parts in MODELS are given for a resized picture, uint8 (3, H, W): (1, 3, h, w) and (P, C, side, side) float32."""
    images, _ = network.transform([picture.float() / 255])
    levels = network.backbone(images.tensors)
    proposals, _ = network.rpn(images, levels)
    return images.tensors.numpy(), network.roi_heads.box_roi_pool(levels, proposals, images.image_sizes).numpy()


class CompiledDetector:
    """Called with resized pictures, uint8 (3, H, W), it gives of each boxes (D, 4), scores (D,) and labels (D,) from 1."""

    def __init__(self, network: GeneralizedRCNN, models: dict[str, ov.Model], runtime: Runtime):
        self._transform, self._rpn, self._heads = network.transform, network.rpn, network.roi_heads
        self._front, self._box_head = (compile_model(models[name], runtime) for name in MODELS)

    @torch.inference_mode()
    def __call__(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: Tensor) -> dict[str, Tensor]:
        images, _ = self._transform([picture.float() / 255])
        given = [torch.from_numpy(np.array(each)) for each in self._front(images.tensors.numpy()).values()]
        levels, rest = given[:POOLED_LEVELS], given[POOLED_LEVELS:]
        proposals = self._propose(images, levels, rest[: len(rest) // 2], rest[len(rest) // 2 :])
        pooled = self._heads.box_roi_pool({str(k): level for k, level in enumerate(levels)}, proposals, images.image_sizes)
        logits, deltas = (torch.from_numpy(np.array(each)) for each in self._box_head(pooled.numpy()).values())
        boxes, scores, labels = self._heads.postprocess_detections(logits, deltas, proposals, images.image_sizes)
        return {"boxes": boxes[0], "scores": scores[0], "labels": labels[0]}

    def _propose(
        self, images: ImageList, levels: list[Tensor], logits: list[Tensor], deltas: list[Tensor]
    ) -> list[Tensor]:
        anchors = self._rpn.anchor_generator(images, logits)
        n_per_level = [each[0].numel() for each in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        proposals = self._rpn.box_coder.decode(deltas, anchors).reshape(1, -1, 4)
        return self._rpn.filter_proposals(proposals, logits, images.image_sizes, n_per_level)[0]
