"""One video, or one item's photos, against a finished run: `python -m metric_sub.find --data D --work W --among RUN`.

D holds the one video or item, W what stage 1 found there, RUN is the work folder of the others. Prints the nearest items (of a
video) or videos (of photos), as a table or JSON, and writes <RUN>/find/<kind>-<name>.png. `bash run.sh find` runs both stages.
"""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from metric_sub.embeddings import both_sides, embed_detections
from metric_sub.result import DECIMALS
from metric_sub.search import nearest
from shared.catalogue import COLUMNS as MEDIA
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.errors import UserError
from shared.files import write_whole
from shared.lock import held, locked, refuse_links
from shared.media import MediaError
from shared.reader import Reader, open_reader
from shared.sheet import PAPER_RGB, lay_out
from shared.tables import BOX
from shared.work import Step, read_step

log = logging.getLogger("find")

OTHER = {"videos": "photos", "photos": "videos"}
PAIR = ["media_id", "name", "frame_index", *BOX]
SIDE, LINE, COLUMNS = 240, 4, 4  # px, px, pictures in a row of the sheet: two candidates
QUERY_RGB, CANDIDATE_RGB = (60, 110, 235), (255, 45, 135)


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Find the items of a video, or the videos of an item's photos, in a finished run (stage 2).",
        argv,
        ("--among", "the work folder of a finished run"),
        ("--top", "how many candidates (default: 5)", {"type": int, "default": 5}),
        ("--json", "print JSON, not a table", {"action": "store_true"}),
    )
    if options.top < 1:
        raise UserError(f"--top: expected 1 or more, found {options.top}.")
    config = config_of(options)
    use_threads(config.threads)
    with locked(options.work), held(options.among, shared=True):
        refuse_links(options.among)
        media, kind, name = read_asked(options.work)
        gallery = read_step(options.among / "embeddings" / OTHER[kind])
        query = embed_detections(config, options, media)[kind]
        refuse_other_models(query, gallery)
        boxes, vectors, *others = both_sides(query, gallery)
        if boxes.empty:
            scores = {"videos": config.detect.video_score, "photos": config.detect.photo_score}
            raise UserError(
                f"{name}: no product was found in it with a score of detect.{kind[:-1]}_score={scores[kind]:g}. Give a lower one."
            )
        candidates = rank_nearest(
            boxes, vectors, *others, config.match.max_distance
        ).head(options.top)
        among = read_step(options.among / "media").table("table", MEDIA)
        with open_reader(config.data) as reader:
            tiles = draw_pairs(candidates, kind, media, among, reader)
    print(as_json(candidates, kind) if options.json else as_table(candidates, kind))
    title = f"{name}: the nearest {'items' if kind == 'videos' else 'videos'}"
    sheet = lay_out(title, ((f"in {name}", QUERY_RGB), ("candidate", CANDIDATE_RGB)), tiles, SIDE, COLUMNS)
    path = options.among / "find" / f"{kind}-{as_file_name(name)}.png"
    path.parent.mkdir(exist_ok=True)
    write_whole(path, lambda beside: sheet.save(beside, format="png"))
    log.info("look at %s", path)


def as_file_name(name: str) -> str:
    """An id as a part of a file's name: a COCO picture's is a path, and that of a foreign work folder anything."""
    return os.fsdecode(os.fsencode(re.sub(r"[/\0]", "_", name))[:200])


def read_asked(work: Path) -> tuple[pd.DataFrame, str, str]:
    """(media, kind, name): the readable files that are asked for, 'photos' or 'videos', and their item_id.

    Raises UserError where there is not one, naming a file and why it cannot be read.
    """
    step = read_step(work / "media")
    media, skipped = step.table("table", MEDIA), step.manifest["skipped"]
    for kind in OTHER:
        skipped = skipped + read_step(work / "detections" / kind).manifest["skipped"]
    unread = {entry["media_id"]: entry["reason"] for entry in skipped}
    for media_id, reason in unread.items():
        log.warning("%s: left out: %s", media_id, reason)
    media = media[~media.media_id.isin(unread)].reset_index(drop=True)
    if media.empty and not unread:
        raise UserError(f"{step.folder}: expected what was asked for, found no file. Remove {work} and run again.")
    if media.empty:
        media_id, reason = next(iter(unread.items()))
        raise UserError(f"{media_id}: {reason}. Name a video or a folder of photos that can be read.")
    return media, f"{media.kind.iloc[0]}s", media.item_id.iloc[0]


def refuse_other_models(query: Step, gallery: Step) -> None:
    """Raises UserError where the two were not embedded by the same models in the same way."""
    for key in ("weights", "flip", "descriptors"):
        if query.depends_on(key) != gallery.depends_on(key):
            raise UserError(
                f"{gallery.folder}: embedded by other models or settings ({key}) than the config and weights of this search. Name "
                "those that it was made with by --config and --weights, or run infer on it again."
            )


def rank_nearest(
    query: pd.DataFrame,
    query_vectors: np.ndarray,
    gallery: pd.DataFrame,
    gallery_vectors: np.ndarray,
    max_distance: float,
) -> pd.DataFrame:
    """Every item (or video) of the gallery by its nearest pair of boxes, which is what steps 4 and 6 of the rule go by.

    query (N > 0 rows), gallery (M rows): the boxes of each side, as in embeddings/; row i belongs to row i of its vectors.
    Gives candidate (its item_id or video_id), distance (float32, of its nearest pair), near (how many of its boxes are within
    max_distance of a box of the query, compared in float32), boxes (how many it has), and of the pair query_ and candidate_ media_id,
    name, frame_index, x1, y1, x2, y2; by rising distance, then candidate. Of equally near pairs the first row of the gallery, then of
    the query.
    """
    distances, indices = nearest(gallery_vectors, query_vectors)  # (M, 1): the gallery asks
    own = gallery[PAIR].reset_index(drop=True).add_prefix("candidate_")
    asked = query[PAIR].iloc[indices[:, 0]].reset_index(drop=True).add_prefix("query_")
    pairs = pd.concat([own, asked], axis=1).assign(
        candidate=gallery.item_id.to_numpy(),
        distance=distances[:, 0],
        near=distances[:, 0] <= np.float32(max_distance),
        boxes=1,
    )
    counts = pairs.groupby("candidate", as_index=False)[["near", "boxes"]].sum()
    first = pairs.drop(columns=["near", "boxes"]).sort_values("distance", kind="stable").drop_duplicates("candidate")
    return first.merge(counts, on="candidate").sort_values(["distance", "candidate"], ignore_index=True)


def as_rows(candidates: pd.DataFrame, kind: str) -> list[dict]:
    """The candidates in the names of result.json, the nearest first; kind: of what was asked, 'videos' or 'photos'."""
    photo, frame, candidate = {
        "videos": ("candidate", "query", "item_id"),
        "photos": ("query", "candidate", "video_id"),
    }[kind]
    return [
        {
            candidate: row["candidate"],
            "distance": round(float(row["distance"]), 4),
            "near": int(row["near"]),
            "boxes": int(row["boxes"]),
            "frame_index": int(row[f"{frame}_frame_index"]),
            "img_name": row[f"{photo}_name"],
            "item_box": [round(float(row[f"{photo}_{side}"]), DECIMALS) for side in BOX],
            "frame_box": [round(float(row[f"{frame}_{side}"]), DECIMALS) for side in BOX],
        }
        for row in candidates.to_dict("records")
    ]


def as_json(candidates: pd.DataFrame, kind: str) -> str:
    return json.dumps(as_rows(candidates, kind), indent=1, ensure_ascii=False)


def as_table(candidates: pd.DataFrame, kind: str) -> str:
    """A line of text for each candidate, under the columns' names."""
    table = pd.DataFrame(as_rows(candidates, kind))
    if table.empty:
        return "no candidate: the other side has no boxes"
    table = table.assign(near=[f"{near} of {boxes}" for near, boxes in zip(table.near, table.boxes, strict=True)])
    table = table.drop(columns=["boxes", "item_box", "frame_box"])
    table.insert(0, "rank", range(1, len(table) + 1))
    return table.to_string(index=False, formatters={"distance": "{:.3f}".format})


def draw_pairs(
    candidates: pd.DataFrame, kind: str, asked: pd.DataFrame, among: pd.DataFrame, reader: Reader
) -> list[tuple[Image.Image, list[str]]]:
    """The sheet's tiles: for each candidate the query's picture and its own, each with its box. asked, among: their media."""
    tiles = []
    for rank, row in enumerate(candidates.to_dict("records"), 1):
        words = {"query": f"{rank}.", "candidate": f"{row['candidate']}, {row['distance']:.3f}"}
        for side, media, colour in (("query", asked, QUERY_RGB), ("candidate", among, CANDIDATE_RGB)):
            of_video = (kind == "videos") == (side == "query")
            place = f"frame {row[f'{side}_frame_index']}" if of_video else f"photo {row[f'{side}_name']}"
            path = media.path[media.media_id == row[f"{side}_media_id"]].iloc[0]
            image_rgb = _picture(reader, path, row[f"{side}_frame_index"] if of_video else None)
            if image_rgb is None:
                tiles.append((Image.new("RGB", (SIDE, SIDE), PAPER_RGB), [words[side], f"{place} cannot be read"]))
            else:
                box = [row[f"{side}_{edge}"] for edge in BOX]
                tiles.append((_tile(image_rgb, box, colour), [words[side], place]))
    return tiles


def _picture(reader: Reader, path: str, frame_index: int | None) -> np.ndarray | None:
    """A photo (frame_index None) or a video's frame, RGB; None where it cannot be read any more."""
    asked = reader.ask_photo(path) if frame_index is None else reader.frames(path, [frame_index])
    try:
        return next((image_rgb for _, image_rgb in asked), None)
    except MediaError:
        return None


def _tile(image_rgb: np.ndarray, box_xyxy: list[float], colour: tuple[int, int, int]) -> Image.Image:
    """The whole picture, scaled into SIDE x SIDE, with its box."""
    height, width = image_rgb.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image_rgb).resize(size, Image.Resampling.LANCZOS)
    x1, y1, x2, y2 = (round(edge * scale) for edge in box_xyxy)
    ImageDraw.Draw(picture).rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=LINE)
    return ImageOps.pad(picture, (SIDE, SIDE), color=PAPER_RGB)


if __name__ == "__main__":
    run_entry(main)
