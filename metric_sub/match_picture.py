"""Matches drawn as one picture: catalogue photo and frame side by side, a line from box to box."""

import cv2
import numpy as np

from metric_sub.finished_run import Run
from metric_sub.thumbnails import fit, read_frame
from metric_sub.vote import FRAME_BOX, ITEM_BOX
from shared.boxes import clip_boxes
from shared.config import Data
from shared.errors import UserError
from shared.media import MediaError
from shared.reader import open_reader

BOX_RGB = (255, 45, 135)  # rare in clothes
LINE = 3  # px
INK_RGB = (25, 25, 30)
PAPER_RGB = (231, 231, 237)
MATCH_HW = (360, 480)  # px, at most, of each of the two pictures of a match
GAP, MARGIN = 72, 16  # px
SUBPIXEL_BITS = 4  # of the line's corners


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


def draw_nearest(run: Run, n: int, limits: Data) -> np.ndarray:
    """The n matches with the smallest distance (ties by item_id; all where there are fewer), one under another.

    Raises UserError where there is no match or a file cannot be read any more.
    """
    if run.matches.empty:
        raise UserError("no video has a match, so there is none to draw: leave --picture out.")
    rows = []
    with open_reader(limits) as reader:
        for match in run.matches.sort_values(["distance", "item_id"])[:n].itertuples():
            try:
                photo_rgb = reader.photo(run.paths[match.item_media_id])
                frame_rgb = read_frame(run.paths[match.video_media_id], match.frame_index, reader)
            except MediaError as error:
                raise UserError(
                    f"video {match.video_id} and its photo {match.item_media_id} were read by the run, and now "
                    f"cannot be ({error}). Restore them and run infer again."
                ) from None
            rows.append((_spotlit(photo_rgb, box_of(match, ITEM_BOX)), _spotlit(frame_rgb, box_of(match, FRAME_BOX))))
    return _draw_rows(rows)


def box_of(match, names: list[str]) -> np.ndarray:
    """(4,) the box of a row of matches or pairs, x1, y1, x2, y2 in px: ITEM_BOX or FRAME_BOX."""
    return np.array([getattr(match, name) for name in names])


def png_bytes(image_rgb: np.ndarray) -> bytes:
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
