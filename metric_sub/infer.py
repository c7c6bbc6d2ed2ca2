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

from metric_sub.embeddings import both_sides, embed_detections, read_trained, vector_length
from metric_sub.index import EXACT, NearestSearch, empty_index, recall_against_exact, search_by
from metric_sub.pairs import further_pairs
from metric_sub.probability import match_probability
from metric_sub.rerank import expand_queries, nearest_reciprocal
from metric_sub.result import build_result, write_result
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from metric_sub.whitening import load_descriptors
from shared.catalogue import COLUMNS as MEDIA
from shared.catalogue import tell_skipped
from shared.cli import STRICT, config_of, parse_options, run_entry, use_threads
from shared.config import Config, Match, save_config
from shared.lock import locked
from shared.work import Step, read_step, refuse_first

log = logging.getLogger("match")


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Match items and videos (stage 2).", argv, STRICT)
    config = config_of(options)
    use_threads(config.threads)
    refuse_unfit_index(config, options.weights)
    with locked(options.work):
        save_config(options.work, config)
        if options.strict:
            for name in ("media", "detections/photos", "detections/videos"):
                refuse_first(read_step(options.work / name).manifest["skipped"])
        media = read_step(options.work / "media").table("table", MEDIA)
        write_matches(config, options, media, embed_detections(config, options, media))
        tell_skipped(options.work)


def write_matches(config: Config, options: argparse.Namespace, media: pd.DataFrame, embedded: dict[str, Step]) -> None:
    """Makes matches/ and result.json. embedded: the finished steps embeddings/<kind> by kind."""
    step = match_embedded(config, options, embedded["photos"], embedded["videos"])
    matches = step.table("table")
    write_result(build_result(matches, step.table("pairs")), options.work / "result.json")
    log.info("%d of %d videos matched; %s", len(matches), (media.kind == "video").sum(), options.work / "result.json")


def refuse_unfit_index(config: Config, weights: Path) -> None:
    """Raises UserError, before the work, where FAISS cannot make the config's index for the embedders' vectors."""
    if config.search.index == EXACT:
        return
    descriptors = load_descriptors(config.descriptors, weights)
    empty_index(config.search, vector_length(read_trained(config, weights), descriptors))


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
    sides = both_sides(photos, videos)
    search = search_by(
        config.search,
        sides[3],
        videos.fingerprint,
        options.work / "index",
        seed=config.seed,
        fresh=options.fresh,
    )
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
    run_entry(main, lower="embed.batch_size, search.candidates or data.max_pixels")
