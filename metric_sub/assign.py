"""One-to-one assignment of items to videos, the best over all pairs that may match (the linear sum assignment problem)."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

PAIRS_AT_ONCE = 1024  # of several components, solved together: a call for each would take longer
MARGIN = 1e-6  # what a match at exactly max_distance is worth; far below any difference of distances that matters


def optimal_pairs(item: np.ndarray, video: np.ndarray, distance: np.ndarray, max_distance: float) -> np.ndarray:
    """Which pairs match: (P,) bool, at most one True per item and per video.

    item, video (P,) int64, numbers from 0 in the order of the ids, each pair once. distance (P,) float32, max_distance or
    less. A match is worth max_distance - distance + 1e-6, and the sum over all matches is the largest possible (in float64).

    Pairs that share items or videos, however indirectly, form a component, which is solved by itself. Ties:
    - in a component of one video or of one item: the nearest pair, then the smaller video, then the smaller item;
    - in a larger one, among assignments of equal sum: the one that the solver finds, always the same for the same pairs,
      whatever order they are given in.

    The solver takes shortest augmenting paths over sparse pairs (Jonker and Volgenant 1987). Memory grows with P; time with
    P, and in a large component with the square of its items.
    """
    matched = np.zeros(len(item), bool)
    component = _components(item, video)
    order = np.lexsort((item, video, distance, component))
    nearest = order[np.unique(component[order], return_index=True)[1]]  # (components,) the nearest pair of each
    simple = (_count_distinct(component, item) == 1) | (_count_distinct(component, video) == 1)  # (components,)
    matched[nearest[simple]] = True

    left = np.lexsort((video, item, component))
    left = left[~simple[component[left]]]
    batch = (np.cumsum(np.bincount(component[left])) // PAIRS_AT_ONCE)[component[left]]  # whole components, rising
    for pairs in np.split(left, np.flatnonzero(np.diff(batch)) + 1) if len(left) else []:
        matched[pairs] = _solve(item[pairs], video[pairs], distance[pairs], max_distance)
    return matched


def _components(item: np.ndarray, video: np.ndarray) -> np.ndarray:
    """(P,) the number of each pair's component, from 0; they follow from the pairs, not from their order."""
    n_items = item.max(initial=-1) + 1
    n_nodes = n_items + video.max(initial=-1) + 1
    graph = csr_array((np.ones(len(item), bool), (item, n_items + video)), shape=(n_nodes, n_nodes))
    of_node = connected_components(graph, directed=False)[1]
    return np.unique(of_node[item], return_inverse=True)[1]


def _count_distinct(component: np.ndarray, of_pair: np.ndarray) -> np.ndarray:
    """(components,) how many different values its pairs have."""
    return np.bincount(np.unique(np.stack([component, of_pair]), axis=1)[0])


def _solve(item: np.ndarray, video: np.ndarray, distance: np.ndarray, max_distance: float) -> np.ndarray:
    """(P,) bool, the best assignment of these pairs. Each item may also take a place of its own: no video."""
    row = np.unique(item, return_inverse=True)[1]
    column = np.unique(video, return_inverse=True)[1]
    n_items, n_videos = row.max() + 1, column.max() + 1
    alone = np.arange(n_items)
    # The solver knows no cost of 0, hence 1 more for all: each item is assigned exactly once.
    costs = np.concatenate([1 + distance.astype(np.float64), np.full(n_items, 1 + max_distance + MARGIN)])
    places = np.concatenate([row, alone]), np.concatenate([column, n_videos + alone])
    rows, columns = min_weight_full_bipartite_matching(csr_array((costs, places), shape=(n_items, n_videos + n_items)))
    assigned = np.empty(n_items, np.int64)
    assigned[rows] = columns
    return assigned[row] == column
