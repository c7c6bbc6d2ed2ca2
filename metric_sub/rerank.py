"""Distances from photo boxes to video boxes that other boxes have a say in: query expansion and k-reciprocal re-ranking."""

import numpy as np
from scipy.sparse import csr_array, eye_array, vstack

from metric_sub.search import nearest
from shared.work import chunks

ROWS_AT_ONCE = 4096


def expand_queries(query: np.ndarray, gallery: np.ndarray, n_neighbours: int) -> np.ndarray:
    """Average query expansion (Chum et al. 2007): each query becomes the mean of itself and its nearest gallery vectors.

    query (N, D), gallery (M, D) float32, unit length. n_neighbours: how many of the gallery, ties as in `search.nearest`.
    Gives (N, D) float32, unit length again (a mean of zero stays zero). With an empty gallery: the queries as they are.
    """
    _, indices = nearest(query, gallery, n_neighbours)  # (N, k)
    expanded = np.empty(query.shape, np.float32)
    for rows in chunks(len(query), ROWS_AT_ONCE):
        mean = query[rows].astype(np.float64) + gallery[indices[rows]].sum(axis=1, dtype=np.float64)  # (rows, D)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        expanded[rows] = mean / np.where(length > 0, length, 1)
    return expanded


def nearest_reciprocal(
    query: np.ndarray,
    gallery: np.ndarray,
    n_neighbours: int,
    *,
    k1: int,
    k2: int,
    own_share: float,
    candidates: int,
) -> tuple[np.ndarray, np.ndarray]:
    """As `search.nearest`, by distances re-ranked with k-reciprocal encoding (Zhong et al. 2017).

    Queries and gallery are one set of N + M vectors. Two of them are reciprocal neighbours where each is among the k1 + 1
    nearest of the other, ties as in `search.nearest`, queries first (a vector is among its own nearest). R, a vector's set of
    these and itself, takes in for each member q the set that q has by k1 / 2 where R holds 2/3 or more of that. The vector is
    encoded by exp(-distance) over R, 0 elsewhere, scaled to a sum of 1; then by the mean of the codes of its k2 nearest. The
    Jaccard distance of two codes is 1 - sum of minima / sum of maxima; the new distance is own_share x Euclidean +
    (1 - own_share) x Jaccard, 0 to 1 + own_share.

    Of each query the `candidates` nearest gallery vectors are re-ranked, and the others left out. Gives distances (N, k)
    float32, rising, and indices (N, k) int64, k = min(n_neighbours, candidates, M); equal distances by rising index.
    Memory: the neighbours' places and the codes, which have k1 to k1 x k2 numbers a vector, mostly; nothing of N x M.
    """
    distances, indices = nearest(query, gallery, candidates)  # (N, c)
    if not indices.size:
        return distances[:, :n_neighbours], indices[:, :n_neighbours]
    codes = _codes(query, gallery, k1, k2)
    width = indices.shape[1]
    for rows in chunks(len(query), max(1, ROWS_AT_ONCE // max(width, 1))):
        own, others = np.repeat(np.arange(rows.start, rows.stop), width), len(query) + indices[rows].ravel()
        common = codes[own].minimum(codes[others]).sum(axis=1).reshape(-1, width)  # (rows, c); a code's sum is 1
        distances[rows] = own_share * distances[rows] + (1 - own_share) * np.maximum(1 - common / (2 - common), 0)
    order = np.lexsort((indices, distances), axis=1)[:, :n_neighbours]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)


def _codes(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int) -> csr_array:
    """(N + M, N + M) float64, the code of each vector in a row."""
    n = len(query) + len(gallery)
    neighbours = _joint_neighbours(query, gallery, max(k1 + 1, k2))
    near, half = _reciprocal(neighbours[:, : k1 + 1]), _reciprocal(neighbours[:, : round(k1 / 2) + 1])
    size = half.sum(axis=1)
    parts = []
    for rows in chunks(n, ROWS_AT_ONCE):
        own = near[rows]
        overlap = (own @ half).multiply(own).tocoo()  # half is symmetric: |R(p) and R*(q)| for q of R(p)
        enough = 3 * overlap.data >= 2 * size[overlap.col]
        taken = csr_array((np.ones(enough.sum()), (overlap.row[enough], overlap.col[enough])), shape=own.shape)
        code = (own + taken @ half).tocoo()
        distance = _distances(query, gallery, rows.start + code.row, code.col)
        code = csr_array((np.exp(-distance), (code.row, code.col)), shape=own.shape)
        parts.append(code.multiply(1 / code.sum(axis=1)[:, None]).tocsr())
    codes = vstack(parts, format="csr")
    return (_links(neighbours[:, :k2]) @ codes) / min(k2, n)


def _joint_neighbours(query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """(N + M, k) int64: of each query and gallery vector the nearest of both, gallery vectors counted on from N."""
    found = []
    for side in (query, gallery):
        (to_query, of_query), (to_gallery, of_gallery) = nearest(side, query, k), nearest(side, gallery, k)
        distances = np.concatenate([to_query, to_gallery], axis=1)
        indices = np.concatenate([of_query, len(query) + of_gallery], axis=1)
        found.append(np.take_along_axis(indices, np.lexsort((indices, distances), axis=1)[:, :k], 1))
    return np.concatenate(found)


def _reciprocal(neighbours: np.ndarray) -> csr_array:
    """(n, n) float64: 1 from each row to those of its neighbours that have it for theirs, and to itself, which many equal
    vectors may have crowded out."""
    links = _links(neighbours)
    return links.multiply(links.T).maximum(eye_array(links.shape[0])).tocsr()


def _links(neighbours: np.ndarray) -> csr_array:
    """(n, n) float64: 1 from each row to its neighbours."""
    n, k = neighbours.shape
    return csr_array((np.ones(n * k), neighbours.ravel(), np.arange(n + 1) * k), shape=(n, n))


def _distances(query: np.ndarray, gallery: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(p,) Euclidean distances of pairs of the joint set."""
    distances = np.empty(len(rows))
    for pairs in chunks(len(rows), ROWS_AT_ONCE):
        difference = _vectors(query, gallery, rows[pairs]) - _vectors(query, gallery, columns[pairs])  # (pairs, D)
        distances[pairs] = np.sqrt(np.square(difference).sum(axis=1))
    return distances


def _vectors(query: np.ndarray, gallery: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(p, D) float64 vectors of the joint set."""
    vectors = np.empty((len(places), query.shape[1]))
    of_query = places < len(query)
    vectors[of_query] = query[places[of_query]]
    vectors[~of_query] = gallery[places[~of_query] - len(query)]
    return vectors
