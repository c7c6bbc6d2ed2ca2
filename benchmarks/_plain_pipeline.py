"""The plain way from a data set to result.json, which `pipeline` compares with: `python -m benchmarks._plain_pipeline --data D --weights W --out FILE`.

OpenCV reads every frame of a video up to the last wanted one, torch runs picture by picture and crop by crop, the embedders one after
the other; numpy takes the distances, loops over pandas tables count the votes. Same weights, same rules as the config's.
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment

from bbox_sub.detector import INFERENCE_KEYS, load_detector
from bbox_sub.resize import resize_picture, resized_size
from benchmarks._plain_pooling import pooling_plainly
from metric_sub.crops import crops_of_boxes, to_input
from metric_sub.embedder import load_embedders
from metric_sub.whitening import Descriptors, load_descriptors
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Match
from shared.dataset import read_media
from shared.errors import UserError
from shared.runtime import PLAIN

DECIMALS = 2  # of the boxes in result.json


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Match items and videos in the plain way.", argv, ("--out", "where the result goes"))
    config = config_of(options)
    use_threads(config.threads)
    rule = config.match
    if rule.rerank != "none" or rule.successive_frames or rule.pairs != "one" or config.search.index != "exact":
        raise UserError(
            "the plain way has no match.rerank, match.successive_frames, match.pairs or search.index. Set none, 0, one and exact."
        )
    photos, photo_vectors, videos, video_vectors = describe(options.data, options.weights, config)
    options.out.write_text(json.dumps(match(photos, photo_vectors, videos, video_vectors, rule)), encoding="utf-8")


@torch.inference_mode()
def describe(data: Path, weights: Path, config: Config) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """The boxes of the photos (item_id, name, box, score) and their vectors, the boxes of the videos (with frame_index) and theirs."""
    chosen = {key: getattr(config.detector, key) for key in INFERENCE_KEYS}
    detector, _ = load_detector(
        weights / "detector", runtime=PLAIN, least_score=0.0, vote_iou=config.detect.vote_iou, **chosen
    )
    pooling_plainly(detector)
    models = [load_embedders(weights / model.name, runtime=PLAIN, flip=config.embed.flip) for model in config.embedders]
    descriptors = load_descriptors(config.descriptors, weights)
    settings = config.detect
    rows, vectors = {"photo": [], "video": []}, {"photo": [], "video": []}
    media, _ = read_media(data, config.data)
    for medium in media.itertuples():
        if medium.kind == "photo":
            frames = {0: cv2.cvtColor(cv2.imread(medium.path), cv2.COLOR_BGR2RGB)}
            side, least = settings.photo_short_side, settings.photo_score
        else:
            frames = read_all_by_opencv(medium.path, set(config.frames.indices))
            side, least = settings.video_short_side, settings.video_score
        for index, image in frames.items():
            boxes, scores = detect(detector, image, side, settings.max_side)
            n_kept = int((scores >= least).sum())
            if medium.kind == "photo" and settings.keep_best_photo_box:
                n_kept = max(1, n_kept)
            for box, score in zip(boxes[:n_kept], scores[:n_kept], strict=True):
                rows[medium.kind].append((medium.item_id, medium.name, index, box, score))
                vectors[medium.kind].append(embed(models, descriptors, image, box))
    columns = ["item_id", "name", "frame_index", "box", "score"]
    photos, videos = (pd.DataFrame(rows[kind], columns=columns) for kind in ("photo", "video"))
    return photos, np.array(vectors["photo"]), videos, np.array(vectors["video"])


def read_all_by_opencv(path: str, wanted: set[int]) -> dict[int, np.ndarray]:
    """index -> image_rgb of the wanted frames, by decoding and converting every frame up to the last."""
    capture, frames = cv2.VideoCapture(path), {}
    for index in range(max(wanted) + 1):
        there, image_bgr = capture.read()
        if not there:
            break
        if index in wanted:
            frames[index] = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
    capture.release()
    return frames


def detect(detector: torch.nn.Module, image_rgb: np.ndarray, short_side: int, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) in the picture's pixels and scores (N,), best first."""
    height, width = image_rgb.shape[:2]
    size_hw = resized_size(height, width, short_side, max_side)
    found = detector([resize_picture(image_rgb, size_hw).float() / 255])[0]
    boxes = found["boxes"].numpy() * np.tile(np.float32([width / size_hw[1], height / size_hw[0]]), 2)
    boxes = boxes.clip(0, [width, height, width, height])
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    return boxes[order], found["scores"].numpy()[order]


def embed(models: list, descriptors: Descriptors, image_rgb: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The unit vector of one box by all models and descriptors, one after the other."""
    vectors = []
    for networks in models:
        of_model = []
        for embedder in networks:
            crops, _ = crops_of_boxes(image_rgb, box[None], embedder.crop_rule)
            batch = to_input(crops)
            vector = embedder.net(batch)[0].numpy()
            if embedder.flip:
                vector = vector + embedder.net(batch.flip(-1))[0].numpy()
            of_model.append(vector / np.linalg.norm(vector))
        vector = np.concatenate(of_model)
        vectors.append(vector / np.linalg.norm(vector))
    for weight, described in zip(descriptors.weights.values(), descriptors.of_boxes(image_rgb, box[None]), strict=True):
        vectors.append(described[0] * math.sqrt(weight))
    vector = np.concatenate(vectors)
    return vector / np.linalg.norm(vector)


def match(
    photos: pd.DataFrame, photo_vectors: np.ndarray, videos: pd.DataFrame, video_vectors: np.ndarray, rule: Match
) -> dict[str, dict]:
    """The matching rule (docs/matching.md), an item at a time."""
    candidates = []
    for item_id, own in photos.groupby("item_id"):
        votes = []
        for row in own.index:
            distances = np.linalg.norm(video_vectors - photo_vectors[row], axis=1)
            for k in np.argsort(distances, kind="stable")[: rule.neighbours]:
                votes.append((videos.item_id[k], distances[k], row, k))
        votes = pd.DataFrame(votes, columns=["video_id", "distance", "photo", "frame"])
        ordered = votes.distance.sort_values()
        votes = votes[votes.distance <= ordered.iloc[math.floor((len(votes) - 1) * rule.keep_quantile)]]
        weight = np.exp((votes.distance.min() - votes.distance) / rule.weight_scale)
        votes = votes.assign(weight=weight if rule.vote_weight == "distance" else 1.0)
        for video_id, found in votes.groupby("video_id"):
            if found.weight.sum() >= rule.min_share * votes.weight.sum():
                candidates.append((found.distance.min(), item_id, video_id, found))
    result = {}
    for item_id, video_id, found in assign(candidates, rule):
        photo = photos.loc[max(found.photo, key=lambda row: photos.score[row])]
        frame = videos.loc[max(found.frame, key=lambda row: videos.score[row])]
        boxes = {"item_box": photo.box, "frame_box": frame.box}
        listed = {"img_name": photo["name"], **{key: box.round(DECIMALS).tolist() for key, box in boxes.items()}}
        result[video_id] = {"item_id": item_id, "frame_index": int(frame.frame_index), "result": [listed]}
    return result


def assign(candidates: list[tuple], rule: Match) -> list[tuple]:
    """The pairs (item_id, video_id, votes) that match, each item and each video once."""
    if rule.assignment == "optimal":
        near = [each for each in candidates if each[0] <= rule.max_distance]
        items, videos = (sorted({each[place] for each in near}) for place in (1, 2))
        worth = np.zeros((len(items), len(videos)))
        for distance, item_id, video_id, _ in near:
            worth[items.index(item_id), videos.index(video_id)] = rule.max_distance - distance + 1e-6
        pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
        chosen = {(items[i], videos[j]) for i, j in pairs if worth[i, j] > 0}
        return [(item_id, video_id, found) for _, item_id, video_id, found in near if (item_id, video_id) in chosen]
    nearest = {}
    for distance, item_id, video_id, found in sorted(candidates, key=lambda each: each[:3]):
        nearest.setdefault(item_id, (distance, item_id, video_id, found))
    matches, taken = [], set()
    for distance, item_id, video_id, found in nearest.values():
        if video_id not in taken:
            taken.add(video_id)
            if distance <= rule.max_distance:
                matches.append((item_id, video_id, found))
    return matches


if __name__ == "__main__":
    run_entry(main)
