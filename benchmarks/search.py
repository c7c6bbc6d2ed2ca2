"""Our exact search against NumPy and plain FAISS, alone and with the votes behind it, and some indexes: in turns (A B A B), with recall.

    bash run.sh bench search [--queries 2000] [--vectors 100000] [--dimension 512] [--rounds 5] [--exact] [--json FILE]

The vectors of ten photo boxes of an item, and of twenty frame boxes of a video, are drawn around a centre, and read from a memory-mapped
file by every side in a process of its own. `numpy` takes the largest product in blocks; `faiss.knn` and `IndexFlatL2` give one neighbour
and check nothing; ours is exact to the float. Recall@1 is against numpy. In the second table a loop over pandas groups counts numpy's and
FAISS's neighbours as votes, by the plain rule, and our counting ours. CPU ms, of all threads, say more on a machine that does other work.
Numpy and FAISS run as they come, ours and the indexes as run.sh sets memory and threads and with the matrix kernels that we have FAISS
take, as the further side `faiss.knn, these kernels`. Peak memory counts the libraries and what of the file was read.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.side_by_side import measure, publish, report_of
from benchmarks.voting import PHOTO_BOXES, PLAIN, RULE, VIDEO_BOXES, box_table, match_by_loop
from metric_sub.faiss_kernels import import_faiss
from metric_sub.index import recall_against_exact, search_by
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from shared.cli import use_threads
from shared.config import Search

faiss = import_faiss()  # with our choice of kernels, but in the sides that run as they come
INDEXES = {  # factory string -> parameters
    "IVF256,Flat": {"nprobe": 16},
    "HNSW16": {"efSearch": 64},
    "IVF256,PQ64": {"nprobe": 16},
}
CANDIDATES = 64
PLAINLY = ("numpy", "faiss.knn", "IndexFlatL2")
THESE_KERNELS = "faiss.knn, these kernels"
OURS = "ours"
SPREAD = 0.7  # length of what a vector has of its own, beside a centre of length 1
NUMPY_BLOCK = 256  # queries

Neighbours = tuple[np.ndarray, np.ndarray]  # distances (N, 1) float32, indices (N, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench search", description=__doc__.splitlines()[0])
    for name, default in (("queries", 2000), ("vectors", 100_000), ("dimension", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--threads", type=int, default=0, help="of FAISS and ours; numpy has its own (default: every core)")
    parser.add_argument("--exact", action="store_true", help="leave the indexes out, which take a while to build")
    parser.add_argument("--folder", type=Path, help="where the vectors are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        query, gallery = drawn_vectors(options)
        print(f"{len(query)} x {len(gallery)} vectors of {options.dimension} values, {faiss.omp_get_max_threads()} threads")
        publish([compare_searches(query, gallery, options), compare_votes(options)], options.json)


def compare_searches(query: np.ndarray, gallery: np.ndarray, options: argparse.Namespace) -> dict:
    """The report of the searches alone."""
    beside: dict[str, dict] = {name: {} for name in (*PLAINLY, THESE_KERNELS, OURS)}
    for name in () if options.exact else INDEXES:
        started = time.perf_counter()
        search = index_search(name, len(query), gallery, options.folder, fresh=True)
        made = time.perf_counter() - started
        recall = recall_against_exact(search, query, gallery, n_queries=1000, seed=0)["recall_at_10"]
        beside[name] = {"recall@10": recall, "built, s": round(made, 1)}
    sides = {name: partial(prepare, name, options) for name in beside}
    measured = measure(
        sides, rounds=options.rounds, in_children=True, threads=options.threads, as_they_come=PLAINLY
    )
    right = measured["numpy"].gave[1]
    for name, side in measured.items():
        beside[name] = {"recall@1": float((side.gave[1] == right).mean()), **beside[name]}
    return report_of("search", measured, base="numpy", unit="query", per_call=len(query), beside=beside)


def compare_votes(options: argparse.Namespace) -> dict:
    """The report of searching and voting, by the plain rule."""
    names = {"numpy, pandas": "numpy", "faiss.knn, pandas": "faiss.knn", OURS: OURS}
    sides = {side: partial(prepare_votes, search, options) for side, search in names.items()}
    plainly = [side for side in names if side != OURS]
    measured = measure(
        sides, rounds=options.rounds, in_children=True, threads=options.threads, as_they_come=plainly
    )
    right = measured["numpy, pandas"].gave
    beside = {
        name: {"matches": len(side.gave), "equal": len(side.gave.items() & right.items())} for name, side in measured.items()
    }
    return report_of("search and vote", measured, base="numpy, pandas", unit="query", per_call=options.queries, beside=beside)


def prepare(name: str, options: argparse.Namespace) -> Callable[[], Neighbours]:
    """A search of all queries; an index is read from the folder, where it is built."""
    query, gallery = drawn_vectors(options)
    if name == "numpy":
        return partial(by_numpy, query, gallery)
    if name in ("faiss.knn", THESE_KERNELS):
        return partial(by_faiss, query, gallery)
    if name == "IndexFlatL2":
        flat = faiss.IndexFlatL2(gallery.shape[1])
        flat.add(np.ascontiguousarray(gallery))
        return partial(flat.search, query, 1)
    if name == OURS:
        return partial(nearest, query, gallery)
    return partial(index_search(name, len(query), gallery, options.folder, fresh=False), query, gallery, 1)


def index_search(name: str, n_queries: int, gallery: np.ndarray, folder: Path, *, fresh: bool) -> Callable[..., Neighbours]:
    settings = Search(
        index=name, parameters=INDEXES[name], candidates=CANDIDATES, train_rows=20_000, recall_queries=n_queries
    )
    return search_by(settings, gallery, "drawn", folder / name.replace(",", "-"), seed=0, fresh=fresh)


def prepare_votes(search: str, options: argparse.Namespace) -> Callable[[], dict[str, str]]:
    """That search with the votes behind it: ours by our counting, the others' by a loop over pandas groups."""
    find = prepare(search, options)
    rng = np.random.default_rng(0)
    place = np.arange(max(options.queries, options.vectors))
    photos = box_table(rng, "item_id", place[: options.queries] // PHOTO_BOXES, place[: options.queries] % PHOTO_BOXES)
    videos = box_table(rng, "video_id", place[: options.vectors] // VIDEO_BOXES, place[: options.vectors] % VIDEO_BOXES)

    def by_loop() -> dict[str, str]:
        distances, indices = find()
        video_ids = videos.video_id.to_numpy()[indices[:, 0]]
        votes = pd.DataFrame({"item_id": photos.item_id, "video_id": video_ids, "distance": distances[:, 0]})
        return match_by_loop(votes, **RULE)

    def by_us() -> dict[str, str]:
        matches = match_items(cast_votes(photos, videos, *find()), **RULE, **PLAIN)[0]
        return dict(zip(matches.item_id, matches.video_id, strict=True))

    return by_us if search == OURS else by_loop


def drawn_vectors(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """(queries, gallery) of unit length, float32, memory-mapped from the folder, drawn where they are not there.

    Queries are photo boxes, ten in a row of each item, the gallery frame boxes, twenty in a row of each video; the first item is in
    the first video, and so on.
    """
    n_centres = 1 + max(options.queries // PHOTO_BOXES, options.vectors // VIDEO_BOXES)
    centres = unit(np.random.default_rng(0).normal(size=(n_centres, options.dimension)))
    drawn = []
    for name, n, n_boxes in (("photos", options.queries, PHOTO_BOXES), ("videos", options.vectors, VIDEO_BOXES)):
        path, rng = options.folder / f"{name}-{n}x{options.dimension}-of-{n_centres}.npy", np.random.default_rng(n_boxes)
        if not path.exists():
            vectors = np.lib.format.open_memmap(path, "w+", np.float32, (n, options.dimension))
            for start in range(0, n, 8192):
                rows = vectors[start : start + 8192]
                own = unit(rng.normal(size=rows.shape))
                number = np.arange(start, start + len(rows)) // n_boxes
                rows[:] = unit(centres[number] + SPREAD * own)
            vectors.flush()
        # Plain arrays over the mapped files: FAISS's bindings for torch, where a library loads them, know no other.
        drawn.append(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
    return drawn[0], drawn[1]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_numpy(query: np.ndarray, gallery: np.ndarray) -> Neighbours:
    """The nearest row of each query, by the largest dot product of unit vectors."""
    distances, indices = [], []
    for k in range(0, len(query), NUMPY_BLOCK):
        products = query[k : k + NUMPY_BLOCK] @ gallery.T
        indices.append(products.argmax(axis=1))
        distances.append(np.sqrt(np.maximum(2 - 2 * products[np.arange(len(products)), indices[-1]], 0)))
    return np.concatenate(distances)[:, None], np.concatenate(indices)[:, None]


def by_faiss(query: np.ndarray, gallery: np.ndarray) -> Neighbours:
    squares, indices = faiss.knn(query, gallery, 1)
    return np.sqrt(squares), indices


if __name__ == "__main__":
    main()
