"""The report of a run, one page to look at: `python -m metric_sub.report --config C --data D --work W`.

Reads <work>/media, <work>/matches, <work>/result.json and, where the data has annotations, these; writes
<work>/report.html: one file that needs no other, with a card per video. `--picture PATH` also writes a PNG of the
nearest matches.
"""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metric_sub.result import build_result, check_result, read_result
from metric_sub.score import LEVELS, Truth, score_result
from metric_sub.vote import FRAME_BOX, ITEM_BOX
from shared.boxes import clip_boxes
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.dataset import read_dataset, refuse_other_media
from shared.errors import UserError
from shared.media import MediaError, read_frames, read_photo
from shared.progress import progress_bar
from shared.tables import BOX, Dataset
from shared.work import read_step, write_whole

log = logging.getLogger("report")

BOX_RGB = (255, 45, 135)  # rare in clothes, and neither the page's green nor its red
TRUTH_RGB = (40, 200, 90)
LINE = 3  # px
INK_RGB = (25, 25, 30)
PAPER_RGB = (231, 231, 237)

THUMBNAIL_HW = (320, 400)  # px, at most
# The colour of a line a few pixels wide does not survive colour subsampling.
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
MATCH_HW = (360, 480)  # px, at most, of each of the two pictures of a match
GAP, MARGIN = 72, 16  # px
SUBPIXEL_BITS = 4  # of the line's corners
N_NEAREST = 3


@dataclass(frozen=True)
class Picture:
    """A thumbnail as the page shows it. uri: a data URI; '' where there is no picture, and then `fault` says why."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Card:
    """A video of the page. item_id '': no match. verdict: 'right', 'wrong', or '' where no truth is known."""

    video_id: str
    kind: str = ""
    item_id: str = ""
    facts: str = ""
    verdict: str = ""
    why: str = ""
    levels: Sequence[tuple[str, bool]] = ()  # (S1, whether it holds), ... of a match
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Run:
    """What a finished run left.

    data: as read now. paths: media_id -> path, of the same. matches: as `vote.match_items` gives them. rule: the settings
    that the matches were made with. fps: media_id -> frames per second of a video, 0 where unknown. skipped: media_id ->
    why the file could not be read.
    """

    data: Dataset
    paths: dict[str, str]
    matches: pd.DataFrame
    rule: dict
    fps: dict[str, float]
    skipped: dict[str, str]


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Write the report of a run.", argv, ("--picture", f"also write here a PNG of the {N_NEAREST} nearest matches")
    )
    config = config_of(options)
    use_threads(config.threads)
    run = read_run(options.data, options.work)
    score = score_run(run, config)
    cards = build_cards(run, score, config)
    page = render_page(options.data.resolve().name, run, score, cards, read_curves(options.weights))
    write_file(options.work / "report.html", page.encode("utf-8"))
    if options.picture:
        write_file(options.picture, png_bytes(draw_nearest(run, N_NEAREST, config.data.max_pixels)))


def read_run(root: Path, work: Path) -> Run:
    """Reads data and work folder. Raises UserError where a step is not finished or the two do not belong together."""
    media_step, match_step = read_step(work / "media"), read_step(work / "matches")
    media = media_step.table("table")
    skipped = {entry["media_id"]: entry["reason"] for entry in media_step.manifest["skipped"]}
    data = read_dataset(root)
    refuse_other_media(data, media_step, root)
    matches = match_step.table("table")
    path = work / "result.json"
    if read_result(path) != check_result(build_result(matches, match_step.table("pairs"))):
        raise UserError(f"{path}: says something else than {work / 'matches'}. Run infer again: it writes it anew.")
    return Run(
        data,
        dict(zip(data.media.media_id, data.media.path, strict=True)),
        matches,
        match_step.manifest["depends"],
        dict(zip(media.media_id, media.fps, strict=True)),
        skipped,
    )


def score_run(run: Run, config: Config) -> dict | None:
    """The score (see `score.score_result`), or None where no video of the data is labelled."""
    data = run.data
    if not data.media[data.media.kind == "video"].media_id.isin(data.labelled.media_id).any():
        return None
    truth = Truth(data.media, data.labels, data.labelled, data.kinds)
    return score_result(check_result(build_result(run.matches)), truth, **config.score.model_dump())


# --- pictures --------------------------------------------------------------------------------------------------------


def fit(image_rgb: np.ndarray, size_hw: tuple[int, int], enlarge: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The picture scaled to fit into size_hw (shrunk only, or enlarged too), and the (4,) factors for its boxes."""
    height, width = image_rgb.shape[:2]
    scale = min(size_hw[0] / height, size_hw[1] / width)
    scale = scale if enlarge else min(scale, 1.0)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image_rgb, (new_width, new_height), interpolation=method)
    return resized, np.array([new_width / width, new_height / height] * 2)


def draw_box(image_rgb: np.ndarray, box: np.ndarray, colour_rgb: tuple[int, int, int]) -> None:
    """Draws a box into the picture, its outer edge on the box's edge (cut to the picture), inside it a dark line."""
    height, width = image_rgb.shape[:2]
    x1, y1, x2, y2 = np.rint(clip_boxes(box, width, height)[0]).astype(int).tolist()
    for inset in range(LINE + 1):
        if x2 - x1 > 2 * inset and y2 - y1 > 2 * inset:
            colour = colour_rgb if inset < LINE else INK_RGB
            cv2.rectangle(image_rgb, (x1 + inset, y1 + inset), (x2 - 1 - inset, y2 - 1 - inset), colour)


def draw_match(photo_rgb: np.ndarray, item_box: np.ndarray, frame_rgb: np.ndarray, frame_box: np.ndarray) -> np.ndarray:
    """Photo and frame side by side, the rest of each dimmed around its box, and a line between the boxes.

    Boxes: x1, y1, x2, y2 in pixels of their picture. Gives image_rgb: uint8, MATCH_HW[0] + 2 MARGIN high, as wide as
    the two pictures, the gap between them and the margins.
    """
    return _draw_rows([(_spotlit(photo_rgb, item_box), _spotlit(frame_rgb, frame_box))])


def _draw_rows(rows: list[tuple]) -> np.ndarray:
    """Spotlit pairs (photo, frame), one under another, all with the gap at the same place."""
    photo_width, frame_width = (max(pair[side][0].shape[1] for pair in rows) for side in (0, 1))
    step = MATCH_HW[0] + MARGIN
    canvas = np.full((len(rows) * step + MARGIN, photo_width + frame_width + GAP + 2 * MARGIN, 3), PAPER_RGB, np.uint8)
    for row, ((photo, item_box), (frame, frame_box)) in enumerate(rows):
        photo_at = _paste(canvas, photo, MARGIN + photo_width - photo.shape[1], MARGIN + row * step)
        frame_at = _paste(canvas, frame, MARGIN + photo_width + GAP, MARGIN + row * step)
        _draw_link(
            canvas,
            photo_at + [item_box[2], item_box[[1, 3]].mean()],
            frame_at + [frame_box[0], frame_box[[1, 3]].mean()],
        )
    return canvas


def _paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> np.ndarray:
    """Lays a picture in the middle of its row's height; gives where its (x, y) = (0, 0) is."""
    height, width = image.shape[:2]
    top += (MATCH_HW[0] - height) // 2
    canvas[top : top + height, left : left + width] = image
    return np.array([left, top], float)


def _spotlit(image_rgb: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, factors = fit(image_rgb, MATCH_HW, enlarge=True)
    box = clip_boxes(np.asarray(box) * factors, image.shape[1], image.shape[0])[0]
    x1, y1, x2, y2 = np.rint(box).astype(int)
    lit = cv2.addWeighted(image, 0.6, np.full_like(image, PAPER_RGB), 0.4, 0)
    lit[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    draw_box(lit, box, BOX_RGB)
    return lit, box


def _draw_link(canvas: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """A smooth line that leaves and arrives level, with a dot at each end."""
    t = np.linspace(0, 1, 64)[:, None]
    course = start + (end - start) * np.concatenate([t, t * t * (3 - 2 * t)], axis=1)  # (64, 2)
    course = np.rint(course * (1 << SUBPIXEL_BITS)).astype(np.int32)[:, None]  # (64, 1, 2)
    for colour, width, radius in ((PAPER_RGB, 7, 8), (BOX_RGB, 3, 6)):
        cv2.polylines(canvas, [course], False, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)
        for x, y in (start, end):
            cv2.circle(canvas, (round(x), round(y)), radius, colour, cv2.FILLED, cv2.LINE_AA)


def draw_nearest(run: Run, n: int, max_pixels: int) -> np.ndarray:
    """The n matches with the smallest distance (ties by item_id; all where there are fewer), one under another.

    Raises UserError where there is no match or a file cannot be read any more.
    """
    if run.matches.empty:
        raise UserError("no video has a match, so there is none to draw: leave --picture out.")
    rows = []
    for match in run.matches.sort_values(["distance", "item_id"])[:n].itertuples():
        try:
            photo_rgb = read_photo(run.paths[match.item_media_id], max_pixels)
            frame_rgb = _frame(run.paths[match.video_media_id], match.frame_index, max_pixels)
        except MediaError as error:
            raise UserError(
                f"video {match.video_id} and its photo {match.item_media_id} were read by the run, and now "
                f"cannot be ({error}). Restore them and run infer again."
            ) from None
        rows.append((_spotlit(photo_rgb, _box(match, ITEM_BOX)), _spotlit(frame_rgb, _box(match, FRAME_BOX))))
    return _draw_rows(rows)


def _frame(path: str, frame_index: int, max_pixels: int) -> np.ndarray:
    for _, image_rgb in read_frames(path, [frame_index], max_pixels):
        return image_rgb
    raise MediaError(f"the video has no frame {frame_index}")


def _box(match, names: list[str]) -> np.ndarray:
    return np.array([getattr(match, name) for name in names])


def png_bytes(image_rgb: np.ndarray) -> bytes:
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def thumbnail(caption: str, image_rgb: np.ndarray, boxes: np.ndarray, colour_rgb: tuple[int, int, int]) -> Picture:
    """A JPEG of at most THUMBNAIL_HW with its boxes (N, 4), which are in pixels of the picture as given."""
    image, factors = fit(image_rgb, THUMBNAIL_HW)
    for box in np.reshape(boxes, (-1, 4)) * factors:
        draw_box(image, box, colour_rgb)
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG)[1].tobytes()
    return Picture(caption, _data_uri("jpeg", data), image.shape[1], image.shape[0])


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# --- cards -----------------------------------------------------------------------------------------------------------


def build_cards(run: Run, score: dict | None, config: Config) -> list[Card]:
    """A card per video, by rising video_id; what cannot be read has its reason in the picture's place."""
    match_of = {match.video_id: match for match in run.matches.itertuples()}
    verdict_of = {row["video_id"]: row for row in score["per_video"]} if score else {}
    videos = run.data.media[run.data.media.kind == "video"].drop_duplicates("item_id").sort_values("item_id")
    cards = []
    with progress_bar(total=len(videos), title="report", unit="video") as bar:
        for video in videos.itertuples():
            cards.append(_card(run, video, match_of.get(video.item_id), verdict_of.get(video.item_id), config))
            bar.update()
    return cards


def _card(run: Run, video, match, verdict: dict | None, config: Config) -> Card:
    pixels = config.data.max_pixels
    card = Card(video.item_id, kind=run.data.kinds.get(video.item_id, ""))
    if match is None:
        card = replace(card, facts="no match", pictures=[_first_frame(run, video, config.frames.start, pixels)])
    else:
        card = replace(
            card,
            item_id=match.item_id,
            pictures=[
                _photo(run, match.item_media_id, f"item {match.item_id}", _box(match, ITEM_BOX), BOX_RGB, pixels),
                _matched_frame(run, match, pixels),
            ],
            facts=f"distance {match.distance:.3f} · votes {match.votes}, kept {match.kept}",
        )
    if verdict is None:
        return card
    levels = [(name, verdict[name]) for name in LEVELS] if match else []
    card = replace(card, verdict="right" if verdict["right"] else "wrong", why=verdict["why"], levels=levels)
    if verdict["right"] or verdict["expected"] is None:
        return card
    return replace(card, pictures=[*card.pictures, _right_photo(run, verdict["expected"], match, pixels)])


def _photo(
    run: Run, media_id: str, caption: str, boxes: np.ndarray, colour_rgb: tuple[int, int, int], max_pixels: int
) -> Picture:
    path = Path(run.paths[media_id])
    caption = f"{caption}, photo {path.stem}"
    try:
        return thumbnail(caption, read_photo(path, max_pixels), boxes, colour_rgb)
    except MediaError as error:
        return Picture(caption, fault=str(error))


def _right_photo(run: Run, item_id: str, match, max_pixels: int) -> Picture:
    """The right item's first photo with its labelled boxes; of an item rightly found the photo that was judged."""
    media, labels = run.data.media, run.data.labels
    if match is not None and match.item_id == item_id:
        media_id = match.item_media_id
    else:
        media_id = media.media_id[(media.kind == "photo") & (media.item_id == item_id)].iloc[0]
    boxes = labels[(labels.media_id == media_id) & (labels.product_id == item_id)][BOX].to_numpy()
    return _photo(run, media_id, f"right: item {item_id}", boxes, TRUTH_RGB, max_pixels)


def _matched_frame(run: Run, match, max_pixels: int) -> Picture:
    caption = _frame_caption(run, match.video_media_id, match.frame_index)
    try:
        return thumbnail(
            caption,
            _frame(run.paths[match.video_media_id], match.frame_index, max_pixels),
            _box(match, FRAME_BOX),
            BOX_RGB,
        )
    except MediaError as error:
        return Picture(caption, fault=str(error))


def _first_frame(run: Run, video, start: int, max_pixels: int) -> Picture:
    """The first frame that inference wants, or frame 0 of a video that is shorter."""
    if video.media_id in run.skipped:
        return Picture("not read", fault=run.skipped[video.media_id])
    try:
        index, image_rgb = list(read_frames(video.path, {0, start}, max_pixels))[-1]
    except MediaError as error:
        return Picture("not read", fault=str(error))
    return thumbnail(_frame_caption(run, video.media_id, index), image_rgb, np.zeros((0, 4)), BOX_RGB)


def _frame_caption(run: Run, media_id: str, frame_index: int) -> str:
    fps = run.fps[media_id]
    return f"frame {frame_index}" + (f" ({frame_index / fps:.1f} s)" if fps > 0 else "")


# --- page ------------------------------------------------------------------------------------------------------------


def read_curves(weights: Path) -> list[Picture]:
    """<weights>/*/curves.png as pictures, by the folders' names."""
    paths = sorted(weights.glob("*/curves.png"))
    return [Picture(path.parent.name, _data_uri("png", path.read_bytes())) for path in paths]


def render_page(title: str, run: Run, score: dict | None, cards: list[Card], curves: list[Picture]) -> str:
    """The page as HTML. Everything that comes from outside (ids, names, reasons) is escaped by the template engine."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    photos = run.data.media[run.data.media.kind == "photo"]
    counts = {
        "all": len(cards),
        "right": sum(card.verdict == "right" for card in cards),
        "wrong": sum(card.verdict == "wrong" for card in cards),
        "match": sum(card.item_id != "" for card in cards),
    }
    counts["nomatch"] = counts["all"] - counts["match"]
    by_kind = score.get("by_kind", {}) if score else {}
    return environment.get_template("report.html.j2").render(
        title=title,
        score=score,
        score_rows=[*by_kind.items(), ("all", score)],
        levels=LEVELS,
        cards=cards,
        curves=curves,
        counts=counts,
        n_items=photos.item_id.nunique(),
        n_photos=len(photos),
        rule=run.rule,
        skipped=sorted(run.skipped.items()),
        problems=run.data.problems,
    )


def write_file(path: Path, data: bytes) -> None:
    try:
        write_whole(path, lambda beside: beside.write_bytes(data))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}). Name another place.") from None
    log.info("%s (%.1f MB)", path, len(data) / 1e6)


if __name__ == "__main__":
    run_entry(main)
