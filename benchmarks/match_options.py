"""What each option of the matching rule makes of the same vectors: a table of S1, overall and by kind of item.

    python -m benchmarks.match_options --config C --data D --work W [--part P] [--json FILE] [--cut-offs FILE]

The vectors of labelled boxes are those of `evaluate`, in <work>/evaluation (made where they are missing); those of detections
lie in <work>/embeddings once `infer` has run on the same data. "10, all": 10 neighbours and keep_quantile 1; "optimal 0.2":
assignment optimal with min_share 0.2. What a row does not name is the config's; its own options are the last row. An option
changes the scale of distances or not: what can be compared is each with a cut-off of its own, the best for these very data, or
fitted on other data by an earlier run's --json.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.cut_off import best_cut_off
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.labelled import labelled_boxes, match_and_score, match_labelled
from metric_sub.vectors import describe_boxes, join_models
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Match, Score
from shared.dataset import named_parts, read_dataset
from shared.decimals import three_decimals
from shared.errors import UserError
from shared.files import write_json
from shared.fit import settle_problems
from shared.lock import locked
from shared.runtime import choose_runtime
from shared.tables import Dataset
from shared.work import read_step

log = logging.getLogger("bench")

PLAIN = {  # the rule of docs/matching.md without any option
    "keep_quantile": 0.28,
    "min_share": 0.5,
    "neighbours": 1,
    "vote_weight": "count",
    "successive_frames": 0,
    "assignment": "nearest",
    "rerank": "none",
}
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
ROWS = {**{name: PLAIN | change for name, change in OPTIONS.items()}, "the config": {}}


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Compare the matching rule's options on the same vectors.",
        argv,
        ("--part", "compare on this part of the data (again for more; default: all)", {"action": "append"}),
        ("--json", "write the rows here as well", {"type": Path}),
        ("--cut-offs", "the --json of a run on other data, whose cut-offs to use", {"type": Path}),
    )
    fitted = read_cut_offs(options.cut_offs) if options.cut_offs else None
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"--json: expected a file in a folder that is there, found {options.json}. Make {options.json.parent} first.")
    config = config_of(options)
    use_threads(config.threads)
    with locked(options.work):
        dataset = named_parts(read_dataset(options.data, config.data), options.part, options.data)
        settle_problems(dataset.problems, config.data.on_error, options.work / "evaluation" / "left_out.json")
        boxes = labelled_boxes(dataset, config.frames)
        boxes, vectors, colours = describe_boxes(
            boxes, config, choose_runtime(config.runtime), options.weights, options.work / "evaluation" / "vectors", options.fresh
        )
        sides = {
            "colour histogram": (boxes, colours, {"plain": PLAIN}),
            "labelled boxes": (boxes, join_models(vectors, config), ROWS),
        }
        try:
            sides["detections"] = (*detected_boxes(options.work, dataset), ROWS)
        except UserError as error:
            log.warning("no detections are compared: %s", error)
        for name, (*_, changes) in sides.items() if fitted else ():
            if missing := [option for option in changes if option not in fitted.get(name, {})]:
                raise UserError(f"{options.cut_offs}: no cut-off for {name}, {missing[0]}. Make it anew by --json on the other data.")
        rows = {}
        for name, (boxes, vectors, changes) in sides.items():
            cut_offs = fitted[name] if fitted else None
            rows[name] = compare(boxes, vectors, dataset, config.match, config.score, changes, cut_offs)
            print(f"\n{name}: {(boxes.kind == 'photo').sum()} of photos, {(boxes.kind == 'video').sum()} of videos")
            print("\n".join(table(rows[name])))
        print(f"S1: with the config's max_distance. cut-off: {'fitted elsewhere' if fitted else 'the best here'}; S1* and the kinds: with it.")
        if options.json:
            write_json(options.json, rows)


def read_cut_offs(path: Path) -> dict[str, dict[str, float]]:
    """{side: {option: max_distance}} of what --json wrote. Raises UserError where the file is none such."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = {side: {row["name"]: float(row["max_distance"]) for row in of_side} for side, of_side in rows.items()}
        if not found:
            raise ValueError("nothing")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected what --json of this benchmark writes, found {error!r}. Run it first.") from None


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


def compare(
    boxes: pd.DataFrame,
    vectors: np.ndarray,
    dataset: Dataset,
    match: Match,
    score: Score,
    changes: dict[str, dict],
    cut_offs: dict[str, float] | None = None,
) -> list[dict]:
    """Of each of `changes` to `match` {name, S1 (with the config's max_distance), max_distance (that of `cut_offs`, or of None the one
    that gives the best S1 on these data), all and each kind: S1 with that one}."""
    score = score.model_copy(update={"resamples": 0})  # no intervals are printed
    frames = np.unique(boxes.frame_index[boxes.kind == "video"])
    gap = int(np.diff(frames).min(initial=1 << 30))
    rows = []
    for name, change in changes.items():
        if change.get("successive_frames"):
            change = change | {"successive_frames": gap}
        option = match.model_copy(update=change)
        now = match_and_score(boxes, vectors, dataset, option, score)
        if cut_offs is None:
            expected = [row["video_id"] for row in now["per_video"] if row["expected"]]
            uncut, _ = match_labelled(boxes, vectors, option.model_copy(update={"max_distance": NO_CUT_OFF}))
            cut_off = cut_off_of(uncut, expected)
        else:
            cut_off = cut_offs[name]
        best = match_and_score(boxes, vectors, dataset, option.model_copy(update={"max_distance": cut_off}), score)
        kinds = {kind: row["S1"] for kind, row in best.get("by_kind", {}).items() if row["N_GT"]}
        rows.append({"name": name, "S1": now["S1"], "max_distance": cut_off, "all": best["S1"], **kinds})
    return rows


def cut_off_of(matches: pd.DataFrame, expected: list[str]) -> float:
    """The cut-off of these matches with the highest S1, `expected` being the videos to find; NO_CUT_OFF where none is right."""
    right = (matches.item_id == matches.video_id) & matches.video_id.isin(expected)
    cut = best_cut_off(matches.distance.to_numpy(), right.to_numpy(), len(expected))
    return cut.max_distance if cut else NO_CUT_OFF


def table(rows: list[dict]) -> list[str]:
    """The rows as lines of text."""
    kinds = [key for key in rows[0] if key not in ("name", "S1", "max_distance", "all")]
    lines = [f"{'':<26}{'S1':>7}{'cut-off':>9}{'S1*':>7}" + "".join(f"{kind[:11]:>12}" for kind in kinds)]
    for row in rows:
        values = "".join(f"{three_decimals(row.get(kind)):>12}" for kind in kinds)
        s1 = (f"{three_decimals(row[key]):>7}" for key in ("S1", "all"))
        lines.append(f"{row['name']:<26}{next(s1)}{row['max_distance']:>9.3f}{next(s1)}{values}")
    return lines


if __name__ == "__main__":
    run_entry(main)
