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


def average_precision(
    truth: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]],
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    categories: list[str],
) -> dict[str, float]:
    """COCO's mAP, AP50 and AR of detections (boxes, scores, labels) against truth (boxes, labels, size_hw), picture by picture.

    Without one true box all three are 0.
    """
    images = [{"id": k, "height": size_hw[0], "width": size_hw[1]} for k, (_, _, size_hw) in enumerate(truth)]
    annotations = [
        {
            "image_id": k,
            "category_id": int(label),
            "bbox": _xywh(box),
            "area": float(np.prod(box[2:] - box[:2])),
            "iscrowd": 0,
        }
        for k, (boxes, labels, _) in enumerate(truth)
        for box, label in zip(boxes, labels, strict=True)
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    results = [
        {"image_id": k, "category_id": int(label), "bbox": _xywh(box), "score": float(score)}
        for k, detected in enumerate(found)
        for box, score, label in zip(*detected, strict=True)
    ]
    if not annotations or not results:
        return {"mAP": 0.0, "AP50": 0.0, "AR": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
            "info": {},
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"mAP": float(judge.stats[0]), "AP50": float(judge.stats[1]), "AR": float(judge.stats[8])}


def _xywh(box_xyxy: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(side) for side in box_xyxy)
    return [x1, y1, x2 - x1, y2 - y1]
