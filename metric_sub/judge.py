"""Judges the trained embedders by labelled boxes: `python -m metric_sub.judge --config C --data D --work W`.

Writes <work>/evaluation: embedders.json (the figures), distances.png (same against different product) and confusions.png
(where they go wrong). The boxes' vectors are kept there and reused. The detector has no part in it.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.confusions import draw_confusions, worst_confusions
from metric_sub.cut_off import draw_distances, propose_cut_off
from metric_sub.embeddings import read_trained
from metric_sub.evaluate import FIGURES, RECALL_AT, Crops, nearest_right_and_wrong, retrieval_figures
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.labelled import labelled_boxes, match_and_score
from metric_sub.score import LEVELS
from metric_sub.vectors import describe_boxes, join_models
from metric_sub.whitening import FOLDER as WHITENING
from metric_sub.whitening import read_whitening
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Data, Match, Score
from shared.dataset import named_parts, read_dataset, warn_of_training
from shared.decimals import three_decimals
from shared.errors import UserError
from shared.files import write_json, write_whole
from shared.fit import settle_problems
from shared.lock import locked
from shared.runtime import choose_runtime
from shared.tables import Dataset

log = logging.getLogger("evaluate")

CONFUSIONS = 24  # on the sheet, at most


@dataclass(frozen=True)
class Sides:
    """Which rows of the boxes are asked and which answer: masks (N,) bool.

    query: video boxes of a product that some photo box shows. photo: every photo box. shown: photo boxes of a product that
    some query asks for; the other ones look alike or not, and are never right.
    """

    boxes: pd.DataFrame
    query: np.ndarray
    photo: np.ndarray
    shown: np.ndarray

    @classmethod
    def of(cls, boxes: pd.DataFrame) -> "Sides":
        """Raises UserError where there is nothing to ask."""
        photo, product = (boxes.kind == "photo").to_numpy(), boxes.instance_id.to_numpy()
        query = ~photo & (product > 0) & np.isin(product, product[photo])
        if not query.any():
            raise UserError(
                "no labelled product to judge the embedders by: expected boxes of one instance_id above 0 both in photos and in "
                f"videos, found {(photo & (product > 0)).sum()} in photos and {(~photo & (product > 0)).sum()} in videos and no "
                "instance_id in both. `frames` of the config tells which frames are looked at, --part which parts of the data."
            )
        return cls(boxes, query, photo, photo & np.isin(product, product[query]))

    def crops(self, vectors: np.ndarray, rows: np.ndarray) -> Crops:
        return Crops(np.asarray(vectors[rows]), self.boxes.instance_id.to_numpy()[rows])


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Judge the embedders by labelled boxes (stage 2).",
        argv,
        ("--part", "judge by this part of the data (again for more; default: all)", {"action": "append"}),
    )
    config = config_of(options)
    use_threads(config.threads)
    runtime = choose_runtime(config.runtime)
    folder = options.work / "evaluation"
    trained, whitening = read_trained(config, options.weights), read_whitening(config.descriptors, options.weights)
    with locked(options.work):
        dataset = named_parts(read_dataset(options.data, config.data), options.part, options.data)
        warn_of_training(dataset, config.embed_train.parts)
        settle_problems(dataset.problems, config.data.on_error, folder / "left_out.json")
        boxes = labelled_boxes(dataset, config.frames)
        Sides.of(boxes)  # before the work, where there is nothing to ask
        boxes, vectors, colours = describe_boxes(
            boxes, config, runtime, options.weights, folder / "vectors", options.fresh
        )
        sides = Sides.of(boxes)
        ensemble = join_models(vectors, config)
        no_cut_off = config.match.model_copy(update={"max_distance": NO_CUT_OFF})
        figures = {
            "data": str(options.data),
            "parts": sorted(set(dataset.media.part)),
            "frames": sorted(boxes.frame_index[~sides.photo].unique().tolist()),
            "weights": {path.name: description["sha256"] for path, description in trained.items()}
            | ({WHITENING: whitening["sha256"]} if whitening else {}),
            "queries": int(sides.query.sum()),
            "without_photo": int((~sides.photo & (boxes.instance_id > 0) & ~sides.query).sum()),
            "gallery": int(sides.photo.sum()),
            "look_alikes": int((sides.photo & ~sides.shown).sum()),
            "ensemble": figures_of(ensemble, sides, dataset, config.match, config.score),
            "models": {
                name: figures_of(vector, sides, dataset, config.match, config.score) for name, vector in vectors.items()
            },
            "histogram": figures_of(colours, sides, dataset, no_cut_off, config.score),
        }
        found = nearest_right_and_wrong(sides.crops(ensemble, sides.query), sides.crops(ensemble, sides.photo))
        figures["cut_off"] = cut_off_of(found, ensemble, boxes, dataset, config, folder)
        write_confusions(found, sides, config.data, folder / "confusions.png")
        write_json(folder / "embedders.json", figures)
    print(figures_table(figures), file=sys.stderr)
    log.info("%s: look at distances.png, confusions.png", folder)


def figures_of(vectors: np.ndarray, sides: Sides, dataset: Dataset, match: Match, score: Score) -> dict:
    """What one embedder (or several, or none) makes of the boxes: {retrieval, without_look_alikes, matching}.

    The first two as `evaluate.retrieval_figures` gives them, with every photo box in the gallery and with those alone whose
    product is asked for; matching is the score of the matching rule on these boxes, with the cut-off that it used.
    """
    queries = sides.crops(vectors, sides.query)
    kinds = sides.boxes.item_kind[sides.query].to_numpy() if dataset.kinds else None
    scored = match_and_score(sides.boxes, vectors, dataset, match, score)
    del scored["per_video"]
    return {
        "retrieval": retrieval_figures(queries, sides.crops(vectors, sides.photo), kinds),
        "without_look_alikes": retrieval_figures(queries, sides.crops(vectors, sides.shown), kinds),
        "matching": {"max_distance": match.max_distance, **scored},
    }


def cut_off_of(
    found: pd.DataFrame, ensemble: np.ndarray, boxes: pd.DataFrame, dataset: Dataset, config: Config, folder: Path
) -> dict:
    """The cut-off that the ensemble's distances propose, and what it does to the score; draws distances.png."""
    same, different = found.right_distance.to_numpy(), found.wrong_distance.to_numpy()
    different = different[np.isfinite(different)]
    now = config.match.max_distance
    answer = {"now": now, "max_distance": None, "same": len(same), "different": len(different)}
    if len(different):
        proposed, balanced_accuracy = propose_cut_off(same, different)
        match = config.match.model_copy(update={"max_distance": proposed})
        scored = match_and_score(boxes, ensemble, dataset, match, config.score)
        answer |= {
            "max_distance": proposed,
            "balanced_accuracy": balanced_accuracy,
            "matching": {name: scored[name] for name in (*LEVELS, "final")},
        }
    figure = draw_distances(same, different, now, answer["max_distance"])
    write_whole(folder / "distances.png", lambda beside: figure.savefig(beside, dpi=110, format="png"))
    return answer


def write_confusions(found: pd.DataFrame, sides: Sides, limits: Data, path: Path) -> None:
    """Draws the worst confusions; found: as `evaluate.nearest_right_and_wrong` gives it for the queries and all photo boxes."""
    queries, gallery = np.flatnonzero(sides.query), np.flatnonzero(sides.photo)
    tiles, n_all = worst_confusions(sides.boxes, queries, gallery, found, CONFUSIONS)
    sheet = draw_confusions(f"Confusions: {len(tiles) // 3} of {n_all}", tiles, sides.boxes, limits)
    write_whole(path, lambda beside: sheet.save(beside, format="png"))


def figures_table(figures: dict) -> str:
    """The figures as lines of text, a row per vectors and kind: what a person reads."""
    columns = [*(f"recall@{k}" for k in RECALL_AT), "mAP@R", "recall@1*"]
    models = figures["models"] if len(figures["models"]) > 1 else {}  # one alone is the ensemble
    rows = {"ensemble": figures["ensemble"], **models, "histogram": figures["histogram"]}
    width = max(map(len, rows)) + 2
    lines = [
        f"{figures['queries']} video crops (frames {' '.join(map(str, figures['frames']))}) against {figures['gallery']} photo "
        f"crops; {figures['without_photo']} video crops have no photo of their product and are left out.",
        f"* without the {figures['look_alikes']} photo crops that show none of the products asked for.",
        f"S1 to S3: the matching rule on the labelled boxes; histogram, the trivial baseline, without cut-off ({NO_CUT_OFF:g}).",
        f"{'':<{width}}{'kind':<14}{'crops':>7}"
        + "".join(f"{name:>11}" for name in columns)
        + "".join(f"{name:>7}" for name in (*LEVELS, "videos")),
    ]
    for name, of in rows.items():
        retrieval, alone, matching = of["retrieval"], of["without_look_alikes"], of["matching"]
        for kind in ("all", *retrieval.get("by_kind", {})):
            crops, fewer, videos = (
                part if kind == "all" else part["by_kind"][kind] for part in (retrieval, alone, matching)
            )
            lines.append(
                f"{name:<{width}}{kind:<14}{crops['queries']:>7}"
                + "".join(f"{three_decimals(crops[key]):>11}" for key in FIGURES)
                + f"{three_decimals(fewer['recall_at_1']):>11}"
                + "".join(f"{three_decimals(videos[level]):>7}" for level in LEVELS)
                + f"{videos['N_GT']:>7}"
            )
    cut_off = figures["cut_off"]
    if cut_off["max_distance"] is None:
        lines.append("no cut-off is proposed: the photos show one product alone")
    else:
        lines.append(
            f"match.max_distance {cut_off['max_distance']:.3f} parts same and different best (balanced accuracy "
            f"{cut_off['balanced_accuracy']:.3f}) and gives S1 {three_decimals(cut_off['matching']['S1'])}; now {cut_off['now']:g}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry(main, lower="embed.batch_size")
