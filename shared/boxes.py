"""Box geometry. Boxes are float arrays (N, 4) of x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""

import numpy as np


def clip_boxes(boxes_xyxy: np.ndarray, width: int | np.ndarray, height: int | np.ndarray) -> np.ndarray:
    """Boxes cut to the picture: (N, 4) -> (N, 4) float32. A box wholly outside comes out with an area of 0."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    width, height = np.broadcast_to(width, len(boxes)), np.broadcast_to(height, len(boxes))
    limits = np.stack([width, height, width, height], axis=1)  # (N, 4)
    return np.clip(boxes, 0, limits).astype(np.float32)


def box_areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Areas in square pixels, (N, 4) -> (N,); a box that is inside out has area 0."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)


def pairwise_iou(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (N, 4), (M, 4) -> (N, M) float64 in 0..1; two empty boxes have IoU 0."""
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, M, 2)
    intersection = np.prod(np.clip(sides, 0, None), axis=2)
    union = box_areas(a.reshape(-1, 4))[:, None] + box_areas(b.reshape(-1, 4))[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def expand_boxes(boxes_xyxy: np.ndarray, margin: float) -> np.ndarray:
    """Boxes grown on every side by `margin` times their own width or height: (N, 4) -> (N, 4) float32."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    grow = margin * (boxes[:, 2:] - boxes[:, :2])  # (N, 2)
    return np.concatenate([boxes[:, :2] - grow, boxes[:, 2:] + grow], axis=1)
