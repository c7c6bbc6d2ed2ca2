"""The report's cards: a video each, with its pictures, its figures, its time line, and where it is wrong, why."""

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool

import numpy as np

from metric_sub.card_facts import Rival, rivals, shares, unsure
from metric_sub.finished_run import Run
from metric_sub.match_picture import box_of
from metric_sub.score import LEVELS
from metric_sub.thumbnails import Picture, frame_picture, photo_picture
from metric_sub.time_line import TimeLine, draw_time_line
from metric_sub.vote import FRAME_BOX, ITEM_BOX
from metric_sub.why_lost import why_lost
from shared.config import Config
from shared.progress import progress_bar
from shared.reader import Reader, open_reader
from shared.tables import BOX


@dataclass(frozen=True)
class Card:
    """A video of the page. item_id '': no match. verdict: 'right', 'wrong', or '' where no truth is known.

    figures: (name, value) of a match. levels: (S1, whether it holds), ... of a match. why: of the score. lost: why the right
    item is not the match. probability: None where none is known. end: of the time line, in seconds or frames.
    """

    video_id: str
    kind: str = ""
    item_id: str = ""
    verdict: str = ""
    unsure: bool = False
    distance: float | None = None
    probability: float | None = None
    figures: Sequence[tuple[str, str]] = ()
    levels: Sequence[tuple[str, bool]] = ()
    why: str = ""
    lost: str = ""
    pictures: Sequence[Picture] = ()
    time_line: TimeLine | None = None
    end: str = ""


@dataclass(frozen=True)
class Pair:
    """A photo's box and a frame's that prove a match."""

    photo_id: str
    img_name: str
    item_box: np.ndarray
    frame_box: np.ndarray


def pair_of(row) -> Pair:
    """The pair of boxes of a row of `Run.matches` or `Run.pairs`."""
    return Pair(row.item_media_id, row.img_name, box_of(row, ITEM_BOX), box_of(row, FRAME_BOX))


def build_cards(run: Run, score: dict | None, config: Config, n_threads: int) -> list[Card]:
    """A card per video, by rising video_id; what cannot be read has its reason in the picture's place."""
    maker = CardMaker(run, score, config.frames.start)
    videos = run.data.media[run.data.media.kind == "video"].drop_duplicates("item_id").sort_values("item_id")
    cards, wanted = [], []
    for video in videos.itertuples():
        cards.append(maker.card(video))
        wanted.append(list(maker.pictures(video)))
    free = queue.LifoQueue()  # of readers, each used by one thread at a time

    def take(pictures: list[Callable[[Reader], Picture]]) -> list[Picture]:
        reader = free.get()
        try:
            return [picture(reader) for picture in pictures]
        finally:
            free.put(reader)

    with contextlib.ExitStack() as stack:
        for _ in range(n_threads):
            free.put(stack.enter_context(open_reader(config.data)))
        bar = stack.enter_context(progress_bar(total=len(cards), title="report", unit="video"))
        pool = stack.enter_context(ThreadPool(n_threads))
        for k, pictures in enumerate(pool.imap(take, wanted)):
            cards[k] = replace(cards[k], pictures=pictures)
            bar.update()
    return cards


class CardMaker:
    """The run and its score by video, from which each card is made."""

    def __init__(self, run: Run, score: dict | None, start: int):
        matches = run.matches.reset_index(drop=True)
        others = rivals(matches, run.votes)
        facts = shares(matches, run.votes).assign(unsure=unsure(matches, others), rival=others)
        data, distance = run.data, run.votes.distance
        labels = data.labels[data.labels.product_id != ""]
        self._run, self._start = run, start
        self._match_of = {match.video_id: match for match in matches.join(facts).itertuples()}
        self._further = {}  # video_id -> rows of its further pairs
        for pair in run.pairs.itertuples():
            self._further.setdefault(pair.video_id, []).append(pair)
        self._video_of = {match.item_id: (match.video_id, match.distance) for match in matches.itertuples()}
        self._verdict_of = {row["video_id"]: row for row in score["per_video"]} if score else {}
        self._votes = run.votes[["item_id", "video_id", "frame_index", "distance", "kept", "weight"]]
        self._of_video = run.votes.groupby("video_id").indices
        self._of_item = run.votes.groupby("item_id").indices
        boxes = labels[BOX].to_numpy()
        of_picture = labels.groupby(["media_id", "product_id", "frame_index"]).indices
        self._boxes = {key: boxes[rows] for key, rows in of_picture.items()}
        self._frames = {}  # (media_id, item_id) -> the frames that are labelled with the item, rising
        for media_id, item_id, frame_index in sorted(of_picture):
            self._frames.setdefault((media_id, item_id), []).append(int(frame_index))
        self._labelled = {key: sorted(set(frames)) for key, frames in data.labelled.groupby("media_id").frame_index}
        photos = data.media[data.media.kind == "photo"]
        unread = photos.media_id.isin(run.skipped)
        unlabelled = [(media_id, item_id, 0) not in self._boxes for media_id, item_id in zip(photos.media_id, photos.item_id, strict=True)]
        photos = photos.assign(unread=unread, unlabelled=unlabelled).sort_values(["unread", "unlabelled"], kind="stable")
        self._photo_of = {photo.item_id: photo for photo in photos.drop_duplicates("item_id").itertuples()}
        videos = data.media[data.media.kind == "video"]
        self._unread = set(videos.item_id[videos.media_id.isin(run.skipped)])
        self._near_far = (float(distance.min()), float(distance.max()))

    def card(self, video) -> Card:
        """The card, without its pictures; video: a row of the data's media."""
        run, video_id = self._run, video.item_id
        match, verdict = self._match_of.get(video_id), self._verdict_of.get(video_id)
        card = Card(
            video_id,
            kind=run.data.kinds.get(video_id, ""),
            lost=self._why_lost(video_id),
            time_line=self._time_line(video),
            end=self._time(video.media_id, run.n_frames[video.media_id]) if video.media_id in run.n_frames else "",
        )
        if verdict is not None:
            card = replace(card, verdict="right" if verdict["right"] else "wrong", why=verdict["why"])
        if match is None:
            return card
        return replace(
            card,
            item_id=match.item_id,
            unsure=bool(match.unsure),
            distance=float(match.distance),
            probability=None if np.isnan(match.probability) else float(match.probability),
            figures=list(_figures(match)),
            levels=[(name, verdict[name]) for name in LEVELS] if verdict is not None else [],
        )

    def pictures(self, video) -> Iterator[Callable[[Reader], Picture]]:
        """Photos and frame of the match, or a frame of the video; of a wrong one also the right item's photo."""
        match, missed = self._match_of.get(video.item_id), self._missed(video.item_id)
        if match is None:
            yield self._some_frame(video, missed)
        else:
            pairs = [pair_of(row) for row in (match, *self._further.get(match.video_id, []))]
            for pair in pairs:
                boxes = {"found": pair.item_box}
                if match.item_id == missed:
                    boxes |= self._truth(pair.photo_id, 0, missed)
                caption = f"item {match.item_id} · photo {pair.img_name}"
                yield partial(photo_picture, caption, self._run.paths[pair.photo_id], boxes)
            boxes = {"found": np.stack([pair.frame_box for pair in pairs])}
            boxes |= self._truth(match.video_media_id, match.frame_index, missed)
            yield self._frame(match.video_media_id, match.frame_index, boxes)
        if missed and (match is None or match.item_id != missed):
            photo = self._photo_of[missed]
            caption = f"right: item {missed} · photo {photo.name}"
            yield partial(photo_picture, caption, photo.path, self._truth(photo.media_id, 0, missed))

    def _expected(self, video_id: str) -> str:
        """The item that the video should have, '' for none, or where no truth is known."""
        verdict = self._verdict_of.get(video_id)
        return (verdict["expected"] or "") if verdict else ""

    def _missed(self, video_id: str) -> str:
        """The same for a video that is wrong, '' for one that is right."""
        verdict = self._verdict_of.get(video_id)
        return self._expected(video_id) if verdict and not verdict["right"] else ""

    def _why_lost(self, video_id: str) -> str:
        match, missed = self._match_of.get(video_id), self._missed(video_id)
        if not missed or (match is not None and match.item_id == missed):
            return ""
        if video_id in self._unread:
            return ""  # the picture's place says why
        if video_id not in self._run.detected:
            return "No product was detected in this video."
        votes = self._votes.iloc[self._of_item.get(missed, [])]
        winner = None if match is None else (match.item_id, match.distance)
        return why_lost(missed, video_id, votes, winner, self._video_of.get(missed), self._run.rule)

    def _some_frame(self, video, missed: str) -> Callable[[Reader], Picture]:
        """The frame labelled with the missed item that is nearest to the first one that inference wants, else that one, or
        the last of a video that is shorter."""
        media_id = video.media_id
        if media_id in self._run.skipped:
            return lambda _: Picture("not read", fault=self._run.skipped[media_id])
        frame_index = min(self._start, self._run.n_frames[media_id] - 1)
        shown = self._frames.get((media_id, missed), [frame_index])
        frame_index = min(shown, key=lambda labelled: abs(labelled - frame_index))  # the first of two as near
        return self._frame(media_id, frame_index, self._truth(media_id, frame_index, missed))

    def _frame(self, media_id: str, frame_index: int, boxes: dict[str, np.ndarray]) -> Callable[[Reader], Picture]:
        caption = f"frame {frame_index}"
        if self._run.fps[media_id] > 0:
            caption += f" · {self._time(media_id, frame_index)}"
        return partial(frame_picture, caption, self._run.paths[media_id], boxes, frame_index)

    def _truth(self, media_id: str, frame_index: int, item_id: str) -> dict[str, np.ndarray]:
        """The labelled boxes of an item ('': none) in a picture, as `thumbnails.thumbnail` takes them."""
        boxes = self._boxes.get((media_id, item_id, frame_index))
        return {} if boxes is None else {"truth": boxes}

    def _time(self, media_id: str, frame_index: int) -> str:
        fps = self._run.fps[media_id]
        return f"{frame_index / fps:.1f}\N{NO-BREAK SPACE}s" if fps > 0 else f"frame {frame_index}"

    def _time_line(self, video) -> TimeLine | None:
        if video.media_id in self._run.skipped:
            return None
        match, expected = self._match_of.get(video.item_id), self._expected(video.item_id)
        return draw_time_line(
            self._votes.iloc[self._of_video.get(video.item_id, [])],
            "" if match is None else match.item_id,
            expected,
            n_frames=max(self._run.n_frames[video.media_id], 1),
            at=None if match is None else match.frame_index,
            shown=self._frames.get((video.media_id, expected), ()),
            labelled=self._labelled.get(video.media_id, ()),
            near_far=self._near_far,
            cut_off=self._run.rule["max_distance"],
        )


def _figures(match) -> Iterator[tuple[str, str]]:
    yield "distance", f"{match.distance:.3f}"
    if not np.isnan(match.probability):
        yield "probability", f"{match.probability:.0%}"
    yield "votes", f"{match.votes} of {match.item_votes}"
    yield "kept", f"{match.kept} of {match.item_kept}"
    yield "share", f"{match.share:.0%}"
    if isinstance(match.rival, Rival):
        yield "next item", f"{match.rival.item_id}, {match.rival.distance:.3f}"
