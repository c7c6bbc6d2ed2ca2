"""Approximate nearest neighbours: a FAISS index of any factory string proposes, true distances decide.

The index is trained, filled and kept in <work>/index, and reused while the vectors and what it is built by stay the same.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from metric_sub.search import BLOCK_ROWS, largest_norm, nearest, rank_candidates
from shared.config import Search
from shared.errors import UserError
from shared.work import Step, chunks

log = logging.getLogger("match")

EXACT = "exact"
FILE = "vectors.faiss"
RECALL_AT = (1, 10)

# (query (N, D), gallery (M, D), n_neighbours) -> distances (N, k) float32, indices (N, k) int64, as `search.nearest`
NearestSearch = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class IndexSearch:
    """Searches by an index of a gallery's vectors; called like `search.nearest` with that gallery."""

    index: faiss.Index
    name: str  # of the config: its factory string
    candidates: int

    def __call__(self, query: np.ndarray, gallery: np.ndarray, n_neighbours: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N, k) float32, rising, and indices (N, k) int64, with k = min(n_neighbours, M).

        The index proposes `candidates` rows (or k, if that is more); the nearest k of these by their true distance,
        computed and rounded as `search.nearest` does, are the answer, equal ones by index. Where the index proposes fewer
        than k, as few probes may, that query is searched exactly.
        Raises UserError where a vector is not finite or FAISS cannot search so, ValueError where shapes do not fit.
        """
        if query.ndim != 2 or gallery.shape != (self.index.ntotal, self.index.d) or query.shape[1] != self.index.d:
            raise ValueError(
                f"expected (N, {self.index.d}) and ({self.index.ntotal}, {self.index.d}), found {query.shape} and {gallery.shape}"
            )
        k = min(n_neighbours, len(gallery))
        width = min(max(self.candidates, k), len(gallery))
        distances, indices = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
        for rows in chunks(len(query), BLOCK_ROWS):
            block = np.ascontiguousarray(query[rows], np.float32)
            largest_norm(block, "query")
            with _faults_named(self.name, len(gallery), self.index.d):
                candidates = self.index.search(block, width)[1]  # (n, width); -1: none
            found = (candidates >= 0) & (candidates < len(gallery))  # a damaged index may tell of any
            distances[rows], indices[rows] = rank_candidates(block, gallery, candidates, found, k, BLOCK_ROWS)
            if len(short := np.flatnonzero(found.sum(axis=1) < k)):
                log.info(
                    "index: proposed too few for %d of %d queries; these are searched exactly", len(short), len(block)
                )
                distances[rows.start + short], indices[rows.start + short] = nearest(block[short], gallery, k)
        return distances, indices


def empty_index(settings: Search, dimension: int) -> faiss.Index:
    """The index of the config, for vectors of `dimension` values, untrained. Raises UserError for what FAISS does not know."""
    with _faults_named(settings.index, 0, dimension):
        index = faiss.index_factory(dimension, settings.index, faiss.METRIC_L2)
    _set_parameters(index, settings)
    return index


def search_by(
    settings: Search, gallery: np.ndarray, fingerprint: str, folder: Path, *, seed: int, fresh: bool
) -> NearestSearch:
    """The search that the config names over `gallery` (M, D) float32, memory-mapped or not, with that fingerprint.

    `exact` (or an empty gallery): `search.nearest`. Else the index in `folder`, built where it does not stand there already:
    trained on `search.train_rows` vectors at most, drawn with the seed, and filled block by block; the vectors themselves need
    not fit in memory, though the index must. Raises UserError where FAISS does not know the string, or has too few vectors.
    """
    if settings.index == EXACT or not len(gallery):
        return nearest
    built_by = {name: value for name, value in settings.parameters.items() if name.endswith("efConstruction")}
    step = Step(
        folder,
        {"index": settings.index, "train_rows": settings.train_rows, "seed": seed, "vectors": fingerprint, **built_by},
        fresh,
    )
    path = step.folder / FILE
    if not step.done:
        index = _fill(empty_index(settings, gallery.shape[1]), settings, gallery, seed)
        step.write_file(FILE, lambda beside: faiss.write_index(index, str(beside)), rows=index.ntotal)
        log.info("%s: %s over %d vectors, %.1f MB", folder, settings.index, index.ntotal, path.stat().st_size / 1e6)
    n_bytes = path.stat().st_size  # a damaged file may claim to hold any number of values, or of lists of them
    faiss.set_deserialization_vector_byte_limit(n_bytes)
    faiss.set_deserialization_loop_limit(n_bytes)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)  # the limit would be for that table too
        _precompute(index)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"{path}: FAISS cannot read it ({_said(error):.200}). Remove {folder} and run again.") from None
    if index is None:  # FAISS has a word for no index at all
        raise UserError(f"{path}: expected FAISS's index, found none in it. Remove {folder} and run again.")
    if (index.ntotal, index.d, index.is_trained) != (*gallery.shape, True):
        raise UserError(
            f"{path}: expected an index of {len(gallery)} vectors of {gallery.shape[1]} values, found one of {index.ntotal} of "
            f"{index.d}. Remove {folder} and run again."
        )
    _set_parameters(index, settings)
    return IndexSearch(index, settings.index, settings.candidates)


def _fill(index: faiss.Index, settings: Search, gallery: np.ndarray, seed: int) -> faiss.Index:
    n_train = min(settings.train_rows, len(gallery))
    chosen = np.sort(np.random.default_rng(seed).choice(len(gallery), n_train, replace=False))
    for rows in chunks(len(gallery), BLOCK_ROWS):
        largest_norm(gallery[rows], "gallery")
    with _faults_named(settings.index, len(gallery), index.d):
        index.train(np.ascontiguousarray(gallery[chosen], np.float32))
        for rows in chunks(len(gallery), BLOCK_ROWS):
            index.add(np.ascontiguousarray(gallery[rows], np.float32))
    return index


def _precompute(index: faiss.Index) -> None:
    """What FAISS computes of an IVF...,PQ... index to search it faster, and does not write. More than 2 GB it does without, but for
    the lists of IMI..., which are left as they are."""
    lists = index and faiss.try_extract_index_ivf(index)
    lists = lists and faiss.downcast_index(lists)
    if isinstance(lists, faiss.IndexIVFPQ) and not isinstance(faiss.downcast_index(lists.quantizer), faiss.MultiIndexQuantizer):
        lists.precompute_table()


def _set_parameters(index: faiss.Index, settings: Search) -> None:
    for name, value in settings.parameters.items():
        try:
            faiss.ParameterSpace().set_index_parameter(index, name, value)
        except RuntimeError:
            raise UserError(
                f"search.parameters: {settings.index!r} has no parameter {name!r} that FAISS could set to {value:g}. Expected, for "
                "example, nprobe for IVF..., efSearch for HNSW..., quantizer_efSearch for IVF..._HNSW..., or {} for none."
            ) from None


def recall_against_exact(
    search: NearestSearch, query: np.ndarray, gallery: np.ndarray, *, n_queries: int, seed: int
) -> dict:
    """{queries, recall_at_1, recall_at_10}: how many of the truly nearest a search finds, on queries drawn with the seed.

    recall@k is the share of the k neighbours found that are as near as the k-th of the exact search (so of equally near
    vectors any will do), over all queries. 1.0 is exact. None where there is nothing to ask.
    """
    n = min(n_queries, len(query))
    chosen = np.sort(np.random.default_rng(seed).choice(len(query), n, replace=False))
    asked = np.asarray(query[chosen], np.float32)
    recall: dict = {"queries": n}
    exact = nearest(asked, gallery, max(RECALL_AT))[0]  # (n, k)
    for k in RECALL_AT:
        distances = search(asked, gallery, k)[0]
        as_near = distances <= exact[:, : distances.shape[1]][:, -1:]
        recall[f"recall_at_{k}"] = float(as_near.mean()) if as_near.size else None
    return recall


@contextlib.contextmanager
def _faults_named(name: str, n: int, dimension: int) -> Iterator[None]:
    """FAISS's errors as UserErrors that name the key."""
    try:
        yield
    except RuntimeError as error:
        said = _said(error)
        of = f"{n} vectors of {dimension} values" if n else f"vectors of {dimension} values"
        raise UserError(
            f"search.index: FAISS refuses {name!r} for {of}: {said}. Expected exact, or a string of FAISS's index "
            "factory that fits them, such as IVF256,Flat (which needs 256 vectors or more), HNSW32 or PQ64 (see docs/matching.md)."
        ) from None


def _said(error: RuntimeError) -> str:
    """What FAISS says, without its own place."""
    return re.sub(r"^.*? at \S+:\d+: (?:Error: )?", "", str(error), flags=re.DOTALL).strip()
