"""What each option of the matching rule makes of the same vectors: a table of S1, overall and by kind of item.

    python -m benchmarks.match_options --config C --data D --work W [--part P]

The vectors of labelled boxes are those of `evaluate`, in <work>/evaluation (made where they are missing); those of detections
lie in <work>/embeddings once `infer` has run on the same data. "10, all": 10 neighbours and keep_quantile 1; "optimal 0.2":
assignment optimal with min_share 0.2. What a row does not name is the config's; its own options are the last row.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.embed import join_vectors
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.infer import match_boxes
from metric_sub.labelled import labelled_boxes
from metric_sub.result import build_result, check_result
from metric_sub.score import Truth, score_result
from metric_sub.vectors import describe_boxes
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Match
from shared.dataset import named_parts, read_dataset
from shared.errors import UserError
from shared.frames import refuse_problems
from shared.tables import Dataset
from shared.work import locked, read_step

log = logging.getLogger("bench")

PLAIN = {"neighbours": 1, "vote_weight": "count", "successive_frames": 0, "assignment": "nearest", "rerank": "none"}
TEN = {"neighbours": 10, "keep_quantile": 1.0, "vote_weight": "distance"}
OPTIONS = {
    "plain": {},
    "optimal": {"assignment": "optimal"},
    "by distance": {"vote_weight": "distance"},
    "5 neighbours": {"neighbours": 5},
    "5, by distance": {"neighbours": 5, "vote_weight": "distance"},
    "5, successive": {"neighbours": 5, "successive_frames": True},  # whose reach is the step of the boxes' frames
    "10, all, by distance": TEN,
    "10, all, ..., successive": TEN | {"successive_frames": True},
    "10, all, ..., optimal 0.2": TEN | {"assignment": "optimal", "min_share": 0.2},
    "expansion": {"rerank": "expansion"},
    "reciprocal": {"rerank": "reciprocal"},
    "reciprocal, 10, optimal": TEN | {"rerank": "reciprocal", "assignment": "optimal", "min_share": 0.2},
}


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Compare the matching rule's options on the same vectors.",
        argv,
        ("--part", "compare on this part of the data (again for more; default: all)", {"action": "append"}),
    )
    config = config_of(options)
    use_threads(config.threads)
    with locked(options.work):
        dataset = named_parts(read_dataset(options.data), options.part, options.data)
        refuse_problems(dataset)
        boxes = labelled_boxes(dataset, config.frames)
        boxes, vectors, _ = describe_boxes(
            boxes, config, options.weights, options.work / "evaluation" / "vectors", options.fresh
        )
        sides = {"labelled boxes": (boxes, join_vectors(list(vectors.values())))}
        try:
            sides["detections"] = detected_boxes(options.work, dataset)
        except UserError as error:
            log.warning("no detections are compared: %s", error)
        for name, (boxes, vectors) in sides.items():
            print(f"\n{name}: {(boxes.kind == 'photo').sum()} of photos, {(boxes.kind == 'video').sum()} of videos")
            print("\n".join(table(compare(boxes, vectors, dataset, config.match))))


def detected_boxes(work: Path, dataset: Dataset) -> tuple[pd.DataFrame, np.ndarray]:
    """The detections of the data set's media with the column kind, and their vectors. Raises UserError where there are none."""
    tables, vectors = [], []
    for kind in ("photo", "video"):
        step = read_step(work / "embeddings" / f"{kind}s")
        boxes = step.table("table").assign(kind=kind)
        known = boxes.media_id.isin(dataset.media.media_id).to_numpy()
        tables.append(boxes[known])
        vectors.append(step.vectors()[known])
    if not len(vectors[0]) or not len(vectors[1]):
        raise UserError(f"{work / 'embeddings'}: of other data. Run infer on this data, or name that one.")
    return pd.concat(tables, ignore_index=True), np.concatenate(vectors)


def compare(boxes: pd.DataFrame, vectors: np.ndarray, dataset: Dataset, match: Match) -> list[dict]:
    """Of each option {name, S1 (with the config's max_distance), max_distance (that which gives the best S1), all, and each kind:
    S1 with that one}. An option changes the scale of distances or not: the best cut-off of each is what can be compared."""
    frames = np.unique(boxes.frame_index[boxes.kind == "video"])
    gap = int(np.diff(frames).min(initial=1 << 30))
    rows = []
    for name, change in {**{name: PLAIN | change for name, change in OPTIONS.items()}, "the config": {}}.items():
        if change.get("successive_frames"):
            change = change | {"successive_frames": gap}
        option = match.model_copy(update=change)
        cut_off = best_cut_off(boxes, vectors, dataset, option)
        best = score_matches(boxes, vectors, dataset, option.model_copy(update={"max_distance": cut_off}))[1]
        kinds = {kind: row["S1"] for kind, row in best.get("by_kind", {}).items() if row["N_GT"]}
        s1 = score_matches(boxes, vectors, dataset, option)[1]["S1"]
        rows.append({"name": name, "S1": s1, "max_distance": cut_off, "all": best["S1"], **kinds})
    return rows


def score_matches(
    boxes: pd.DataFrame, vectors: np.ndarray, dataset: Dataset, match: Match
) -> tuple[pd.DataFrame, dict]:
    """The matches that the options find, and their score, of which S1 alone counts here."""
    of_photo = (boxes.kind == "photo").to_numpy()
    matches, _ = match_boxes(boxes[of_photo], vectors[of_photo], boxes[~of_photo], vectors[~of_photo], match)
    truth = Truth(dataset.media, dataset.labels, dataset.labelled, dataset.kinds)
    judged = {"weights": (1, 0, 0), "rules": "product", "frame_policy": "nearest", "min_iou": 0.5}
    judged |= {"resamples": 0, "confidence": 0.95, "seed": 0}
    return matches, score_result(check_result(build_result(matches)), truth, **judged)


def best_cut_off(boxes: pd.DataFrame, vectors: np.ndarray, dataset: Dataset, match: Match) -> float:
    """The distance of the match at which to cut off for the highest S1, the smallest of equally good ones."""
    matches, score = score_matches(boxes, vectors, dataset, match.model_copy(update={"max_distance": NO_CUT_OFF}))
    right = {row["video_id"] for row in score["per_video"] if row["S1"]}
    matches = matches.sort_values("distance")
    f1 = 2 * matches.video_id.isin(right).cumsum() / (np.arange(len(matches)) + 1 + score["N_GT"])
    return float(matches.distance.iloc[f1.argmax()]) if len(matches) else NO_CUT_OFF


def table(rows: list[dict]) -> list[str]:
    """The rows as lines of text."""
    kinds = [key for key in rows[0] if key not in ("name", "S1", "max_distance", "all")]
    lines = [f"{'':<26}{'S1':>7}{'cut-off':>9}{'S1*':>7}" + "".join(f"{kind[:11]:>12}" for kind in kinds)]
    for row in rows:
        values = "".join(f"{row[kind]:>12.3f}" if kind in row else f"{'-':>12}" for kind in kinds)
        s1 = (f"{'-' if row[key] is None else format(row[key], '.3f'):>7}" for key in ("S1", "all"))
        lines.append(f"{row['name']:<26}{next(s1)}{row['max_distance']:>9.3f}{next(s1)}{values}")
    return [
        *lines,
        "S1: with the config's max_distance. cut-off: the best for S1 on this data; S1* and the kinds: with it.",
    ]


if __name__ == "__main__":
    run_entry(main)
