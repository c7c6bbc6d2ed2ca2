"""Matches items and videos: `python -m metric_sub.infer --config C --data D --work W`.

Reads <work>/media and <work>/detections; writes <work>/embeddings/{photos,videos}, <work>/matches and <work>/result.json, and
<work>/index where the config's search is not exact.
What stands already is reused; what was interrupted goes on.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.embed import CropEmbedder
from metric_sub.embedder import INFERENCE_KEYS, load_embedders
from metric_sub.index import EXACT, NearestSearch, empty_index, recall_against_exact, search_by
from metric_sub.pairs import further_pairs
from metric_sub.probability import match_probability
from metric_sub.rerank import expand_queries, nearest_reciprocal
from metric_sub.result import build_result, write_result
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Match, save_config
from shared.errors import UserError
from shared.media import MediaError, read_frames, read_photo
from shared.progress import progress_bar
from shared.quantized import runtime_settings
from shared.runtime import Runtime, choose_runtime
from shared.tables import BOX
from shared.weights import read_description, refuse_other_architecture
from shared.work import Step, fingerprint, locked, read_step, table_fingerprint

log = logging.getLogger("match")

ITEMS_PER_PART = {"photos": 16, "videos": 4}


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Match items and videos (stage 2).", argv)
    config = config_of(options)
    use_threads(config.threads)
    runtime = choose_runtime(config.runtime)
    refuse_unfit_index(config, options.weights)
    with locked(options.work):
        save_config(options.work, config)
        media = read_step(options.work / "media").table("table")
        photos, videos = (embed_detections(config, runtime, options, kind, media) for kind in ("photos", "videos"))
        step = match_embedded(config, options, photos, videos)
        matches = step.table("table")
        write_result(build_result(matches, step.table("pairs")), options.work / "result.json")
        log.info(
            "%d of %d videos matched; %s", len(matches), (media.kind == "video").sum(), options.work / "result.json"
        )


def refuse_unfit_index(config: Config, weights: Path) -> None:
    """Raises UserError, before the work, where FAISS cannot make the config's index for the embedders' vectors."""
    if config.search.index == EXACT:
        return
    models = read_trained(config, weights).values()
    empty_index(config.search, sum(model["networks"] * model["architecture"]["shape"]["dimension"] for model in models))


def read_trained(config: Config, weights: Path) -> dict[Path, dict]:
    """Each embedder's folder and its model.json, in the config's order. Raises UserError where config and training differ."""
    trained = {weights / model.name: read_description(weights / model.name) for model in config.embedders}
    for (folder, description), model in zip(trained.items(), config.embedders, strict=True):
        architecture = description["architecture"]
        refuse_other_architecture(
            folder, architecture["model"], model.model_dump(), set(architecture["model"]) - {"backbone", "input_size", "aspect_groups"}
        )
        refuse_other_architecture(folder, architecture["shape"], config.embed.model_dump(), INFERENCE_KEYS)
    return trained


def embed_detections(
    config: Config, runtime: Runtime, options: argparse.Namespace, kind: str, media: pd.DataFrame
) -> Step:
    """The finished step embeddings/<kind>: the detections' keys (`table`) and their unit vectors, row by row.

    Items and videos whose files, detections and embedders are as in the step before keep their vectors: only the others are
    embedded.
    """
    detection_step = read_step(options.work / "detections" / kind)
    trained = read_trained(config, options.weights)
    settings = {
        "weights": [description["sha256"] for description in trained.values()],
        "architectures": [description["architecture"] for description in trained.values()],
        "batch_size": config.embed.batch_size,
        "flip": config.embed.flip,
        "runtime": runtime_settings(runtime, *trained),
    }
    step = Step(
        options.work / "embeddings" / kind,
        {"detections": detection_step.fingerprint, "parts": "by item", **settings},
        options.fresh,
        keep_before=True,
    )
    if step.done:
        return step
    models = [load_embedders(folder, runtime=runtime, flip=config.embed.flip) for folder in trained]
    embedder = CropEmbedder(models, config.embed.batch_size)
    detections = detection_step.table("table")
    media = media.set_index("media_id")
    files = media.drop(columns="path")
    # An item's photos, or a video, are embedded by themselves: in other company a vector's last bits are others.
    items = [
        table.reset_index(drop=True)
        for _, table in detections.groupby((detections.item_id != detections.item_id.shift()).cumsum())
    ]
    marks = [
        fingerprint([settings, table_fingerprint(item), table_fingerprint(files.loc[item.media_id.unique()])])
        for item in items
    ]
    with progress_bar(total=len(items), title=f"embed {kind}", unit="item" if kind == "photos" else "video") as bar:

        def build(k: int) -> tuple[dict, list[dict]]:
            for media_id, boxes in items[k].groupby("media_id", sort=False):
                add_crops(embedder, media.path[media_id], kind, boxes, config.data.max_pixels)
            return {"table": items[k], "vectors": embedder.take()}, []

        empty = {"table": detections.iloc[:0], "vectors": np.zeros((0, embedder.dimension), np.float32)}
        step.build_units(marks, ITEMS_PER_PART[kind], build, empty, bar.update)
    return step


def add_crops(embedder: CropEmbedder, path: str, kind: str, detections: pd.DataFrame, max_pixels: int) -> None:
    """Gives the embedder the crops of one photo's or video's detections, in the table's order (frames rising).

    Raises UserError where the file no longer gives what the detections were made from.
    """
    try:
        if kind == "photos":
            embedder.add(read_photo(path, max_pixels), detections[BOX].to_numpy())
            return
        boxes = dict(tuple(detections.groupby("frame_index")))
        for index, image_rgb in read_frames(path, boxes, max_pixels):
            embedder.add(image_rgb, boxes.pop(index)[BOX].to_numpy())
    except MediaError as error:
        raise UserError(
            f"{path}: could be read by stage 1 and now cannot ({error}). Restore it and run infer again."
        ) from None
    if boxes:
        raise UserError(
            f"{path}: has no frames {sorted(boxes)} any more, which stage 1 read. Restore it and run infer again."
        )


def match_embedded(config: Config, options: argparse.Namespace, photos: Step, videos: Step) -> Step:
    """The finished step matches: the matches (`table`), the votes behind them (`votes`) and their further pairs (`pairs`).

    photos, videos: as `embed_detections` gives them.
    """
    step = Step(
        options.work / "matches",
        {
            **config.match.model_dump(),
            "search": config.search.model_dump() | ({} if config.search.index == EXACT else {"seed": config.seed}),
            "photos": photos.fingerprint,
            "videos": videos.fingerprint,
        },
        options.fresh,
    )
    if step.done:
        return step
    search = search_by(
        config.search,
        videos.vectors(),
        videos.fingerprint,
        options.work / "index",
        seed=config.seed,
        fresh=options.fresh,
    )
    sides = photos.table("table"), photos.vectors(), videos.table("table"), videos.vectors()
    matches, votes = match_boxes(*sides, config.match, search)
    pairs = pair_boxes(matches, *sides, config.match)
    facts = None if search is nearest else {"recall": tell_recall(search, photos, videos, config)}
    step.write({"table": matches, "votes": votes, "pairs": pairs}, facts=facts)
    return step


def tell_recall(search: NearestSearch, photos: Step, videos: Step, config: Config) -> dict:
    """What `index.recall_against_exact` gives for photo boxes among video boxes; logs it."""
    n_queries = config.search.recall_queries
    recall = recall_against_exact(search, photos.vectors(), videos.vectors(), n_queries=n_queries, seed=config.seed)
    log.info("%s against exact search, %s", config.search.index, recall)
    return recall


def match_boxes(
    photos: pd.DataFrame,
    photo_vectors: np.ndarray,
    videos: pd.DataFrame,
    video_vectors: np.ndarray,
    match: Match,
    search: NearestSearch = nearest,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `match_neighbours` gives by the nearest video boxes of each photo box.

    Row i of a table of boxes belongs to row i of its vectors.
    """
    distances, indices = nearest_videos(photo_vectors, video_vectors, match, search)
    return match_neighbours(photos, videos, distances, indices, match)


def nearest_videos(
    photo_vectors: np.ndarray, video_vectors: np.ndarray, match: Match, search: NearestSearch = nearest
) -> tuple[np.ndarray, np.ndarray]:
    """The video boxes that each photo box votes for: distances (N, k) float32 and indices (N, k) int64, as `search` gives them.

    Re-ranked as the options say; k-reciprocal re-ranking searches exactly by itself.
    """
    if match.rerank == "reciprocal":
        return nearest_reciprocal(photo_vectors, video_vectors, match.neighbours, **match.reciprocal.model_dump())
    if match.rerank == "expansion":
        photo_vectors = expand_queries(photo_vectors, video_vectors, match.expansion)
    return search(photo_vectors, video_vectors, match.neighbours)


def match_neighbours(
    photos: pd.DataFrame, videos: pd.DataFrame, distances: np.ndarray, indices: np.ndarray, match: Match
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The matches, with their probability, and the votes behind them; distances, indices: of `nearest_videos`."""
    votes = cast_votes(photos, videos.rename(columns={"item_id": "video_id"}), distances, indices)
    matches, votes = match_items(
        votes,
        keep_quantile=match.keep_quantile,
        min_share=match.min_share,
        max_distance=match.max_distance,
        vote_weight=match.vote_weight,
        weight_scale=match.weight_scale,
        successive_frames=match.successive_frames,
        assignment=match.assignment,
    )
    return matches.assign(probability=match_probability(matches.distance.to_numpy(), match.calibration)), votes


def pair_boxes(
    matches: pd.DataFrame,
    photos: pd.DataFrame,
    photo_vectors: np.ndarray,
    videos: pd.DataFrame,
    video_vectors: np.ndarray,
    match: Match,
) -> pd.DataFrame:
    """The further pairs of the matches, none by `pairs: one`; tables and vectors as `match_boxes` takes them."""
    if match.pairs == "one":
        matches = matches.iloc[:0]
    videos = videos.rename(columns={"item_id": "video_id"})
    return further_pairs(matches, photos, photo_vectors, videos, video_vectors, match.max_distance)


if __name__ == "__main__":
    run_entry(main)
