"""Query expansion and k-reciprocal re-ranking against plain loops over full tables of distances."""

import numpy as np
import pytest

from metric_sub import rerank
from metric_sub.rerank import expand_queries, nearest_reciprocal


def unit_vectors(rng, n, dimension=6, groups=5):
    """Vectors in loose groups, so that reciprocal neighbours are many and of unequal number."""
    centres = np.random.default_rng(99).normal(size=(groups, dimension))
    vectors = centres[rng.integers(0, groups, n)] + 0.4 * rng.normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def distances_of(a, b):
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)


def reciprocal_by_hand(query, gallery, k1, k2, own_share):
    """(N, M): the formulas of Zhong et al. 2017, sections 3.2 to 3.4, set by set."""
    vectors = np.concatenate([query, gallery])
    distances = distances_of(vectors, vectors)
    ranking = np.argsort(distances.astype(np.float32), axis=1, kind="stable")
    everyone = range(len(vectors))

    def reciprocal(p, k):
        return {q for q in ranking[p, : k + 1] if p in ranking[q, : k + 1]}

    codes = np.zeros(distances.shape)
    for p in everyone:
        grown = own = reciprocal(p, k1)
        for q in own:
            of_q = reciprocal(q, round(k1 / 2))
            if len(own & of_q) >= 2 / 3 * len(of_q):
                grown = grown | of_q
        for g in grown:
            codes[p, g] = np.exp(-distances[p, g])
        codes[p] /= codes[p].sum()
    codes = np.stack([codes[ranking[p, :k2]].mean(axis=0) for p in everyone])
    answer = np.empty((len(query), len(gallery)))
    for p in range(len(query)):
        for g in range(len(gallery)):
            a, b = codes[p], codes[len(query) + g]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            answer[p, g] = own_share * distances[p, len(query) + g] + (1 - own_share) * jaccard
    return answer


@pytest.mark.parametrize(("k1", "k2", "own_share"), [(6, 3, 0.3), (4, 1, 0.0), (9, 4, 0.5), (60, 5, 0.3), (5, 2, 1.0)])
@pytest.mark.parametrize("rows_at_once", [7, 4096])
def test_reciprocal_distances_are_those_of_the_paper(monkeypatch, k1, k2, own_share, rows_at_once):
    monkeypatch.setattr(rerank, "ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(0)
    query, gallery = unit_vectors(rng, 12), unit_vectors(rng, 25)
    how = {"k1": k1, "k2": k2, "own_share": own_share}
    distances, indices = nearest_reciprocal(query, gallery, 25, **how, candidates=25)
    expected = reciprocal_by_hand(query, gallery, **how)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    assert (np.sort(indices, axis=1) == np.arange(25)).all() and (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_allclose(distances, np.take_along_axis(expected, indices, 1), atol=1e-6)


def test_only_the_candidates_are_ranked_anew():
    rng = np.random.default_rng(1)
    query, gallery = unit_vectors(rng, 8), unit_vectors(rng, 30)
    how = {"k1": 6, "k2": 3, "own_share": 0.3}
    distances, indices = nearest_reciprocal(query, gallery, 2, **how, candidates=5)
    expected = reciprocal_by_hand(query, gallery, **how)
    near = np.argsort(distances_of(query, gallery), axis=1)[:, :5]
    for row in range(len(query)):
        best = near[row][np.argsort(expected[row, near[row]])][:2]
        np.testing.assert_allclose(distances[row], expected[row, best], atol=1e-6)
    assert indices.shape == (8, 2)


def test_copies_are_equally_far_and_come_by_index():
    query = np.eye(4, dtype=np.float32)
    gallery = np.concatenate([query, query, query])
    distances, indices = nearest_reciprocal(query, gallery, 3, k1=5, k2=2, own_share=0.3, candidates=12)
    assert [sorted(row) for row in indices.tolist()] == [[k, k + 4, k + 8] for k in range(4)]
    assert (distances[:, 0] < 0.5).all()


def test_more_copies_than_neighbours_are_still_ranked():
    query, gallery = np.ones((2, 1), np.float32), np.ones((50, 1), np.float32)
    distances, indices = nearest_reciprocal(query, gallery, 3, k1=5, k2=2, own_share=0.3, candidates=50)
    assert np.isfinite(distances).all() and (distances >= 0).all() and (distances <= 1.3).all()
    assert indices.shape == (2, 3)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 4), (3, 0), (1, 1)])
def test_empty_and_small_sides(n, m):
    query, gallery = np.ones((n, 3), np.float32), np.ones((m, 3), np.float32)
    distances, indices = nearest_reciprocal(query, gallery, 2, k1=20, k2=6, own_share=0.3, candidates=10)
    assert distances.shape == indices.shape == (n, min(m, 2))
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    assert expand_queries(query, gallery, 3).shape == (n, 3)


@pytest.mark.parametrize("n_neighbours", [1, 3, 50])
def test_an_expanded_query_is_the_mean_with_its_neighbours(monkeypatch, n_neighbours):
    monkeypatch.setattr(rerank, "ROWS_AT_ONCE", 4)
    rng = np.random.default_rng(2)
    query, gallery = unit_vectors(rng, 10), unit_vectors(rng, 20)
    expanded = expand_queries(query, gallery, n_neighbours)
    for row, vector in enumerate(query):
        near = np.argsort(np.linalg.norm(vector.astype(np.float64) - gallery, axis=1))[:n_neighbours]
        mean = np.mean([vector, *gallery[near]], axis=0)
        np.testing.assert_allclose(expanded[row], mean / np.linalg.norm(mean), atol=1e-6)
    assert expanded.dtype == np.float32


def test_expansion_without_a_gallery_or_direction():
    query = np.array([[0, 1], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(expand_queries(query, np.zeros((0, 2), np.float32), 3), query, atol=1e-7)
    assert expand_queries(query[:1], -query[:1], 1).tolist() == [[0, 0]]  # opposite: their mean has no direction
