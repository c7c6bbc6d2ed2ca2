"""One-to-one assignment of items to videos, the best over all pairs that may match (the linear sum assignment problem)."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

ROUNDS = 20  # of settling what needs no solver: nearly all is settled in the first few, and a chain could go on for ever
PAIRS_AT_ONCE = 1024  # of several components, solved together: a call for each would take longer
MARGIN = 1e-6  # what a match at exactly max_distance is worth; far below any difference of distances that matters
ROUNDING = 1e-12  # of a sum of two worths; far below MARGIN


def optimal_pairs(item: np.ndarray, video: np.ndarray, distance: np.ndarray, max_distance: float) -> np.ndarray:
    """Which pairs match: (P,) bool, at most one True per item and per video.

    item, video (P,) int64, numbers from 0 in the order of the ids, each pair once. distance (P,) float32, max_distance or
    less. A match is worth max_distance - distance + 1e-6, and the sum over all matches is the largest possible (in float64).

    What comparing pairs can settle is settled first (see `_settle`). Of the pairs that remain, those that share items or
    videos, however indirectly, form a component, which is solved by itself: shortest augmenting paths over sparse pairs
    (Jonker and Volgenant 1987). Ties:
    - one video that several items may have, and they no other: the nearest, then the smaller item;
    - one item that may have several videos, and nobody else may: the nearest, then the smaller video;
    - else, among assignments of equal sum: always the same one for the same pairs, whatever order they are given in.

    Memory grows with P; time with P, and in a large component with the square of its items or of its videos,
    whichever are fewer.
    """
    matched, rest = _settle(item, video, max_distance + MARGIN - distance.astype(np.float64))
    component = _components(item[rest], video[rest])
    order = np.lexsort((video[rest], item[rest], component))
    batch = (np.cumsum(np.bincount(component)) // PAIRS_AT_ONCE)[component[order]]  # whole components, rising
    for pairs in np.split(rest[order], np.flatnonzero(np.diff(batch)) + 1) if len(rest) else []:
        matched[pairs] = _solve(item[pairs], video[pairs], distance[pairs], max_distance)
    return matched


def _settle(item: np.ndarray, video: np.ndarray, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(matched, rest): (P,) bool, pairs of a best assignment, and the numbers of those left to choose among; worth (P,) > 0.

    In rounds, as each can open the way for the next:
    - of the items that may have one video only, and all the same one, all but the worthiest lose (equal: the smaller stays);
      likewise of the videos that only one item may have;
    - a pair that is worth more than the best other pair of its item and the best other pair of its video together matches,
      and rules out the other pairs of both: whatever two pairs an assignment has in its place, it is worth more than they.
    """
    matched = np.zeros(len(item), bool)
    rest = np.arange(len(item))
    for _ in range(ROUNDS):
        before = len(rest)
        rest = rest[_worthiest_of_single(item[rest], video[rest], worth[rest])]
        rest = rest[_worthiest_of_single(video[rest], item[rest], worth[rest])]
        rivals = _best_other(item[rest], worth[rest]) + _best_other(video[rest], worth[rest])
        certain = rest[worth[rest] > rivals + ROUNDING]
        matched[certain] = True
        rest = rest[~(np.isin(item[rest], item[certain]) | np.isin(video[rest], video[certain]))]
        if len(rest) in (0, before):
            break
    return matched, rest


def _worthiest_of_single(left: np.ndarray, right: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """(P,) bool, False for pairs whose `left` has no other pair while another such one of their `right` comes first."""
    stays = np.bincount(left)[left] > 1
    single = np.flatnonzero(~stays)
    order = single[np.lexsort((left[single], -worth[single], right[single]))]
    stays[order[np.unique(right[order], return_index=True)[1]]] = True
    return stays


def _best_other(key: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """(P,) for each pair, the largest worth among the other pairs of its key; 0 where it has no other."""
    best, second = np.zeros((2, key.max(initial=-1) + 1))
    np.maximum.at(best, key, worth)
    leads = worth == best[key]
    np.maximum.at(second, key[~leads], worth[~leads])
    several_lead = np.bincount(key[leads]) > 1
    return np.where(leads & ~several_lead[key], second[key], best[key])


def _components(item: np.ndarray, video: np.ndarray) -> np.ndarray:
    """(P,) the number of each pair's component, from 0; they follow from the pairs, not from their order."""
    n_items = item.max(initial=-1) + 1
    n_nodes = n_items + video.max(initial=-1) + 1
    graph = csr_array((np.ones(len(item), bool), (item, n_items + video)), shape=(n_nodes, n_nodes))
    of_node = connected_components(graph, directed=False)[1]
    return np.unique(of_node[item], return_inverse=True)[1]


def _solve(item: np.ndarray, video: np.ndarray, distance: np.ndarray, max_distance: float) -> np.ndarray:
    """(P,) bool, the best assignment of these pairs. Each row (items, or videos where they are fewer) may also take a column of its
    own: no match."""
    row, column = (np.unique(side, return_inverse=True)[1] for side in (item, video))
    if column.max() < row.max():
        row, column = column, row  # the solver searches once for each row
    n_rows, n_columns = row.max() + 1, column.max() + 1
    alone = np.arange(n_rows)
    # The solver knows no cost of 0, hence 1 more for all: each row is assigned exactly once.
    costs = np.concatenate([1 + distance.astype(np.float64), np.full(n_rows, 1 + max_distance + MARGIN)])
    places = np.concatenate([row, alone]), np.concatenate([column, n_columns + alone])
    rows, columns = min_weight_full_bipartite_matching(csr_array((costs, places), shape=(n_rows, n_columns + n_rows)))
    assigned = np.empty(n_rows, np.int64)
    assigned[rows] = columns
    return assigned[row] == column
