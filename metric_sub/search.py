"""Exact nearest neighbours by Euclidean distance: FAISS proposes, float64 decides."""

import faiss
import numpy as np

from shared.errors import UserError
from shared.work import chunks

SPARE = 8  # candidates beyond the wanted ones, so that few queries are searched a second time
QUERIES_AGAIN = 512  # searched a second time at once
BLOCK_ROWS = 32768  # of the queries, the gallery and the pairs at once; 100,000 queries read the gallery four times


def nearest(
    query: np.ndarray, gallery: np.ndarray, n_neighbours: int = 1, block_rows: int = BLOCK_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of `gallery` (M, D) for every row of `query` (N, D), both float32, memory-mapped or not.

    Gives distances (N, k) float32, Euclidean, rising, and indices (N, k) int64, with k = min(n_neighbours, M): an empty
    query gives (0, k), an empty gallery (N, 0).

    Guaranteed whatever the blocks, the threads and the rounding inside FAISS: distances are those of a brute force in
    float64 (the root of the sum of squared differences) rounded to float32, and among neighbours of equal rounded
    distance the lower index comes first. FAISS's exact search (that of IndexFlatL2) only proposes k + 8 candidates. A
    query whose last candidate lies within the largest possible rounding error of its k-th neighbour is searched again,
    among all vectors within that error; so many nearly equal vectors cost time, not correctness.

    Memory: a few arrays of block_rows x D and of 512 x block_rows numbers, whatever N and M are.
    Raises UserError where a vector is not finite, ValueError where shapes do not fit.
    """
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"expected vectors (N, D) and (M, D), found {query.shape} and {gallery.shape}")
    if n_neighbours < 1 or block_rows < 1:
        raise ValueError(f"expected n_neighbours and block_rows of 1 or more, found {n_neighbours} and {block_rows}")
    k = min(n_neighbours, len(gallery))
    distances = np.empty((len(query), k), np.float32)
    indices = np.empty((len(query), k), np.int64)
    gallery_norms = [largest_norm(gallery[rows], "gallery") for rows in chunks(len(gallery), block_rows)]
    gallery_norm = max(gallery_norms, default=0.0)
    for rows in chunks(len(query), block_rows):
        block = np.ascontiguousarray(query[rows], np.float32)
        # The rounding error of |x|^2 + |y|^2 - 2xy in float32, in whatever order it is summed: n u (|x| + |y|)^2 with
        # u = 2^-24 and n the number of roundings (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        error = (query.shape[1] + 8) * 2.0**-24 * (largest_norm(block, "query") + gallery_norm) ** 2
        if k:
            distances[rows], indices[rows] = _search(block, gallery, k, error, block_rows)
    return distances, indices


def _search(
    query: np.ndarray, gallery: np.ndarray, k: int, error: float, block_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) distances and indices. `error` bounds that of a squared distance in float32."""
    width = min(k + SPARE, len(gallery))
    proposed, candidates = _propose(query, gallery, width, block_rows)  # (n, width)
    # The k-th neighbour is no farther than the k-th proposal and its error: the rest need not be looked at.
    kth = np.partition(proposed, k - 1, axis=1)[:, k - 1].astype(np.float64)
    possible = proposed <= _reach(np.sqrt(kth + error), error)[:, None]
    distances, indices = rank_candidates(query, gallery, candidates, possible, k, block_rows)  # (n, k)
    if width < len(gallery):
        reach = _reach(distances[:, -1].astype(np.float64), error)  # (n,)
        unsure = np.flatnonzero(proposed.max(axis=1) <= reach)
        for part in chunks(len(unsure), QUERIES_AGAIN):
            again = unsure[part]
            distances[again], indices[again] = _search_within(query[again], gallery, k, reach[again], block_rows)
    return distances, indices


def rank_candidates(
    query: np.ndarray, gallery: np.ndarray, candidates: np.ndarray, possible: np.ndarray, k: int, block_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query's candidates: distances (n, k) float32 (computed in float64), indices (n, k) int64.

    candidates: rows of the gallery (n, w), of which only those with `possible` (n, w) True are looked at. By rising distance,
    equal ones by rising index; where fewer than k are possible, the last distances are infinite.
    """
    distances = np.full(candidates.shape, np.inf, np.float32)
    distances[possible] = _distances(query, gallery, np.nonzero(possible)[0], candidates[possible], block_rows)
    order = np.lexsort((candidates, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1)


def _reach(distance: np.ndarray, error: float) -> np.ndarray:
    """The squared distance, in float32, that no vector as near as `distance` goes beyond (2^-22: the root's own rounding)."""
    return np.square(distance * (1 + 2.0**-22)) + error


def _search_within(
    query: np.ndarray, gallery: np.ndarray, k: int, reach: np.ndarray, block_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) distances and indices among the vectors that lie within `reach` (n,), a squared distance, of the query.

    Each query has at least k such vectors.
    """
    rows, indices, distances = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    query_squared = np.einsum("nd,nd->n", query, query)
    for block in chunks(len(gallery), block_rows):
        part = np.asarray(gallery[block], np.float32)
        squared = query_squared[:, None] + np.einsum("md,md->m", part, part) - 2 * query @ part.T  # (n, m)
        near_rows, near = np.nonzero(squared <= reach[:, None])
        rows = np.concatenate([rows, near_rows])
        indices = np.concatenate([indices, near + block.start])
        distances = np.concatenate([distances, _distances(query, part, near_rows, near, block_rows)])
        order = np.lexsort((indices, distances, rows))
        place = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])  # among its query's vectors
        best = order[place < k]
        rows, indices, distances = rows[best], indices[best], distances[best]
    return distances.reshape(-1, k), indices.reshape(-1, k)


def _propose(query: np.ndarray, gallery: np.ndarray, width: int, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """FAISS's `width` nearest of the whole gallery, unordered: squared distances (n, width) float32, indices int64."""
    squared = np.empty((len(query), 0), np.float32)
    indices = np.empty((len(query), 0), np.int64)
    for rows in chunks(len(gallery), block_rows):
        block = np.ascontiguousarray(gallery[rows], np.float32)
        found, at = faiss.knn(query, block, min(width, len(block)))
        squared = np.concatenate([squared, found], axis=1)
        indices = np.concatenate([indices, at + rows.start], axis=1)
        if squared.shape[1] > width:
            best = np.argpartition(squared, width - 1, axis=1)[:, :width]
            squared, indices = np.take_along_axis(squared, best, 1), np.take_along_axis(indices, best, 1)
    return squared, indices


def _distances(
    query: np.ndarray, gallery: np.ndarray, rows: np.ndarray, indices: np.ndarray, block_rows: int
) -> np.ndarray:
    """Distances (p,) float32, computed in float64, of the pairs query[rows], gallery[indices]."""
    distances = np.empty(len(rows), np.float32)
    for pairs in chunks(len(rows), block_rows):
        difference = gallery[indices[pairs]].astype(np.float64)  # (pairs, D)
        difference -= query[rows[pairs]]
        np.square(difference, out=difference)
        distances[pairs] = np.sqrt(difference.sum(axis=1))
    return distances


def largest_norm(vectors: np.ndarray, name: str) -> float:
    """The largest length of the vectors (N, D), 0 for none. Raises UserError, with their name, where one is not finite."""
    vectors = np.asarray(vectors, np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if not np.isfinite(squares).all():
        raise UserError(
            f"{name} vectors: {np.sum(~np.isfinite(squares))} are not finite (NaN or infinite), so they have "
            "no nearest neighbour. Train or embed again, in precision bf16 or no rather than fp16."
        )
    return float(np.sqrt(squares.max(initial=0)))
