import numpy as np
import pytest

from data_pipeline.report.neighbors import nearest_neighbors


def brute_force(vectors, count):
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit.astype(np.float64) @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(cosines, rows, axis=1)


@pytest.mark.parametrize("rows", [2, 40, 1500])
def test_neighbors_are_those_of_brute_force(rows):
    vectors = np.random.default_rng(rows).normal(size=(rows, 16)).astype(np.float32)
    count = min(5, rows - 1)
    expected, cosines = brute_force(vectors, count)
    found = nearest_neighbors(vectors, 5)
    assert found.rows.tolist() == expected.tolist()
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-5)


def test_wide_vectors_have_almost_all_of_their_neighbors():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(40, 768))
    vectors = (centers[rng.integers(0, 40, 800)] + 0.6 * rng.normal(size=(800, 768))).astype(np.float32)
    expected, _ = brute_force(vectors, 10)
    found = nearest_neighbors(vectors, 10)
    shared = [len(set(one) & set(other)) for one, other in zip(found.rows.tolist(), expected.tolist(), strict=True)]
    assert np.mean(shared) > 9.5
    cosines = np.einsum("nd,nkd->nk", vectors, vectors[found.rows])
    cosines /= np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(vectors[found.rows], axis=2)
    np.testing.assert_allclose(found.cosines, cosines, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_row_is_not_its_own_neighbor(rows):
    found = nearest_neighbors(np.ones((rows, 4), np.float32), 10)
    assert found.rows.shape == found.cosines.shape == (rows, 0)


def test_rows_of_length_zero_have_cosine_zero():
    found = nearest_neighbors(np.array([[0, 0], [1, 0], [2, 0]], np.float32), 2)
    assert found.cosines[0].tolist() == [0, 0]
    assert found.rows[1, 0] == 2
