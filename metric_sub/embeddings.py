"""The steps embeddings/{photos,videos}: the embedders over the boxes of units of media, picture by picture as they come."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.embed import CropEmbedder, Crops
from metric_sub.embedder import INFERENCE_KEYS, load_embedders, read_embedder
from metric_sub.search import BLOCK_ROWS, largest_norm
from metric_sub.whitening import Descriptors, load_descriptors, read_whitening
from shared.config import Config
from shared.dataset import media_fingerprint
from shared.errors import UserError
from shared.flow import Flow
from shared.progress import progress_bar
from shared.quantized import runtime_settings
from shared.reader import open_reader
from shared.runtime import Runtime, choose_runtime
from shared.tables import DETECTION_COLUMNS, detection_table
from shared.units import (
    AGAIN,
    KINDS,
    UNITS_PER_PART,
    Job,
    Picture,
    Unit,
    UnitEnd,
    UnitStep,
    due_units,
    read_units,
    units_of,
)
from shared.weights import read_description, refuse_other_architecture
from shared.work import Step, chunks, fingerprint, read_step, table_fingerprint, worth_another_try

WINDOW_BYTES = 64 * 2**20  # of crops that are embedded at once


def read_trained(config: Config, weights: Path) -> dict[Path, dict]:
    """Each embedder's folder and its model.json, in the config's order. Raises UserError where config and training differ, in
    what the descriptors learnt too."""
    trained = {weights / model.name: read_description(weights / model.name) for model in config.embedders}
    for (folder, description), model in zip(trained.items(), config.embedders, strict=True):
        read_embedder(folder)  # refuses what is no embedder
        architecture = description["architecture"]
        refuse_other_architecture(
            folder, architecture["model"], model.model_dump(), set(architecture["model"]) - {"backbone", "input_size", "aspect_groups"}
        )
        refuse_other_architecture(folder, architecture["shape"], config.embed.model_dump(), INFERENCE_KEYS)
    read_whitening(config.descriptors, weights)
    return trained


def runtime_of(config: Config, weights: Path) -> Runtime:
    """What the trained embedders run on. Raises UserError as `read_trained` does, and where they cannot run so here, or lack INT8 weights."""
    trained = read_trained(config, weights)
    runtime = choose_runtime(config.runtime)
    runtime_settings(runtime, *trained)
    return runtime


def vector_length(trained: dict[Path, dict], descriptors: Descriptors) -> int:
    """How many values a box's vector has by all the models that `read_trained` gives and the descriptors."""
    learned = sum(model["networks"] * model["architecture"]["shape"]["dimension"] for model in trained.values())
    return learned + sum(descriptors.lengths)


def boxes_and_vectors(step: Step) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of a finished step of embeddings/ and its vectors, row by row. Raises UserError where they do not fit."""
    table, vectors = step.table("table", DETECTION_COLUMNS), step.vectors()
    if len(table) != len(vectors):
        raise UserError(f"{step.folder}: {len(table)} boxes and {len(vectors)} vectors. Remove it and run infer again.")
    return table, vectors


def both_sides(photos: Step, videos: Step) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """Of two finished steps of embeddings/, such as those of photos and of videos: the boxes (N rows), their vectors (N, D) float32, and
    the same of the other (M rows, (M, D)). Raises UserError where vectors are not finite, or the two have another D."""
    sides = *boxes_and_vectors(photos), *boxes_and_vectors(videos)
    for step, vectors in ((photos, sides[1]), (videos, sides[3])):
        for rows in chunks(len(vectors), BLOCK_ROWS):
            largest_norm(vectors[rows], str(step.folder))
    lengths = [vectors.shape[1] for vectors in sides[1::2]]
    if len(set(lengths)) > 1:
        raise UserError(
            f"{videos.folder}: expected vectors of {lengths[0]} values as in {photos.folder}, found {lengths[1]}. Remove both and run again."
        )
    return sides


@dataclass(frozen=True, eq=False)
class Cut:
    """A picture's crops, and the medium that they come from."""

    media_id: str
    crops: Crops

    @property
    def nbytes(self) -> int:
        return self.crops.nbytes


@dataclass(frozen=True, eq=False)
class Embedded:
    """A unit's end with its vectors, (N, D) float32, row by row of its detections."""

    end: UnitEnd
    vectors: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes


class Embeddings:
    """Both steps of one run. `wants` tells whose pictures are needed, `cut` and `embed` are the stages of a flow, `put` takes a unit,
    `finish` closes the steps.

    runtime: as `runtime_of` gives it. detections: fingerprints of the steps detections/<kind>. No embedder is loaded before the first
    box comes. Raises UserError where the config does not fit the trained embedders.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        weights: Path,
        work: Path,
        media: pd.DataFrame,
        detections: dict[str, str],
        fresh: bool,
    ):
        self._config, self._trained = config, read_trained(config, weights)
        self._descriptors = load_descriptors(config.descriptors, weights)
        self._runtime = runtime
        self._settings = {
            "weights": [description["sha256"] for description in self._trained.values()],
            "architectures": [description["architecture"] for description in self._trained.values()],
            "batch_size": config.embed.batch_size,
            "flip": config.embed.flip,
            "descriptors": self._descriptors.settings,
            "runtime": runtime_settings(self._runtime, *self._trained),
        }
        self.units = units_of(media)
        self.steps = {}
        self._no_vectors = np.zeros((0, vector_length(self._trained, self._descriptors)), np.float32)
        empty = {"table": detection_table([]), "vectors": self._no_vectors}
        for kind in KINDS:
            depends = {"detections": detections[kind], "parts": "by unit", **self._settings}
            step = Step(work / "embeddings" / kind, depends, fresh, keep_before=True)
            n_units = sum(unit.kind == kind for unit in self.units)
            self.steps[kind] = UnitStep(step, n_units, UNITS_PER_PART[kind], empty)

    def wants(self, unit: Unit, detections: pd.DataFrame) -> bool:
        """Whether a unit's pictures are needed: it has boxes and neither stands nor is as before."""
        return (
            len(detections) > 0
            and not self.steps[unit.kind].stands(unit.number)
            and self._kept(unit, detections) is None
        )

    def cut(self, events: Iterable[Picture | UnitEnd]) -> Iterator[Cut | UnitEnd]:
        """Cuts the crops of the pictures' boxes."""
        for event in events:
            if isinstance(event, Picture):
                yield Cut(event.medium.media_id, self._embedder.cut(event.image_rgb, event.found))
            else:
                yield event

    def embed(self, events: Iterable[Cut | UnitEnd]) -> Iterator[Embedded]:
        """Embeds the crops, those of several units at once where a vector does not depend on the others of its batch."""
        alone = self._runtime.engine != "openvino"  # OpenVINO's vectors do not, torch's last bits do
        waiting, vectors, n_bytes = [], [], 0  # vectors: those there are of a unit that has not come to its end
        for event in events:
            if isinstance(event, UnitEnd) and (kept := self._kept(event.unit, event.detections)) is not None:
                while waiting and isinstance(waiting[-1], Cut):
                    n_bytes -= waiting.pop().nbytes
                event = Embedded(event, kept)
            waiting.append(event)
            n_bytes += event.nbytes
            part_ends = not isinstance(event, Cut) and (alone or self._ends_part(event))
            if part_ends or n_bytes >= WINDOW_BYTES:
                yield from self._embed(waiting, vectors)
                waiting, n_bytes = [], 0
        yield from self._embed(waiting, vectors)

    def _ends_part(self, event: UnitEnd | Embedded) -> bool:
        unit = (event.end if isinstance(event, Embedded) else event).unit
        return (unit.number + 1) % UNITS_PER_PART[unit.kind] == 0

    def _embed(self, events: list[Cut | UnitEnd | Embedded], vectors: list[tuple[str, np.ndarray]]) -> Iterator[Embedded]:
        """The units that end in `events`. vectors: (media_id, (N, D)) of the unit that is open before them, and then after them."""
        cuts = [event.crops for event in events if isinstance(event, Cut)]
        embedded = self._embedder.embed(cuts) if cuts else np.zeros((0, 0))
        parts = iter(np.split(embedded, np.cumsum([len(each) for each in cuts])))
        for event in events:
            if isinstance(event, Cut):
                vectors.append((event.media_id, next(parts)))
                continue
            if isinstance(event, UnitEnd):
                # A video that failed midway has vectors of frames that do not count.
                media = set(event.detections.media_id)
                rows = [part for media_id, part in vectors if media_id in media]
                event = Embedded(event, np.concatenate([self._no_vectors, *rows]))
            vectors.clear()
            yield event

    @cached_property
    def _embedder(self) -> CropEmbedder:
        flip = self._config.embed.flip
        models = [load_embedders(folder, runtime=self._runtime, flip=flip) for folder in self._trained]
        return CropEmbedder(models, self._config.embed.batch_size, self._descriptors)

    def put(self, embedded: Embedded) -> None:
        """Takes a unit, if it does not stand."""
        unit, table = embedded.end.unit, embedded.end.detections
        units = self.steps[unit.kind]
        if not units.stands(unit.number):
            mark = AGAIN if worth_another_try(embedded.end.skipped) else self._mark(unit, table)
            units.put(unit.number, mark, {"table": table, "vectors": embedded.vectors}, [])

    def finish(self, detections: dict[str, str]) -> dict[str, Step]:
        """The finished steps. detections: as in the beginning, but of the finished steps, which may lack something."""
        return {kind: units.finish(detections=detections[kind]) for kind, units in self.steps.items()}

    def _kept(self, unit: Unit, detections: pd.DataFrame) -> np.ndarray | None:
        tables = self.steps[unit.kind].kept(self._mark(unit, detections))
        return tables and tables["vectors"]

    def _mark(self, unit: Unit, detections: pd.DataFrame) -> str:
        media = unit.media[unit.media.media_id.isin(detections.media_id)]
        return fingerprint([self._settings, table_fingerprint(detections), media_fingerprint(media)])


def embed_detections(config: Config, options: argparse.Namespace, media: pd.DataFrame) -> dict[str, Step]:
    """The finished steps embeddings/<kind>, by kind: the detections' keys (`table`) and their unit vectors, row by row.

    Items and videos whose files, detections and embedders are as in the step before keep their vectors: only the others are
    embedded.
    """
    found = {kind: read_step(options.work / "detections" / kind) for kind in KINDS}
    fingerprints = {kind: step.fingerprint for kind, step in found.items()}
    runtime = runtime_of(config, options.weights)
    embeddings = Embeddings(config, runtime, options.weights, options.work, media, fingerprints, options.fresh)
    n_units = Counter(unit.kind for unit in embeddings.units)
    detections = {
        kind: UnitStep(step, n_units[kind], UNITS_PER_PART[kind], {"table": detection_table([])})
        for kind, step in found.items()
    }
    due = due_units(embeddings.units, embeddings.steps)

    def jobs() -> Iterator[Job]:
        for unit in due:
            table = detections[unit.kind].read(unit.number)["table"]
            if strange := set(table.media_id) - set(unit.media.media_id):
                raise UserError(
                    f"{found[unit.kind].folder}: has boxes of {min(strange)}, which {options.work / 'media'} does not have there. "
                    "Run stage 1 again."
                )
            yield Job(unit, table, embeddings.wants(unit, table))

    total = len(embeddings.units)
    with (
        progress_bar(total=total, title="embed", unit="unit", done=total - len(due)) as bar,
        open_reader(config.data) as reader,
        Flow() as flow,
    ):
        read = flow.ahead(read_units(jobs(), reader, config.frames.indices))
        for embedded in flow.ahead(embeddings.embed(flow.ahead(embeddings.cut(read)))):
            embeddings.put(embedded)
            bar.update()
    return embeddings.finish(fingerprints)
