import numpy as np
import pytest

from data_pipeline.report.approximate_neighbors import approximate_neighbors
from data_pipeline.report.neighbors import nearest_neighbors


def vectors_of(rows, inner, seed=0, dim=64):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, inner)) @ rng.standard_normal((inner, dim))).astype(np.float32)


def recall(found, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.rows, exact.rows, strict=True)])


def test_all_clusters_give_the_exact_neighbours():
    vectors = vectors_of(300, 20)
    found, exact = approximate_neighbors(vectors, 10, probed=10**6), nearest_neighbors(vectors, 10)
    assert recall(found, exact) == 1
    assert np.allclose(found.cosines, exact.cosines, atol=1e-5)


@pytest.mark.parametrize(("inner", "least"), [(5, 0.99), (10, 0.97), (20, 0.85)])
def test_few_clusters_find_nearly_all(inner, least):
    """Gaussian vectors have no clusters, so that this is the hardest case of their inner dimension."""
    vectors = vectors_of(4000, inner)
    assert recall(approximate_neighbors(vectors, 10, probed=16), nearest_neighbors(vectors, 10)) >= least


def test_a_row_is_never_its_own_neighbour_and_the_nearest_come_first():
    found = approximate_neighbors(vectors_of(500, 5), 7)
    assert not (found.rows == np.arange(500)[:, None]).any()
    assert (np.diff(found.cosines, axis=1) <= 1e-6).all()
    assert all(len(set(row)) == 7 for row in found.rows.tolist())


def test_too_few_candidates_leave_the_row_itself():
    vectors = np.array([[1, 0], [1, 0.01], [-1, 0], [-1, 0.01]], np.float32)
    found = approximate_neighbors(vectors, 3, probed=1)
    assert found.rows[0].tolist() == [1, 0, 0]
    assert found.cosines[0, 1:].tolist() == [-1, -1]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows):
    assert approximate_neighbors(vectors_of(rows, 3), 5).rows.shape == (rows, max(0, min(5, rows - 1)))
