"""search.nearest against a brute force in float64, ties and blocks included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_sub.search import nearest
from shared.errors import UserError


def brute_force(query, gallery, k):
    """Every distance in float64, rounded to float32; a stable sort leaves equal ones in the order of the gallery."""
    differences = query[:, None].astype(np.float64) - gallery[None].astype(np.float64)
    distances = np.sqrt((differences**2).sum(axis=2)).astype(np.float32)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def unit_vectors(rng, n, dimension):
    vectors = rng.normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 8192])
@pytest.mark.parametrize("k", [1, 3, 150])
def test_equals_brute_force_in_any_blocks(block_rows, k):
    rng = np.random.default_rng(0)
    query, gallery = unit_vectors(rng, 50, 24), unit_vectors(rng, 150, 24)
    distances, indices = nearest(query, gallery, k, block_rows=block_rows)
    expected_distances, expected_indices = brute_force(query, gallery, k)
    assert distances.dtype == np.float32 and indices.dtype == np.int64
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 30),
    m=st.integers(0, 60),
    dimension=st.integers(1, 5),
    k=st.integers(1, 40),
    block_rows=st.integers(1, 70),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_equal_distances_give_the_lower_index(seed, n, m, dimension, k, block_rows):
    rng = np.random.default_rng(seed)  # whole numbers 0..2: nearly every distance has equals, and all sums are exact
    query = rng.integers(0, 3, (n, dimension)).astype(np.float32)
    gallery = rng.integers(0, 3, (m, dimension)).astype(np.float32)
    distances, indices = nearest(query, gallery, k, block_rows=block_rows)
    expected_distances, expected_indices = brute_force(query, gallery, min(k, m))
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(distances, expected_distances)


def test_copies_of_the_nearest_give_the_first_however_many_there_are():
    rng = np.random.default_rng(1)
    query, others = unit_vectors(rng, 40, 512), unit_vectors(rng, 100, 512)
    close = query[0] + np.float32(1e-3) * unit_vectors(rng, 1, 512)[0]
    gallery = np.concatenate([others, np.repeat(close[None], 300, axis=0), others])
    distances, indices = nearest(query, gallery, 3, block_rows=64)
    np.testing.assert_array_equal(indices[0], [100, 101, 102])
    assert len(set(distances[0].tolist())) == 1
    np.testing.assert_array_equal(indices, brute_force(query, gallery, 3)[1])


def test_small_distances_survive_cancellation():
    """|x|^2 + |y|^2 - 2xy loses distances below about 3e-4 in float32; the answer must not."""
    query = np.zeros((30, 64), np.float32)
    query[:, 0] = 1
    gallery = np.repeat(query[:1], 20, axis=0)
    gallery[:, 1] = np.float32(1e-5) * np.arange(20, 0, -1)
    distances, indices = nearest(query, gallery, 20)
    np.testing.assert_array_equal(indices, np.tile(np.arange(19, -1, -1), (30, 1)))
    np.testing.assert_allclose(distances, np.tile(1e-5 * np.arange(1, 21), (30, 1)), rtol=1e-6)


def test_a_vector_finds_itself_at_distance_zero():
    vectors = unit_vectors(np.random.default_rng(2), 100, 256)
    distances, indices = nearest(vectors, vectors)
    np.testing.assert_array_equal(indices[:, 0], np.arange(100))
    np.testing.assert_array_equal(distances, 0)


def test_memory_maps(tmp_path):
    rng = np.random.default_rng(3)
    query, gallery = unit_vectors(rng, 20, 16), unit_vectors(rng, 90, 16)
    np.save(tmp_path / "query.npy", query)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("query", "gallery"))
    for found, expected in zip(nearest(*mapped, 4, block_rows=8), nearest(query, gallery, 4), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("n", "m", "k", "columns"), [(0, 5, 2, 2), (0, 0, 1, 0), (4, 0, 3, 0), (4, 2, 9, 2)])
def test_empty_and_short_sides(n, m, k, columns):
    distances, indices = nearest(np.ones((n, 3), np.float32), np.ones((m, 3), np.float32), k)
    assert distances.shape == indices.shape == (n, columns)
    assert distances.dtype == np.float32 and indices.dtype == np.int64


@pytest.mark.parametrize("side", ["query", "gallery"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_vectors_that_are_not_finite(side, value):
    vectors = {"query": np.ones((3, 4), np.float32), "gallery": np.ones((5, 4), np.float32)}
    vectors[side][1, 2] = value
    with pytest.raises(UserError, match=f"{side} vectors: 1 are not finite"):
        nearest(**vectors)


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="expected vectors"):
        nearest(np.ones((3, 4), np.float32), np.ones((3, 5), np.float32))
    with pytest.raises(ValueError, match="1 or more"):
        nearest(np.ones((3, 4), np.float32), np.ones((3, 4), np.float32), 0)
