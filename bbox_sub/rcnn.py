"""The parts of Faster R-CNN (Ren et al. 2015) after the pyramid, from torchvision's, with detectron2's geometry.

Where the two libraries differ, these classes follow detectron2, so that its networks give the same boxes here: anchors that
are not rounded and stand at fixed strides, proposals ordered by their logits, levels and RoIAlign as its ROIPooler has
them, boxes filtered by score and by nothing else before the last NMS. Boxes are decoded in float32 whatever the precision.
"""

import math

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from bbox_sub.pooling import pool_boxes

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels p2 to p6
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # a box of 224 x 224 is pooled from p4 (Lin et al. 2017, equation 1)


class Anchors(nn.Module):
    """Anchors of one size (px, root of the area) per pyramid level and of `ratios` (height / width), around the cells' corners."""

    def __init__(self, sizes: list[float], ratios: list[float]):
        super().__init__()
        self.n_per_cell = len(ratios)
        self._cells = [torch.tensor([_centred(size, ratio) for ratio in ratios]) for size in sizes]

    def forward(self, images: ImageList, levels: list[Tensor]) -> list[Tensor]:
        """(A, 4) float32 xyxy for each picture: level after level, row after row, cell after cell, ratio after ratio."""
        anchors = []
        for cell, stride, level in zip(self._cells, STRIDES, levels, strict=True):
            y, x = (torch.arange(side, device=level.device) * float(stride) for side in level.shape[-2:])
            y, x = torch.meshgrid(y, x, indexing="ij")  # (h, w)
            corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            anchors.append((corners + cell.to(level.device)).reshape(-1, 4))
        return [torch.cat(anchors)] * len(images.image_sizes)


def _centred(size: float, ratio: float) -> list[float]:
    width = math.sqrt(size**2 / ratio)
    height = ratio * width
    return [-width / 2, -height / 2, width / 2, height / 2]


class Float32Coder(BoxCoder):
    """torchvision's box coder, that decodes in float32 under autocast too: bfloat16 has whole pixels only from 128 px on."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        return super().decode_single(rel_codes.float(), boxes.float())


class Proposals(RegionProposalNetwork):
    """torchvision's region proposal network; picks its proposals as detectron2's find_top_rpn_proposals does."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.box_coder = Float32Coder(weights=(1.0, 1.0, 1.0, 1.0))

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per picture the boxes (P, 4) and logits (P,), best first.

        proposals (B, A, 4) xyxy, objectness (B * A, 1) logits. Of each level the best before NMS, NMS within levels, then
        the best of all levels. Boxes are clipped to the picture; those without area or not finite are left out.
        """
        logits = objectness.detach().float().reshape(len(proposals), -1)  # (B, A)
        kept, kept_logits, levels, start = [], [], [], 0
        for level, n_anchors in enumerate(num_anchors_per_level):
            n_best = min(n_anchors, self.pre_nms_top_n())
            best, places = logits[:, start : start + n_anchors].topk(n_best, dim=1)
            kept.append(proposals.gather(1, (start + places)[..., None].expand(-1, -1, 4)))
            kept_logits.append(best)
            levels.append(torch.full((n_best,), level, device=logits.device))
            start += n_anchors
        kept, kept_logits, level_of = torch.cat(kept, dim=1), torch.cat(kept_logits, dim=1), torch.cat(levels)
        results = [
            self._best(*of_picture, level_of) for of_picture in zip(kept, kept_logits, image_shapes, strict=True)
        ]
        return [boxes for boxes, _ in results], [scores for _, scores in results]

    def _best(
        self, boxes: Tensor, logits: Tensor, image_hw: tuple[int, int], level_of: Tensor
    ) -> tuple[Tensor, Tensor]:
        finite = boxes.isfinite().all(dim=1) & logits.isfinite()
        boxes = clip_boxes_to_image(boxes, image_hw)
        usable = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, logits, level_of = boxes[usable], logits[usable], level_of[usable]
        keep = batched_nms(boxes, logits, level_of, self.nms_thresh)[: self.post_nms_top_n()]
        return boxes[keep], logits[keep]


class BoxPool(nn.Module):
    """RoIAlign (He et al. 2017; half-pixel aligned, as many samples as the bin has cells) on the level that a box's size asks for."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, levels: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """levels by name from the finest, of which those at strides 4 to 32 are pooled from; boxes: per picture (P, 4) xyxy.

        Gives (sum of P, C, side, side) float32, in the order of the boxes.
        """
        pooled_levels = list(levels.values())[: len(STRIDES) - 1]
        rois = torch.cat(boxes)  # (N, 4)
        picture_of = torch.cat([torch.full_like(each[:, 0], k, dtype=torch.int64) for k, each in enumerate(boxes)])
        level_of = level_of_boxes(rois, len(pooled_levels))
        channels = pooled_levels[0].shape[1]
        pooled = rois.new_zeros(len(rois), channels, self.side, self.side)
        for number, (level, stride) in enumerate(zip(pooled_levels, STRIDES, strict=False)):
            places = torch.where(level_of == number)[0]
            of_level = self.pool_from(level.float(), picture_of[places], rois[places], stride)
            pooled = pooled.index_put((places,), of_level)
        return pooled

    def pool_from(self, level: Tensor, picture_of: Tensor, boxes_xyxy: Tensor, stride: int) -> Tensor:
        """(N, C, side, side) of one level (B, C, H, W), best with channels last; picture_of (N,), boxes_xyxy (N, 4) in pixels.

        On a CPU by look-up: torchvision's operator and its gradient take one thread there, and several times the work.
        """
        if level.is_cpu:
            bins = pool_boxes(level.permute(0, 2, 3, 1), picture_of, boxes_xyxy, stride, self.side)
            return bins.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        return self.pool_by_operator(level, picture_of, boxes_xyxy, stride)

    def pool_by_operator(self, level: Tensor, picture_of: Tensor, boxes_xyxy: Tensor, stride: int) -> Tensor:
        """The same, up to rounding, by torchvision's operator, on any device."""
        rois = torch.cat([picture_of[:, None].to(boxes_xyxy.dtype), boxes_xyxy], dim=1)  # (N, 5)
        return roi_align(level, rois, self.side, 1 / stride, sampling_ratio=0, aligned=True)


def level_of_boxes(boxes_xyxy: Tensor, n_levels: int) -> Tensor:
    """The level (0: stride 4) that each box of (N, 4) is pooled from (Lin et al. 2017, equation 1), (N,) int64."""
    areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    levels = torch.floor(CANONICAL_LEVEL + torch.log2(areas.sqrt() / CANONICAL_SIZE + 1e-8))
    finest = int(math.log2(STRIDES[0]))
    return (levels.clamp(finest, finest + n_levels - 1) - finest).to(torch.int64)


class BoxHeads(RoIHeads):
    """torchvision's second half of Faster R-CNN; chooses its detections as detectron2's fast_rcnn_inference does."""

    vote_iou = 0.0  # `vote_for_boxes` with this IoU moves the detections that were chosen; 0: they stay

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.box_coder = Float32Coder(weights=(10.0, 10.0, 5.0, 5.0))

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per picture boxes (D, 4), scores (D,) and labels (D,) from 1, best first.

        class_logits (N, K + 1) with the background first, box_regression (N, 4 (K + 1)), both in the order of `proposals`.
        """
        n_boxes = [len(each) for each in proposals]
        boxes = self.box_coder.decode(box_regression, proposals).reshape(*class_logits.shape, 4)[:, 1:]  # (N, K, 4)
        scores = class_logits.float().softmax(dim=1)[:, 1:]  # (N, K)
        chosen = [
            self._choose(*of_picture)
            for of_picture in zip(boxes.split(n_boxes), scores.split(n_boxes), image_shapes, strict=True)
        ]
        boxes, scores, labels = zip(*chosen, strict=True)
        return list(boxes), list(scores), list(labels)

    def _choose(self, boxes: Tensor, scores: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        finite = boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = clip_boxes_to_image(boxes[finite], image_hw), scores[finite]
        places, labels = torch.where(scores > self.score_thresh)
        keep = batched_nms(boxes[places, labels], scores[places, labels], labels, self.nms_thresh)[: self.detections_per_img]
        places, labels = places[keep], labels[keep]
        chosen = boxes[places, labels]
        if self.vote_iou:
            chosen = vote_for_boxes(chosen, labels, boxes, scores, self.vote_iou)
        return chosen, scores[places, labels], labels + 1


def vote_for_boxes(chosen: Tensor, labels: Tensor, boxes: Tensor, scores: Tensor, least_iou: float) -> Tensor:
    """Box voting (Gidaris and Komodakis 2015): the mean of the boxes of a detection's class that overlap it enough, by their scores.

    chosen (D, 4) and labels (D,) from 0 are the detections; boxes (P, K, 4) and scores (P, K) those of all proposals by
    class, however low their scores. Gives (D, 4); a detection that none overlaps by least_iou or more stays.
    """
    moved = chosen.clone()
    for label in labels.unique():
        own = torch.where(labels == label)[0]
        voters, weights = boxes[:, label], scores[:, label]
        weights = torch.where(box_iou(chosen[own], voters) >= least_iou, weights, 0.0)  # (of the class, P)
        total = weights.sum(dim=1, keepdim=True)
        summed = (weights[..., None] * voters).sum(dim=1)  # no matrix product: under autocast that would be in bfloat16
        moved[own] = torch.where(total > 0, summed / total, chosen[own])
    return moved
