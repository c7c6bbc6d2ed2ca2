"""Our exact search against NumPy and plain FAISS, alone and with the votes behind it, and some indexes: in turns (A B A B), with recall.

    bash run.sh bench search [--queries 2000] [--vectors 100000] [--dimension 512] [--rounds 5] [--exact] [--json FILE]

The vectors of ten photo boxes of an item, and of twenty frame boxes of a video, are drawn around a centre, and read from a memory-mapped
file. `numpy` takes the largest product in blocks; `faiss.knn` and `IndexFlatL2` give one neighbour and check nothing; ours is exact to the
float. Recall@1 is against numpy. In the second table a loop over pandas groups counts numpy's and FAISS's neighbours as votes, by the
plain rule, and our counting ours. CPU ms, of all threads, say more on a machine that does other work. The extra memory is what a
process that searches takes at its peak beyond one that only reads the vectors.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pandas as pd

from benchmarks.side_by_side import measure, publish, report_of
from benchmarks.voting import PHOTO_BOXES, PLAIN, RULE, VIDEO_BOXES, box_table, match_by_loop
from metric_sub.index import recall_against_exact, search_by
from metric_sub.search import nearest
from metric_sub.vote import cast_votes, match_items
from shared.cli import use_threads
from shared.config import Search

INDEXES = {  # factory string -> parameters
    "IVF256,Flat": {"nprobe": 16},
    "HNSW16": {"efSearch": 64},
    "IVF256,PQ64": {"nprobe": 16},
}
CANDIDATES = 64
SPREAD = 0.7  # length of what a vector has of its own, beside a centre of length 1
NUMPY_BLOCK = 256  # queries

Neighbours = tuple[np.ndarray, np.ndarray]  # distances (N, 1) float32, indices (N, 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench search", description=__doc__.splitlines()[0])
    for name, default in (("queries", 2000), ("vectors", 100_000), ("dimension", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--threads", type=int, default=0, help="of FAISS and ours; numpy has its own (default: every core)")
    parser.add_argument("--exact", action="store_true", help="leave the indexes out, which take a while to build")
    parser.add_argument("--only", choices=["read", "nearest"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the vectors are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    use_threads(options.threads)
    if options.only:
        measure_memory(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        query, gallery = drawn_vectors(options)
        print(f"{len(query)} x {len(gallery)} vectors of {options.dimension} values, {faiss.omp_get_max_threads()} threads")
        publish([compare_searches(query, gallery, options), compare_votes(query, gallery, options.rounds)], options.json)


def compare_searches(query: np.ndarray, gallery: np.ndarray, options: argparse.Namespace) -> dict:
    """The report of the searches alone."""
    flat = faiss.IndexFlatL2(gallery.shape[1])
    flat.add(np.ascontiguousarray(gallery))
    searches: dict[str, Callable[[], Neighbours]] = {
        "numpy": lambda: by_numpy(query, gallery),
        "faiss.knn": lambda: faiss.knn(query, gallery, 1),
        "IndexFlatL2": lambda: flat.search(query, 1),
        "ours": lambda: nearest(query, gallery),
    }
    beside: dict[str, dict] = {name: {} for name in searches}
    for name, parameters in ({} if options.exact else INDEXES).items():
        settings = Search(
            index=name, parameters=parameters, candidates=CANDIDATES, train_rows=20_000, recall_queries=len(query)
        )
        started = time.perf_counter()
        search = search_by(settings, gallery, "drawn", options.folder / name.replace(",", "-"), seed=0, fresh=True)
        made = time.perf_counter() - started
        recall = recall_against_exact(search, query, gallery, n_queries=1000, seed=0)["recall_at_10"]
        beside[name] = {"recall@10": recall, "built, s": round(made, 1)}
        searches[name] = lambda search=search: search(query, gallery, 1)
    measured = measure({name: lambda call=call: call for name, call in searches.items()}, rounds=options.rounds)
    right = measured["numpy"].gave[1]
    for name, side in measured.items():
        beside[name] = {"recall@1": float((side.gave[1] == right).mean()), **beside[name]}
    peaks = [peak_of(name, options) for name in ("read", "nearest")]
    beside["ours"]["extra MB"] = round((peaks[1] - peaks[0]) / 1e6)
    return report_of("search", measured, base="numpy", unit="query", per_call=len(query), beside=beside)


def compare_votes(query: np.ndarray, gallery: np.ndarray, rounds: int) -> dict:
    """The report of searching and voting, by the plain rule."""
    rng = np.random.default_rng(0)
    place = np.arange(max(len(query), len(gallery)))
    photos = box_table(rng, "item_id", place[: len(query)] // PHOTO_BOXES, place[: len(query)] % PHOTO_BOXES)
    videos = box_table(rng, "video_id", place[: len(gallery)] // VIDEO_BOXES, place[: len(gallery)] % VIDEO_BOXES)

    def by_loop(search: Callable[[], Neighbours]) -> dict[str, str]:
        distances, indices = search()
        video_ids = videos.video_id.to_numpy()[indices[:, 0]]
        votes = pd.DataFrame({"item_id": photos.item_id, "video_id": video_ids, "distance": distances[:, 0]})
        return match_by_loop(votes, **RULE)

    def by_us() -> dict[str, str]:
        matches = match_items(cast_votes(photos, videos, *nearest(query, gallery)), **RULE, **PLAIN)[0]
        return dict(zip(matches.item_id, matches.video_id, strict=True))

    def by_faiss() -> Neighbours:
        squares, indices = faiss.knn(query, gallery, 1)
        return np.sqrt(squares), indices

    sides = {
        "numpy, pandas": lambda: lambda: by_loop(lambda: by_numpy(query, gallery)),
        "faiss.knn, pandas": lambda: lambda: by_loop(by_faiss),
        "ours": lambda: by_us,
    }
    measured = measure(sides, rounds=rounds)
    plain = measured["numpy, pandas"].gave
    beside = {
        name: {"matches": len(side.gave), "equal": len(side.gave.items() & plain.items())} for name, side in measured.items()
    }
    return report_of("search and vote", measured, base="numpy, pandas", unit="query", per_call=len(query), beside=beside)


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


def measure_memory(options: argparse.Namespace) -> None:
    """Prints this process's peak in bytes after reading the vectors, or after searching them too."""
    query, gallery = drawn_vectors(options)
    for side in (query, gallery):
        for start in range(0, len(side), 8192):
            side[start : start + 8192].max()
    if options.only == "nearest":
        nearest(query, gallery)
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    print(int(status[status.index("VmHWM:") + 1]) * 1024)  # getrusage would count what the parent process held


def peak_of(what: str, options: argparse.Namespace) -> int:
    sizes = [f"--{name}={getattr(options, name)}" for name in ("queries", "vectors", "dimension", "threads", "folder")]
    command = [sys.executable, "-m", "benchmarks", "search", "--only", what, *sizes]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
