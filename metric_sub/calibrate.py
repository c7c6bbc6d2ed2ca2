"""Fits the cut-offs on validation data, and how probable a match is right: `python -m metric_sub.calibrate --data D --work W`.

Reads what infer left in <work>/detections and <work>/embeddings; writes <work>/calibration: calibration.yaml (the fragment
for a config), overrides.txt (the same as section.key=value), calibration.json (the figures) and calibration.png.
"""

import functools
import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from metric_sub.cut_off import cut_off_curve, draw_calibration
from metric_sub.embeddings import both_sides
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.infer import match_neighbours, nearest_videos, pair_boxes
from metric_sub.platt import fit_calibration, reliability
from metric_sub.result import build_result, check_result
from metric_sub.score import LEVELS, Truth, score_result
from metric_sub.settings import Settings, SettingsSearch, values_to_try
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Match
from shared.dataset import named_parts, read_dataset, refuse_other_media, warn_of_training
from shared.decimals import three_decimals
from shared.errors import UserError
from shared.files import write_json, write_text, write_whole
from shared.lock import locked
from shared.tables import Dataset
from shared.work import read_step

log = logging.getLogger("calibrate")

@dataclass(frozen=True)
class Boxes:
    """What infer left: detections of photos (N rows) and videos (M rows) with their vectors (N, D), (M, D)."""

    photos: pd.DataFrame
    photo_vectors: np.ndarray
    videos: pd.DataFrame
    video_vectors: np.ndarray


class Matcher:
    """Matches the boxes as if the detector had had higher thresholds, and the rule another share and cut-off.

    keep_best: a photo without a box over the threshold keeps its best one (rank 0).
    """

    def __init__(self, boxes: Boxes, keep_best: bool, match: Match):
        self._boxes, self._keep_best, self._match = boxes, keep_best, match
        self._neighbours: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def matches(self, settings: Settings, max_distance: float) -> pd.DataFrame:
        """The matches by the rule with these settings and this cut-off, as `infer.match_neighbours` gives them."""
        photo, video = self._over_thresholds(settings)
        distances, indices = self._nearest(settings, photo, video)
        photos, videos = self._boxes.photos[photo], self._boxes.videos[video]
        return match_neighbours(photos, videos, distances, indices, self._rule(settings, max_distance))[0]

    def result(self, settings: Settings, max_distance: float) -> dict[str, dict]:
        """result.json's object for the same."""
        photo, video = self._over_thresholds(settings)
        boxes, matches = self._boxes, self.matches(settings, max_distance)
        sides = boxes.photos[photo], boxes.photo_vectors[photo], boxes.videos[video], boxes.video_vectors[video]
        return build_result(matches, pair_boxes(matches, *sides, self._rule(settings, max_distance)))

    def _rule(self, settings: Settings, max_distance: float) -> Match:
        return self._match.model_copy(update={"min_share": settings.min_share, "max_distance": max_distance})

    def _over_thresholds(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Masks (N,), (M,) bool of the boxes of photos and videos."""
        boxes = self._boxes
        photo = boxes.photos.score.to_numpy() >= settings.photo_score
        photo |= self._keep_best & (boxes.photos["rank"].to_numpy() == 0)
        return photo, boxes.videos.score.to_numpy() >= settings.video_score

    def _nearest(self, settings: Settings, photo: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the chosen photo boxes the neighbours among the chosen video boxes; masks (N,), (M,) bool.

        Searched once for all photo boxes and each threshold of the videos. Under k-reciprocal re-ranking alone a photo box's
        neighbours depend on the other photo boxes too.
        """
        together = self._match.rerank == "reciprocal"
        asked = photo if together else np.ones_like(photo)
        key = (settings.video_score, settings.photo_score if together else None)
        if key not in self._neighbours:
            photos, videos = self._boxes.photo_vectors, self._boxes.video_vectors
            photos, videos = (
                vectors if rows.all() else vectors[rows] for vectors, rows in ((photos, asked), (videos, video))
            )
            self._neighbours[key] = nearest_videos(photos, videos, self._match)
        distances, indices = self._neighbours[key]
        return distances[photo[asked]], indices[photo[asked]]


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Fit cut-offs and probabilities on validation data that infer was run on.",
        argv,
        ("--part", "calibrate on this part of the data (again for more; default: all)", {"action": "append"}),
        ("--precision", "the wanted share of right matches (default: the best F1)", {"type": _precision}),
        ("--out", "where the YAML goes (default: <work>/calibration/calibration.yaml)"),
    )
    config = config_of(options)
    use_threads(config.threads)
    with locked(options.work):
        boxes, dataset = read_boxes(options.data, options.work, options.part, config)
        warn_of_training(dataset, [*config.detector_train.parts, *config.embed_train.parts])
        answer = calibrate(boxes, dataset, config, options.precision)
        answer = {"data": str(options.data), "parts": sorted(set(dataset.media.part)), **answer}
        write_answer(answer, options.work / "calibration", options.out)
    print(calibration_table(answer), file=sys.stderr)


def _precision(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError
    return value


def read_boxes(data: Path, work: Path, parts: list[str] | None, config: Config) -> tuple[Boxes, Dataset]:
    """What infer left in a work folder, and the data set that it was run on; of `parts` alone, where they are named.

    Raises UserError where infer was not run to its end, was run on other data, or with other thresholds than the config's.
    """
    media = read_step(work / "media")
    found = {kind: read_step(work / "detections" / kind) for kind in ("photos", "videos")}
    embedded = {kind: read_step(work / "embeddings" / kind) for kind in found}
    for kind, step in embedded.items():
        if step.depends_on("detections") != found[kind].fingerprint:
            raise UserError(f"{step.folder}: made from other detections than {found[kind].folder}. Run infer again.")
    for key, kind, name in (
        ("photo_score", "photos", "score"),
        ("video_score", "videos", "score"),
        ("keep_best_photo_box", "photos", "keep_best"),
    ):
        made_with, wanted = found[kind].depends_on(name), getattr(config.detect, key)
        if made_with != wanted:
            raise UserError(
                f"{found[kind].folder}: made with detect.{key} {made_with}, the config says {wanted}. Run infer with this "
                f"config first, or name the one that it was run with: --config {work / 'config.yaml'}."
            )
    dataset = read_dataset(data, config.data)
    refuse_other_media(dataset, media, data)
    dataset = named_parts(dataset, parts, data)
    photos, photo_vectors, videos, video_vectors = both_sides(embedded["photos"], embedded["videos"])
    return Boxes(*_of_media(photos, photo_vectors, dataset), *_of_media(videos, video_vectors, dataset)), dataset


def _of_media(table: pd.DataFrame, vectors: np.ndarray, dataset: Dataset) -> tuple[pd.DataFrame, np.ndarray]:
    mine = table.media_id.isin(dataset.media.media_id).to_numpy()
    return (table, vectors) if mine.all() else (table[mine].reset_index(drop=True), vectors[mine])


def calibrate(boxes: Boxes, dataset: Dataset, config: Config, precision: float | None) -> dict:
    """The settings that give the best F1 of S1, or, with `precision`, the most right matches at that precision or better.

    Tried one after the other: thresholds of the detector for videos, then for photos, from the present ones upwards, and
    match.min_share; each together with every cut-off. A setting is changed only where that is better.

    Gives {aim, tried, now, proposed, held_out, curve, probability}; see docs/formats.md.
    Raises UserError where no match is right, or where the precision is out of reach.
    """
    truth = Truth.of(dataset)
    expected = frozenset(row["video_id"] for row in _score({}, truth, config)["per_video"] if row["expected"])
    if not expected:
        raise UserError(
            "nothing to calibrate by: no video has a labelled item of the catalogue. Expected image_annotation/ and "
            "video_annotation/ beside image/ and video/, and videos named after their items."
        )
    matcher = Matcher(boxes, config.detect.keep_best_photo_box, config.match)

    @functools.cache
    def matches_of(settings: Settings) -> pd.DataFrame:
        matches = matcher.matches(settings, NO_CUT_OFF)
        right = (matches.item_id == matches.video_id) & matches.video_id.isin(expected)
        return matches[["video_id", "distance"]].assign(right=right)

    def figures(settings: Settings, max_distance: float) -> dict:
        score = _score(matcher.result(settings, max_distance), truth, config)
        del score["per_video"]
        return {"settings": {**asdict(settings), "max_distance": max_distance}, **score}

    now = Settings(config.detect.video_score, config.detect.photo_score, config.match.min_share)
    search = SettingsSearch(matches_of, now, values_to_try(now), expected, precision)
    settings, cut = search.choose()
    if cut is None:
        raise UserError(_out_of_reach(search))

    distance, right = (matches_of(settings)[name].to_numpy() for name in ("distance", "right"))
    calibration = fit_calibration(distance, right)
    videos = dataset.media.item_id[dataset.media.kind == "video"].unique().astype(object)
    answer = {
        "aim": {"precision": precision} if precision else "F1",
        "tried": search.tried,
        "now": figures(now, config.match.max_distance),
        "proposed": figures(settings, cut.max_distance),
        "held_out": search.held_out(np.sort(videos), config.seed),
        "curve": cut_off_curve(distance, right, len(expected)),
        "probability": None,
    }
    if calibration:
        told = reliability(distance, right, calibration)
        answer["probability"] = {**calibration.model_dump(), "matches": len(distance), **told}
    reached = answer["proposed"]["precision"]
    if precision and reached < precision:
        log.warning(
            "the matching depends on the cut-off itself: with it the precision is %.3f, not %g", reached, precision
        )
    return answer


def _score(result: dict, truth: Truth, config: Config) -> dict:
    return score_result(check_result(result), truth, **config.score.model_dump())


def _out_of_reach(search: SettingsSearch) -> str:
    highest, hits = search.highest_precision()
    if not hits:
        return "nothing to calibrate by: no match is right. Train for longer, or look at `bash run.sh report`."
    return (
        f"--precision {search.precision:g}: out of reach on these {len(search.expected)} videos with an item; the highest is "
        f"{highest:.3f}, with {hits} right matches. Ask for less, or leave --precision out for the best F1."
    )


def fragment_of(answer: dict) -> dict:
    """The sections of a config that the calibration proposes."""
    settings, probability = answer["proposed"]["settings"], answer["probability"]
    calibration = {key: probability[key] for key in ("intercept", "slope")} if probability else None
    return {
        "detect": {key: settings[key] for key in ("photo_score", "video_score")},
        "match": {**{key: settings[key] for key in ("min_share", "max_distance")}, "calibration": calibration},
    }


def overrides_of(fragment: dict) -> str:
    """The fragment as section.key=value, a line each, without a space or a character that a shell would split at."""
    return "".join(
        f"{section}.{key}={json.dumps(value, separators=(',', ':'))}\n"
        for section, values in fragment.items()
        for key, value in values.items()
    )


def write_answer(answer: dict, folder: Path, out: Path | None) -> None:
    """Writes calibration.yaml (or `out`), overrides.txt, calibration.json and calibration.png."""
    folder.mkdir(parents=True, exist_ok=True)
    fragment = fragment_of(answer)
    text = yaml.safe_dump(fragment, sort_keys=False)
    out = out or folder / "calibration.yaml"
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}). Name another --out.") from None
    overrides = overrides_of(fragment)
    write_text(folder / "overrides.txt", overrides)
    figure = draw_calibration(answer)
    write_whole(folder / "calibration.png", lambda beside: figure.savefig(beside, dpi=110, format="png"))
    write_json(folder / "calibration.json", answer)
    log.info(
        "%s: look at calibration.png; to use it: bash run.sh infer ... $(cat %s)", folder, folder / "overrides.txt"
    )


def calibration_table(answer: dict) -> str:
    """Now and proposed side by side, as lines of text."""
    keys = ("video_score", "photo_score", "min_share", "max_distance")
    lines = [
        f"{'':<10}"
        + "".join(f"{key:>14}" for key in keys)
        + f"{'precision':>11}{'recall':>8}{'S1':>7}{'S2':>7}{'S3':>7}"
    ]
    for name in ("now", "proposed"):
        row = answer[name]
        figures = [three_decimals(row[key]) for key in ("precision", "recall", *LEVELS)]
        lines.append(f"{name:<10}" + "".join(f"{row['settings'][key]:>14g}" for key in keys) + _in_line(figures))
    held_out = answer["held_out"]
    figures = [three_decimals(held_out[key]) for key in ("precision", "recall", "S1")]
    lines.append(f"{'held out':<10}{'':<{14 * len(keys)}}{_in_line(figures)}")
    lines.append(
        f"held out: each of {held_out['folds']} folds of the videos, by what the others propose; the honest figure of the two. "
        "Thresholds under the present ones were not tried: infer left no boxes there."
    )
    if answer["probability"] is None:
        lines.append(
            "no probability: the matches are all right or all wrong, or the near ones are no surer than the far"
        )
    return "\n".join(lines)


def _in_line(figures: list[str]) -> str:
    return "".join(f"{figure:>{width}}" for figure, width in zip(figures, (11, 8, 7, 7, 7), strict=False))


if __name__ == "__main__":
    run_entry(main)
