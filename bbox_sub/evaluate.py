"""How good a detector is: COCO's average precision on labelled pictures, by pycocotools."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from bbox_sub.detect import detect_boxes
from bbox_sub.targets import LabelledPicture, fit_boxes
from shared.config import Config
from shared.frames import read_picture
from shared.progress import progress_bar

PICTURES_AT_ONCE = 16
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}  # px2, COCO's

Truth = tuple[np.ndarray, np.ndarray, tuple[int, int]]  # of a picture: boxes_xyxy (N, 4), labels (N,), size_hw
Found = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # as detect_boxes gives it: boxes_xyxy (N, 4), scores (N,), labels (N,)


def evaluate_detector(model: GeneralizedRCNN, pictures: list[LabelledPicture], config: Config) -> dict[str, float]:
    """{'mAP', 'AP50', 'AR'} in 0..1 on the pictures (an even choice of detector_train.evaluate_pictures of them).

    mAP is the mean over IoU 0.50 to 0.95 and over categories, AR that of recall with up to 100 boxes (COCO's definitions).
    """
    chosen = np.unique(
        np.linspace(0, len(pictures) - 1, min(len(pictures), config.detector_train.evaluate_pictures))
        .round()
        .astype(int)
    )
    training = model.training
    model.eval()
    truth, found = [], []
    with progress_bar(total=len(chosen), title="mAP", unit="picture") as bar:
        for start in range(0, len(chosen), PICTURES_AT_ONCE):
            group = [pictures[k] for k in chosen[start : start + PICTURES_AT_ONCE]]
            images = [read_picture(labelled.picture, config.data.max_pixels) for labelled in group]
            detections = detect_boxes(
                model,
                images,
                short_side=config.detect.video_short_side,
                max_side=config.detect.max_side,
                batch_size=config.detect.batch_size,
            )
            for labelled, image, detected in zip(group, images, detections, strict=True):
                truth.append(
                    (*fit_boxes(labelled.boxes_xyxy, labelled.labels, image.shape[1], image.shape[0]), image.shape[:2])
                )
                found.append(detected)
            bar.update(len(group))
    model.train(training)
    return average_precision(truth, found, config.detector.categories)


def average_precision(truth: list[Truth], found: list[Found], categories: list[str]) -> dict[str, float]:
    """COCO's mAP, AP50 and AR of what was found against truth, picture by picture. Without one true box all three are 0."""
    precision, recall = coco_curves(truth, found, categories)
    return {name: value or 0.0 for name, value in _figures(precision[..., 0], recall[..., 0]).items()}


def average_precision_by(truth: list[Truth], found: list[Found], categories: list[str]) -> dict:
    """{'mAP', 'AP50', 'AR', 'by_size': {size: the three}, 'by_class': {category: the three}}; None where there is no true box.

    Sizes are COCO's: SIZES, by the area of the box in pixels of its picture.
    """
    precision, recall = coco_curves(truth, found, categories)
    return {
        **_figures(precision[..., 0], recall[..., 0]),
        "by_size": {size: _figures(precision[..., k], recall[..., k]) for k, size in enumerate(SIZES, 1)},
        "by_class": {name: _figures(precision[:, :, [k], 0], recall[:, [k], 0]) for k, name in enumerate(categories)},
    }


def coco_curves(truth: list[Truth], found: list[Found], categories: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision (10 IoUs, 101 recalls, categories, 4 sizes) and recall (10, categories, 4), with up to 100 boxes.

    IoUs are 0.50, 0.55, ..., 0.95, sizes all, small, medium, large; -1 where there is no true box.
    """
    images = [{"id": k, "height": size_hw[0], "width": size_hw[1]} for k, (_, _, size_hw) in enumerate(truth)]
    expected = [
        _annotation(k, box, label)
        for k, (boxes, labels, _) in enumerate(truth)
        for box, label in zip(boxes, labels, strict=True)
    ]
    results = [
        {**_annotation(k, box, label), "score": float(score)}
        for k, detected in enumerate(found)
        for box, score, label in zip(*detected, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        judge = COCOeval(_coco(images, expected, categories), _coco(images, results, categories), "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][..., -1], judge.eval["recall"][..., -1]


def _annotation(picture: int, box_xyxy: np.ndarray, label: int) -> dict:
    x1, y1, x2, y2 = (float(side) for side in box_xyxy)
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": picture, "category_id": int(label), "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}


def _coco(images: list[dict], annotations: list[dict], categories: list[str]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
    }
    coco.createIndex()
    return coco


def _figures(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    return {"mAP": _mean(precision), "AP50": _mean(precision[0]), "AR": _mean(recall)}


def _mean(values: np.ndarray) -> float | None:
    """Over the values that there are; pycocotools marks the others with -1."""
    values = values[values > -1]
    return float(values.mean()) if len(values) else None
