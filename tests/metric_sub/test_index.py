"""Search by an index of FAISS: true distances, recall, saved and reused, and mistakes told in words."""

import faiss
import numpy as np
import pytest

from metric_sub.index import IndexSearch, empty_index, recall_against_exact, search_by
from metric_sub.search import nearest
from shared.config import Search
from shared.errors import UserError

DIMENSION = 16


def settings(index, parameters=(), candidates=20, train_rows=300):
    return Search(
        index=index, parameters=dict(parameters), candidates=candidates, train_rows=train_rows, recall_queries=50
    )


def unit_vectors(seed, n, dimension=DIMENSION):
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def query():
    return unit_vectors(0, 60)


@pytest.fixture(scope="module")
def gallery():
    return unit_vectors(1, 500)


def built(index, gallery, folder, **options):
    return search_by(settings(index, **options), gallery, "of the vectors", folder, seed=0, fresh=False)


@pytest.mark.parametrize("index", ["Flat", "IVF4,Flat", "HNSW16", "PQ8x4", "PCA8,IVF4,SQ8", "IVF4_HNSW8,Flat", "IVF8,PQ8", "OPQ8,IVF8,PQ8", "LSH"])
def test_distances_are_those_of_the_neighbours_found_and_rise(index, query, gallery, tmp_path):
    distances, indices = built(index, gallery, tmp_path)(query, gallery, 5)
    assert distances.dtype == np.float32 and indices.dtype == np.int64 and distances.shape == (60, 5)
    true = np.linalg.norm(query[:, None].astype(np.float64) - gallery[indices], axis=2)
    np.testing.assert_array_equal(distances, true.astype(np.float32))
    assert (np.diff(distances) >= 0).all() and all(len(set(row)) == 5 for row in indices.tolist())


@pytest.mark.parametrize(("index", "parameters"), [("Flat", {}), ("IVF4,Flat", {"nprobe": 4}), ("PQ8x4", {})])
def test_where_every_vector_is_a_candidate_the_answer_is_the_exact_one(index, parameters, query, gallery, tmp_path):
    search = built(index, gallery, tmp_path, parameters=parameters, candidates=500)
    for found, expected in zip(search(query, gallery, 3), nearest(query, gallery, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", ["IVF8,PQ8", "OPQ8,IVF8,PQ8"])
def test_an_index_that_was_read_is_as_fast_as_one_that_was_made(index, gallery, tmp_path, monkeypatch):
    """FAISS does not write the table that it looks distances up in."""
    read, said = [], faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda *what: read.append(said(*what)) or read[-1])
    built(index, gallery, tmp_path)
    lists = faiss.downcast_index(faiss.extract_index_ivf(read[0]))
    assert lists.use_precomputed_table == 1 and lists.precomputed_table.size() == 8 * 8 * 256


def test_equally_near_vectors_come_by_index(tmp_path):
    gallery = np.repeat(unit_vectors(2, 8), 4, axis=0)
    indices = built("Flat", gallery, tmp_path, candidates=32)(gallery[::4], gallery, 4)[1]
    np.testing.assert_array_equal(indices, np.arange(32).reshape(8, 4))


def test_a_query_with_too_few_proposals_is_searched_exactly(query, gallery, tmp_path):
    search = built("IVF64,Flat", gallery, tmp_path, parameters={"nprobe": 1})  # about 8 vectors in a list
    for found, expected in zip(search(query, gallery, 40), nearest(query, gallery, 40), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert search(query, gallery, 9999)[0].shape == (60, 500)


def test_more_probes_find_more(query, gallery, tmp_path):
    def recall(n_probes):
        search = built("IVF32,Flat", gallery, tmp_path, parameters={"nprobe": n_probes})
        return recall_against_exact(search, query, gallery, n_queries=60, seed=0)

    few, some, all_lists = recall(1), recall(8), recall(32)
    assert few["recall_at_1"] < some["recall_at_1"] < all_lists["recall_at_1"] == all_lists["recall_at_10"] == 1.0


def test_recall_is_the_share_of_the_exact_neighbours(query, gallery):
    wanted = nearest(query, gallery, 10)[1]
    seen = np.arange(500) % 3 > 0  # a search that is blind to every third vector

    def blind(query, of, k):
        distances, indices = nearest(query, of[seen], k)
        return distances, np.flatnonzero(seen)[indices]

    recall = recall_against_exact(blind, query, gallery, n_queries=1000, seed=0)
    assert recall["queries"] == 60
    assert recall["recall_at_1"] == pytest.approx(seen[wanted[:, 0]].mean())
    assert recall["recall_at_10"] == pytest.approx(seen[wanted].mean())


def test_recall_of_a_sample_goes_by_the_seed_and_nothing_asked_has_none(query, gallery, tmp_path):
    search = built("IVF32,Flat", gallery, tmp_path)
    samples = [recall_against_exact(search, query, gallery, n_queries=20, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2] and samples[0]["queries"] == 20
    assert recall_against_exact(search, query[:0], gallery, n_queries=20, seed=0)["recall_at_1"] is None


def test_an_index_is_kept_and_reused_until_what_it_is_built_by_changes(query, gallery, tmp_path):
    def made(index="IVF4,Flat", fingerprint="a", seed=0, **options):
        search = search_by(settings(index, **options), gallery, fingerprint, tmp_path, seed=seed, fresh=False)
        return (tmp_path / "manifest.json").stat().st_mtime_ns, search(query, gallery, 5)

    first, answer = made()
    again, same_answer = made()
    assert first == again and all(np.array_equal(*pair) for pair in zip(answer, same_answer, strict=True))
    assert made(parameters={"nprobe": 3}, candidates=7)[0] == first  # said to the index when it searches
    times = [first]
    for change in ({"index": "HNSW8"}, {"fingerprint": "b"}, {"train_rows": 200}, {"seed": 1}):
        times.append(made(**change)[0])
    times.append(made("HNSW8", parameters={"efConstruction": 10})[0])
    assert len(set(times)) == 6


def test_a_killed_build_leaves_no_index_that_is_taken_for_whole(gallery, tmp_path, monkeypatch):
    def killed(index, path):
        open(path, "wb").write(b"half an index")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("faiss.write_index", killed)
        with pytest.raises(KeyboardInterrupt):
            built("IVF4,Flat", gallery, tmp_path)
    assert isinstance(built("IVF4,Flat", gallery, tmp_path), IndexSearch)


def test_memory_maps_block_by_block(query, gallery, tmp_path, monkeypatch):
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    whole = built("IVF4,Flat", gallery, tmp_path / "whole")(query, gallery, 5)
    monkeypatch.setattr("metric_sub.index.BLOCK_ROWS", 7)
    for found, expected in zip(built("IVF4,Flat", mapped, tmp_path / "blocks")(query, mapped, 5), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_exact_and_an_empty_gallery_need_no_index(gallery, tmp_path):
    assert built("exact", gallery, tmp_path / "a") is nearest
    assert built("IVF4,Flat", gallery[:0], tmp_path / "b") is nearest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("index", ["exakt", "PQ7", "IVF-3,Flat", "BFlat", " "])
def test_a_string_that_faiss_does_not_know_is_refused(index):
    with pytest.raises(UserError, match="search.index: FAISS refuses"):
        empty_index(settings(index), DIMENSION)


@pytest.mark.parametrize("parameters", [{"nprobe": 4}, {"efsearch": 4}])
def test_a_parameter_that_the_index_does_not_have_is_refused(parameters):
    with pytest.raises(UserError, match="search.parameters: 'HNSW8' has no parameter"):
        empty_index(settings("HNSW8", parameters), DIMENSION)


@pytest.mark.parametrize("index", ["IVF501,Flat", "PQ8x9", "PCA17,Flat", "IDMap,Flat", "NSG8", "IVF0,Flat"])
def test_what_cannot_be_built_of_the_vectors_is_refused(index, query, gallery, tmp_path):
    with pytest.raises(UserError, match="search.index: FAISS refuses") as raised:
        built(index, gallery[:90], tmp_path)(query, gallery[:90], 1)
    assert "90 vectors of 16 values" in str(raised.value) and "/project" not in str(raised.value)


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_refuses_vectors_that_are_not_finite_and_those_of_another_gallery(side, query, gallery, tmp_path):
    sides = {"query": query.copy(), "gallery": gallery.copy()}
    sides[side][3, 2] = np.nan
    with pytest.raises(UserError, match=f"{side} vectors: 1 are not finite"):
        built("Flat", sides["gallery"], tmp_path)(sides["query"], sides["gallery"], 1)
    with pytest.raises(ValueError, match="expected"):
        built("Flat", gallery, tmp_path / "b")(query, gallery[:-1], 1)
