"""Our exact search against plain FAISS and NumPy, and some indexes: ratios of medians in turns (A B A B), recall, peak memory.

    bash run.sh bench search [--queries 2000] [--vectors 100000] [--dimension 512] [--rounds 5] [--exact]

The vectors are drawn around centres, as those of products in many pictures are, and read from a memory-mapped file. A ratio
above 1 is slower than faiss.knn, which gives one neighbour and checks nothing. Seconds are of the wall; the second ratio, of
processor time, says more on a machine that does other work. The extra memory is what a process that searches takes at its
peak beyond one that only reads the vectors.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from metric_sub.index import recall_against_exact, search_by
from metric_sub.search import nearest
from shared.cli import use_threads
from shared.config import Search

INDEXES = {  # factory string -> parameters
    "IVF256,Flat": {"nprobe": 16},
    "HNSW16": {"efSearch": 64},
    "IVF256,PQ64": {"nprobe": 16},
}
CANDIDATES = 64
CENTRES = 4000
SPREAD = 0.7  # length of what a vector has of its own, beside a centre of length 1
NUMPY_BLOCK = 256  # queries


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench search", description=__doc__.splitlines()[0])
    for name, default in (("queries", 2000), ("vectors", 100_000), ("dimension", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--threads", type=int, default=0, help="(default: every core)")
    parser.add_argument("--exact", action="store_true", help="leave the indexes out, which take a while to build")
    parser.add_argument("--only", choices=["read", "nearest"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the vectors are kept (default: a temporary folder)")
    options = parser.parse_args(argv)
    use_threads(options.threads)
    if options.only:
        measure_memory(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        options.folder.mkdir(parents=True, exist_ok=True)
        compare(options)


def compare(options: argparse.Namespace) -> None:
    query, gallery = drawn_vectors(options)
    print(f"{len(query)} x {len(gallery)} vectors of {options.dimension} values, {faiss.omp_get_max_threads()} threads")
    flat = faiss.IndexFlatL2(gallery.shape[1])
    flat.add(np.ascontiguousarray(gallery))
    searches: dict[str, Callable] = {
        "faiss.knn": lambda: faiss.knn(query, gallery, 1),
        "IndexFlatL2": lambda: flat.search(query, 1),
        "numpy": lambda: by_numpy(query, gallery),
        "exact (ours)": lambda: nearest(query, gallery),
    }
    recalls, made = {}, {}
    for name, parameters in ({} if options.exact else INDEXES).items():
        settings = Search(
            index=name, parameters=parameters, candidates=CANDIDATES, train_rows=20_000, recall_queries=len(query)
        )
        started = time.perf_counter()
        search = search_by(settings, gallery, "drawn", options.folder / name.replace(",", "-"), seed=0, fresh=True)
        made[name] = time.perf_counter() - started
        recalls[name] = recall_against_exact(search, query, gallery, n_queries=1000, seed=0)
        searches[name] = lambda search=search: search(query, gallery, 1)
    wall, processor = time_in_turns(searches, options.rounds)
    print(f"{'':20}{'wall ratio':>12}{'cpu ratio':>12}{'recall@1':>12}{'recall@10':>12}{'built, s':>12}")
    for name in searches:
        ratios = [statistics.median(of[name]) / statistics.median(of["faiss.knn"]) for of in (wall, processor)]
        recall = recalls.get(name, {"recall_at_1": 1.0, "recall_at_10": 1.0})
        print(
            f"{name:20}{ratios[0]:12.3f}{ratios[1]:12.3f}{recall['recall_at_1']:12.3f}{recall['recall_at_10']:12.3f}"
            + (f"{made[name]:12.1f}" if name in made else "")
        )
    peaks = [peak_of(name, options) for name in ("read", "nearest")]
    print(
        f"exact search's extra memory at its peak: {(peaks[1] - peaks[0]) / 1e6:.0f} MB, in all {peaks[1] / 1e9:.2f} GB"
    )


def time_in_turns(searches: dict[str, Callable], rounds: int) -> tuple[dict[str, list], dict[str, list]]:
    """(wall, processor): seconds of each search in each of the rounds, in which all take turns."""
    wall, processor = {name: [] for name in searches}, {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            started = time.perf_counter(), time.process_time()
            search()
            wall[name].append(time.perf_counter() - started[0])
            processor[name].append(time.process_time() - started[1])
    return wall, processor


def drawn_vectors(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """(queries, gallery) of unit length, float32, memory-mapped from the folder, drawn where they are not there."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(CENTRES, options.dimension)))
    drawn = []
    for name, n in (("query", options.queries), ("gallery", options.vectors)):
        path = options.folder / f"{name}-{n}x{options.dimension}.npy"
        if not path.exists():
            vectors = np.lib.format.open_memmap(path, "w+", np.float32, (n, options.dimension))
            for start in range(0, n, 8192):
                rows = vectors[start : start + 8192]
                own = unit(rng.normal(size=rows.shape))
                rows[:] = unit(centres[rng.integers(0, CENTRES, len(rows))] + SPREAD * own)
            vectors.flush()
        drawn.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return drawn[0], drawn[1]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_numpy(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The nearest row of each query, by the largest dot product of unit vectors."""
    return np.concatenate(
        [(query[k : k + NUMPY_BLOCK] @ gallery.T).argmax(axis=1) for k in range(0, len(query), NUMPY_BLOCK)]
    )


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
