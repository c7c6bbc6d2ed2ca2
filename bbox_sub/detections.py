"""The steps detections/{photos,videos}: the detector over units of media, picture by picture as they come."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from bbox_sub.detect import Resized, detect_resized, resized
from bbox_sub.detector import INFERENCE_KEYS, detector_runtime, load_detector
from bbox_sub.still import frame_cells, frame_change
from shared.config import Config
from shared.dataset import media_fingerprint
from shared.quantized import runtime_settings
from shared.runtime import Runtime
from shared.tables import detection_table
from shared.units import KINDS, UNITS_PER_PART, Job, Picture, Unit, UnitEnd, UnitStep, units_of
from shared.weights import read_description, refuse_other_architecture
from shared.work import Step, fingerprint

log = logging.getLogger("detect")

BLOCK_BYTES = 64 * 2**20  # of pictures that are detected at once, however large the batch

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes, scores, labels of a picture


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that is to be detected, ready for the network; without `resized` it takes the boxes of the last detected one."""

    picture: Picture
    resized: Resized | None

    @property
    def nbytes(self) -> int:
        return self.picture.nbytes + (self.resized.picture.nbytes if self.resized else 0)


def read_trained(config: Config, weights: Path) -> dict:
    """The detector's model.json. Raises UserError where there is none, or the config has another detector."""
    folder = weights / "detector"
    description = read_description(folder)
    configured = config.detector.model_dump()
    refuse_other_architecture(folder, description["architecture"], configured, INFERENCE_KEYS | {"pretrained", "norm"})
    return description


def runtime_of(config: Config, weights: Path) -> Runtime:
    """What the trained detector runs on. Raises UserError as `read_trained` does, and where it cannot run so here, or lacks INT8 weights."""
    read_trained(config, weights)
    runtime = detector_runtime(config)
    runtime_settings(runtime, weights / "detector")
    return runtime


class Detections:
    """Both steps of one run. `jobs` tells what is to be done, `prepare` and `detect` are the stages of a flow, `put` takes a unit's
    end, `finish` closes the steps.

    runtime: as `runtime_of` gives it. Nothing is loaded before the first picture comes. Raises UserError where the config does not fit the
    trained detector.
    """

    def __init__(
        self, config: Config, runtime: Runtime, weights: Path, work: Path, media: pd.DataFrame, fresh: bool, strict: bool
    ):
        self._config, self._settings, self._folder = config, config.detect, weights / "detector"
        description = read_trained(config, weights)
        configured = config.detector.model_dump()
        self._chosen = {key: configured[key] for key in sorted(INFERENCE_KEYS)}
        self._runtime = runtime
        self._n_frames = self._n_reused = 0
        self._categories = description["architecture"]["categories"]
        self._depends = {kind: self._depends_of(kind, description) for kind in KINDS}
        self.units = units_of(media)
        self.steps = {}
        for kind in KINDS:
            of_kind = media[media.kind == kind[:-1]].reset_index(drop=True)
            depends = {**self._depends[kind], "parts": "by unit", "media": media_fingerprint(of_kind)}
            step = Step(work / "detections" / kind, depends, fresh, keep_before=True, strict=strict)
            n_units = sum(unit.kind == kind for unit in self.units)
            self.steps[kind] = UnitStep(step, n_units, UNITS_PER_PART[kind], {"table": detection_table([])})

    def _depends_of(self, kind: str, description: dict) -> dict:
        """What a unit's boxes depend on, but its media."""
        settings = self._settings
        if kind == "photos":
            own = {
                "score": settings.photo_score,
                "short_side": settings.photo_short_side,
                "keep_best": settings.keep_best_photo_box,
            }
        else:
            own = {
                "score": settings.video_score,
                "short_side": settings.video_short_side,
                "frames": self._config.frames.indices,
                "reuse_below": settings.reuse_below,
            }
        return {
            "weights": description["sha256"],
            "architecture": description["architecture"],
            "chosen": self._chosen,
            "runtime": runtime_settings(self._runtime, self._folder),
            "max_side": settings.max_side,
            "vote_iou": settings.vote_iou,
            "batch_size": settings.batch_size,
            **own,
        }

    @property
    def fingerprints(self) -> dict[str, str]:
        return {kind: units.step.fingerprint for kind, units in self.steps.items()}

    def known(self, unit: Unit) -> pd.DataFrame | None:
        """The unit's detections, where they stand or are as before; else None."""
        units = self.steps[unit.kind]
        tables = units.read(unit.number) if units.stands(unit.number) else units.kept(self._mark(unit))
        return tables and tables["table"]

    def jobs(self, due: Iterable[Unit]) -> Iterator[Job]:
        """What is to be done of units that do not stand, in a run of this stage alone."""
        for unit in due:
            table = self.known(unit)
            yield Job(unit, table, read=table is None)

    def prepare(self, events: Iterable[Picture | UnitEnd]) -> Iterator[Picture | Prepared | UnitEnd]:
        """Resizes the pictures that are to be detected."""
        settings, unit, shape, cells = self._settings, None, None, None
        for event in events:
            if not isinstance(event, Picture) or event.found is not None:
                yield event
                continue
            video = event.unit.kind == "videos"
            if video and settings.reuse_below:
                now = frame_cells(event.image_rgb)
                self._n_frames += 1
                alike = event.unit is unit and event.image_rgb.shape == shape  # its size may change within a video
                if alike and frame_change(now, cells) < settings.reuse_below:
                    self._n_reused += 1
                    yield Prepared(event, None)
                    continue
                unit, shape, cells = event.unit, event.image_rgb.shape, now  # compared with what was detected, so that a slow drift is seen
            short_side = settings.video_short_side if video else settings.photo_short_side
            yield Prepared(event, resized(event.image_rgb, short_side, settings.max_side))

    def detect(self, events: Iterable[Picture | Prepared | UnitEnd]) -> Iterator[Picture | UnitEnd]:
        """Finds boxes: gives the pictures that have some, with them, and each unit's end with its table."""
        model, block, rows, last = None, [], [], None
        for event in events:
            if isinstance(event, Prepared):
                model = model or self._load()
                block.append(event)
                if len(block) < self._settings.batch_size and sum(each.nbytes for each in block) < BLOCK_BYTES:
                    continue
            if block:
                found = iter(
                    detect_resized(model, [each.resized for each in block if each.resized], self._settings.batch_size)
                )
                for each in block:
                    last = next(found) if each.resized else last
                    boxes, scores, labels = self._kept(each.picture.unit.kind, last)
                    rows += detection_rows(each.picture, boxes, scores, labels, self._categories)
                    if len(boxes):
                        yield replace(each.picture, found=boxes)
                block = []
            if isinstance(event, UnitEnd):
                if event.detections is None:
                    lost = {entry["media_id"] for entry in event.skipped}
                    event = replace(event, detections=detection_table([row for row in rows if row[0] not in lost]))
                rows = []
            if not isinstance(event, Prepared):
                yield event

    def _kept(self, kind: str, found: Found) -> Found:
        boxes, scores, labels = found  # best first
        if kind == "videos":
            n_kept = int((scores >= self._settings.video_score).sum())
        else:
            n_kept = max(int((scores >= self._settings.photo_score).sum()), int(self._settings.keep_best_photo_box))
        return boxes[:n_kept], scores[:n_kept], labels[:n_kept]

    def _load(self):
        settings = self._settings
        least = 0.0 if settings.keep_best_photo_box else settings.photo_score
        model, _ = load_detector(
            self._folder,
            runtime=self._runtime,
            least_score=min(least, settings.video_score),
            vote_iou=settings.vote_iou,
            **self._chosen,
        )
        return model

    def put(self, end: UnitEnd) -> None:
        """Takes what was found in a unit, if it does not stand."""
        units = self.steps[end.unit.kind]
        if not units.stands(end.unit.number):
            units.put(end.unit.number, self._mark(end.unit), {"table": end.detections}, end.skipped)

    def finish(self) -> None:
        if self._n_frames:
            words = "%d of %d frames barely differed from the last detected one and took its boxes (detect.reuse_below %g)"
            log.info(words, self._n_reused, self._n_frames, self._settings.reuse_below)
        for units in self.steps.values():
            units.finish()

    def _mark(self, unit: Unit) -> str:
        return fingerprint([self._depends[unit.kind], media_fingerprint(unit.media)])


def detection_rows(
    picture: Picture, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, categories: list[str]
) -> list[tuple]:
    medium = picture.medium
    return [
        (medium.media_id, medium.item_id, medium.name, picture.frame_index, rank, *box, score, categories[label - 1])
        for rank, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True))
    ]
