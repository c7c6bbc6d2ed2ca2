"""How good a result.json is: three F1 values and their weighted sum (Watch and Buy; docs/matching.md), with intervals."""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from metric_sub.bootstrap import FIGURES, LEVELS, Bootstrap
from metric_sub.compare import compare_scores, compare_table
from metric_sub.result import ResultBox, ResultEntry, read_result
from shared.boxes import pairwise_iou
from shared.cli import config_of, parse_options, run_entry
from shared.config import Data
from shared.dataset import read_dataset
from shared.decimals import three_decimals
from shared.errors import UserError
from shared.files import write_text
from shared.tables import BOX, Dataset

log = logging.getLogger("score")

NO_KIND = "?"


@dataclass(frozen=True)
class Truth:
    """What the annotations say, as `shared.dataset.read_dataset` gives it.

    media: media_id, kind ('photo' or 'video'), item_id (of a video its video_id), name (without extension).
    labels, a row per labelled box: media_id, frame_index (0 for a photo), instance_id, product_id (the item that the
    box shows, '' for a distractor), x1, y1, x2, y2.
    labelled, a row per annotated photo or frame, also those without boxes: media_id, frame_index.
    kinds: id -> kind of item; may be empty.
    """

    media: pd.DataFrame
    labels: pd.DataFrame
    labelled: pd.DataFrame
    kinds: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> "Truth":
        return cls(dataset.media, dataset.labels, dataset.labelled, dataset.kinds)


@dataclass(frozen=True)
class _Lookup:
    """The truth by id. Only boxes of the product that the folder or the video is named after matter to the score."""

    items: frozenset[str]
    videos: frozenset[str]
    matchable: frozenset[str]  # N_GT of them
    labelled_frames: dict[str, np.ndarray]  # video_id -> rising frame indices
    frame_instances: dict[tuple[str, int], set[int]]  # (video_id, frame_index) -> instances of its product
    item_instances: dict[str, set[int]]  # item_id -> instances of its product in its photos
    photos: frozenset[tuple[str, str]]  # (item_id, name)
    photo_boxes: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (item_id, name) -> instances (n,), boxes (n, 4)


@dataclass(frozen=True)
class _Verdict:
    level: int  # how many of S1, S2, S3 hold
    judged_frame: int | None
    why: str


def score_result(
    result: dict[str, ResultEntry],
    truth: Truth,
    *,
    weights: tuple[float, float, float],
    rules: Literal["product", "every-instance"],
    frame_policy: Literal["nearest", "strict"],
    min_iou: float,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict:
    """Scores a result against the annotations.

    N_GT counts the videos whose id is also a photo folder and that have a labelled box of that product; N_P the entries
    of the result. An entry is a true positive
    - of S1 where the video is one of the N_GT and item_id is its id;
    - of S2 where also the judged frame has a labelled box of that product. The judged frame is the predicted one or,
      where that is not labelled, the labelled frame nearest to it, ties to the earlier (frame_policy 'nearest'), or
      none at all ('strict');
    - of S3 where also every listed item_box has IoU > min_iou with a labelled box of that product in its photo; under
      the rules 'every-instance' moreover each instance of the product that the judged frame and the item's photos both
      show must have a labelled box in a listed photo with which that photo's item_box has IoU > min_iou.
    frame_box is not judged. S = 2 TP / (N_P + N_GT), None where N_GT is 0; final is the sum of S times `weights`.
    Each has a bootstrap interval that holds the middle `confidence` (0..1) of `resamples` resamples of the videos, drawn
    from `seed`; 0 resamples: no intervals. A kind's interval is of resamples of its own videos.

    Gives {rules, frame_policy, min_iou, weights, confidence and resamples (None for 0), S1, S2, S3, final, TP: {S1, S2,
    S3}, N_P, N_GT, precision, recall (both of S1; None where nothing was declared, or labelled), interval ([low, high] of
    S1, S2, S3 and final, None where they are; left out for 0 resamples), by_kind, per_video}.
    by_kind (where kinds are known): the same figures for the videos of each kind, `items` (photo folders of that kind)
    and `items_wrong` (how many of these were declared for a video that is not theirs); an id without a kind counts as
    '?'.
    per_video, by rising video_id: every video of the data or of the result with its kind, the item declared and the
    item expected (None for none), S1, S2, S3 (bool), judged_frame, right (S3 holds, or rightly left out) and why.
    """
    lookup = _look_up(truth)
    kind_of = {video_id: truth.kinds.get(video_id, NO_KIND) for video_id in lookup.videos | result.keys()}
    per_video = [
        _row_of_video(video_id, kind_of[video_id], result.get(video_id), lookup, rules, frame_policy, min_iou)
        for video_id in sorted(kind_of)
    ]
    bootstrap = Bootstrap(resamples, confidence, seed) if resamples else None
    answer = {
        "rules": rules,
        "frame_policy": frame_policy,
        "min_iou": min_iou,
        "weights": list(weights),
        "confidence": confidence if resamples else None,
        "resamples": resamples or None,
        **_figures(per_video, weights, bootstrap),
    }
    if truth.kinds:
        answer["by_kind"] = _by_kind(per_video, lookup.items, truth.kinds, weights, bootstrap)
    return {**answer, "per_video": per_video}


def _look_up(truth: Truth) -> _Lookup:
    media = truth.media[["media_id", "kind", "item_id", "name"]].rename(columns={"item_id": "owner_id"})
    photos, videos = media[media.kind == "photo"], media[media.kind == "video"]
    labels = truth.labels.merge(media, on="media_id")
    labels = labels[labels.product_id == labels.owner_id]
    in_photos, in_videos = labels[labels.kind == "photo"], labels[labels.kind == "video"]
    frames = truth.labelled.merge(videos, on="media_id")
    boxes = in_photos[BOX].to_numpy(np.float64)
    instances = in_photos.instance_id.to_numpy()
    rows_of_photo = in_photos.groupby(["owner_id", "name"]).indices
    return _Lookup(
        items=frozenset(photos.owner_id),
        videos=frozenset(videos.owner_id),
        matchable=frozenset(in_videos.owner_id) & frozenset(photos.owner_id),
        labelled_frames={
            video_id: np.unique(of_video.to_numpy(np.int64))
            for video_id, of_video in frames.groupby("owner_id").frame_index
        },
        frame_instances=_sets(in_videos, ["owner_id", "frame_index"]),
        item_instances=_sets(in_photos, "owner_id"),
        photos=frozenset(zip(photos.owner_id, photos.name, strict=True)),
        photo_boxes={photo: (instances[rows], boxes[rows]) for photo, rows in rows_of_photo.items()},
    )


def _sets(labels: pd.DataFrame, keys: str | list[str]) -> dict:
    return {key: set(of_key) for key, of_key in labels.groupby(keys).instance_id}


def _row_of_video(
    video_id: str, kind: str, entry: ResultEntry | None, lookup: _Lookup, rules: str, frame_policy: str, min_iou: float
) -> dict:
    expected = video_id if video_id in lookup.matchable else None
    if entry is None:
        verdict = _Verdict(0, None, "left out, though its item is in the catalogue" if expected else "rightly left out")
    else:
        verdict = _judge(video_id, entry, lookup, rules, frame_policy, min_iou)
    held = {name: verdict.level > k for k, name in enumerate(LEVELS)}
    right = held["S3"] or (entry is None and expected is None)
    return {
        "video_id": video_id,
        "kind": kind,
        "item_id": entry.item_id if entry else None,
        "expected": expected,
        **held,
        "judged_frame": verdict.judged_frame,
        "right": right,
        "why": verdict.why,
    }


def _judge(
    video_id: str, entry: ResultEntry, lookup: _Lookup, rules: str, frame_policy: str, min_iou: float
) -> _Verdict:
    if video_id not in lookup.matchable:
        known = "no labelled item of the catalogue" if video_id in lookup.videos else "no such video in the data"
        return _Verdict(0, None, f"declared item {entry.item_id}, but {known}")
    if entry.item_id != video_id:
        return _Verdict(0, None, f"declared item {entry.item_id}, expected {video_id}")
    frame = _judged_frame(entry.frame_index, lookup.labelled_frames[video_id], frame_policy)
    if frame is None:
        return _Verdict(1, None, f"frame {entry.frame_index} is not labelled")
    in_frame = lookup.frame_instances.get((video_id, frame), set())
    if not in_frame:
        return _Verdict(1, frame, f"the item is not labelled in frame {frame}")
    covered: set[int] = set()
    for listed in entry.result:
        found, fault = _instances_under(listed, entry.item_id, lookup, min_iou)
        if fault:
            return _Verdict(2, frame, fault)
        covered |= found
    missing = (in_frame & lookup.item_instances[entry.item_id]) - covered
    if rules == "every-instance" and missing:
        listed = ", ".join(map(str, sorted(missing)))
        return _Verdict(2, frame, f"frame {frame} shows instances that no listed box covers: {listed}")
    return _Verdict(3, frame, "right")


def _judged_frame(frame_index: int, labelled: np.ndarray, frame_policy: str) -> int | None:
    nearest = int(labelled[np.argmin(np.abs(labelled - frame_index))])  # argmin takes the first: the earlier
    return nearest if frame_policy == "nearest" or nearest == frame_index else None


def _instances_under(listed: ResultBox, item_id: str, lookup: _Lookup, min_iou: float) -> tuple[set[int], str]:
    """The item's instances whose labelled boxes lie under the listed item_box; or none, and why."""
    photo = (item_id, listed.img_name)
    if photo not in lookup.photos:
        return set(), f"item {item_id} has no photo {listed.img_name}"
    if photo not in lookup.photo_boxes:
        return set(), f"photo {listed.img_name} has no labelled box of the item"
    instances, boxes = lookup.photo_boxes[photo]
    iou = pairwise_iou(listed.item_box, boxes)[0]  # (n,)
    under = set(instances[iou > min_iou])
    if not under:
        return under, f"photo {listed.img_name}: item_box has IoU {iou.max():.2f}, expected more than {min_iou}"
    return under, ""


def _figures(rows: list[dict], weights: tuple[float, float, float], bootstrap: Bootstrap | None) -> dict:
    n_declared = sum(row["item_id"] is not None for row in rows)
    n_labelled = sum(row["expected"] is not None for row in rows)
    hits = {name: sum(row[name] for row in rows) for name in LEVELS}
    f1 = {name: 2 * hits[name] / (n_declared + n_labelled) if n_labelled else None for name in LEVELS}
    final = sum(weight * f1[name] for weight, name in zip(weights, LEVELS, strict=True)) if n_labelled else None
    precision = hits["S1"] / n_declared if n_declared else None
    recall = hits["S1"] / n_labelled if n_labelled else None
    return {
        **f1,
        "final": final,
        "TP": hits,
        "N_P": n_declared,
        "N_GT": n_labelled,
        "precision": precision,
        "recall": recall,
        **({"interval": bootstrap.intervals(rows, weights)} if bootstrap else {}),
    }


def _by_kind(
    rows: list[dict],
    items: frozenset[str],
    kinds: dict[str, str],
    weights: tuple[float, float, float],
    bootstrap: Bootstrap | None,
) -> dict:
    kind_of_item = {item_id: kinds.get(item_id, NO_KIND) for item_id in items}
    astray = {row["item_id"] for row in rows if row["item_id"] is not None and not row["S1"]}
    answer = {}
    for kind in sorted({row["kind"] for row in rows} | set(kind_of_item.values())):
        of_kind = {item_id for item_id, other in kind_of_item.items() if other == kind}
        figures = _figures([row for row in rows if row["kind"] == kind], weights, bootstrap)
        answer[kind] = {**figures, "items": len(of_kind), "items_wrong": len(of_kind & astray)}
    return answer


def score_table(score: dict) -> str:
    """The score as lines of text, a row per kind, each figure followed by its interval: what a person reads."""
    intervals = "interval" in score
    between = f"{score['confidence']:.0%}" if intervals else ""
    width = 11 if intervals else 0
    lines = [
        f"rules {score['rules']}, frame policy {score['frame_policy']}, IoU > {score['min_iou']}, "
        f"weights {score['weights']}" + (f"; intervals from {score['resamples']} resamples" if intervals else ""),
        f"{'kind':<12}"
        + "".join(f"{name:>7}{between:>{width}}" for name in FIGURES)
        + f"{'N_GT':>7}{'N_P':>7}{'TP':>6}{'items':>7}{'wrong':>7}",
    ]
    for kind, row in [*score.get("by_kind", {}).items(), ("all", score)]:
        values = "".join(
            f"{three_decimals(row[name]):>7}"
            + (f"{_in_short(row['interval'][name]):>{width}}" if intervals else "")
            for name in FIGURES
        )
        items = "".join(f"{row.get(name, ''):>7}" for name in ("items", "items_wrong"))
        lines.append(f"{kind:<12}{values}{row['N_GT']:>7}{row['N_P']:>7}{row['TP']['S1']:>6}{items}".rstrip())
    return "\n".join(lines)


def _in_short(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}"


def main(argv: list[str] | None = None) -> None:
    """`python -m metric_sub.score --config C --data D --result R --out OUT`: JSON to OUT, a table by kind to stderr.

    With `--compare A B` it sets two results beside each other instead.
    """
    options = parse_options(
        "Scores a result.json against the data's annotations.",
        argv,
        ("--result", "the result.json to score (default: <work>/result.json)"),
        ("--compare", "two results: what changed from the first to the second", {"type": Path, "nargs": 2}),
        ("--out", "where the score's JSON goes (default: stdout)"),
    )
    if options.compare and options.result:
        raise UserError("--compare names both results: expected no --result beside it. Leave one of the two out.")
    config = config_of(options)
    settings = config.score
    paths = options.compare or [options.result or options.work / "result.json"]
    results = [read_result(path) for path in paths]
    truth = read_truth(options.data, config.data)
    for path, result in zip(paths, results, strict=True):
        _refuse_strangers(path, result, truth, options.data)
    scores = [score_result(result, truth, **settings.model_dump()) for result in results]
    if options.compare:
        bootstrap = Bootstrap(settings.resamples, settings.confidence, settings.seed) if settings.resamples else None
        answer = compare_scores(*scores, bootstrap)
        answer["a"], answer["b"] = (
            {"result": str(path), **answer[side]} for side, path in zip("ab", paths, strict=True)
        )
        table = f"a: {paths[0]}\nb: {paths[1]}\n{compare_table(answer)}"
    else:
        (answer,) = scores
        table = score_table(answer)
    print(table, file=sys.stderr)
    text = json.dumps(answer, indent=1, ensure_ascii=False) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        try:
            write_text(options.out, text)
        except OSError as error:
            raise UserError(f"{options.out}: cannot be written ({error.strerror}). Name another --out.") from None


def read_truth(data: Path, limits: Data) -> Truth:
    """What the annotations of a data set say. Raises UserError where it has none."""
    dataset = read_dataset(data, limits)
    if dataset.problems:
        log.warning("%d annotations do not fit and are left out; `bash run.sh check` lists them", len(dataset.problems))
    if dataset.labelled.empty:
        raise UserError(
            f"{data}: no annotations to score against: expected image_annotation/ and "
            "video_annotation/ beside image/ and video/."
        )
    return Truth.of(dataset)


def _refuse_strangers(path: Path, result: dict[str, ResultEntry], truth: Truth, data: Path) -> None:
    if result and not result.keys() & set(truth.media.item_id[truth.media.kind == "video"]):
        raise UserError(
            f"{path}: none of its videos ({min(result)}, ...) is in {data}. Name the data that it was made from."
        )


if __name__ == "__main__":
    run_entry(main)
