import numpy as np
import pytest

from data_pipeline.report.measures import (
    agreement_of_codings,
    agreement_of_cuts,
    dense_rows,
    draw_queries,
    effective_dimension,
    isolated_rows,
    neighbor_agreement,
    random_cosines,
)
from data_pipeline.report.neighbors import Neighbors, nearest_neighbors, nearest_of


def rng():
    return np.random.default_rng(0)


def gaussian(rows, dim):
    return np.random.default_rng(1).normal(size=(rows, dim)).astype(np.float32)


def test_random_cosines_are_zero_on_average_for_even_directions_and_one_for_equal_ones():
    assert random_cosines(gaussian(2000, 64), rng()).mean() == pytest.approx(0, abs=0.01)
    assert random_cosines(np.ones((5, 3), np.float32), rng()).tolist() == pytest.approx([1] * 100_000)
    assert random_cosines(np.array([[1, 0], [-2, 0]], np.float32), rng(), 4).tolist() == [-1] * 4  # never with itself
    assert random_cosines(np.ones((1, 3), np.float32), rng()).tolist() == []


@pytest.mark.parametrize(("rows", "dim"), [(50, 8), (8, 50)])
def test_effective_dimension_is_the_participation_ratio(rows, dim):
    vectors = gaussian(rows, dim)
    variances = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    assert effective_dimension(vectors, rng()) == pytest.approx(variances.sum() ** 2 / (variances**2).sum(), rel=1e-4)


def test_effective_dimension_of_a_line_is_one_and_of_a_point_zero():
    line = np.linspace(0, 1, 20, dtype=np.float32)[:, None] * np.ones((1, 7), np.float32)
    assert effective_dimension(line, rng()) == pytest.approx(1, abs=1e-4)
    assert effective_dimension(np.ones((20, 7), np.float32), rng()) == 0


def neighbors(rows, cosines):
    return Neighbors(np.array(rows, np.int32), np.array(cosines, np.float32))


def test_agreement_counts_the_neighbors_in_common_in_any_order():
    one = neighbors([[1, 2], [0, 2]], [[1, 1], [1, 1]])
    other = neighbors([[2, 1], [3, 0]], [[1, 1], [1, 1]])
    assert neighbor_agreement(one, other) == 0.75
    assert np.isnan(neighbor_agreement(neighbors(np.zeros((0, 2)), np.zeros((0, 2))), one))


def test_cuts_keep_all_neighbors_where_the_other_dimensions_are_zero():
    vectors = gaussian(300, 320)
    vectors[:, 64:] = 0
    queries = draw_queries(300, rng())
    whole = nearest_of(vectors, queries, 10)
    assert agreement_of_cuts(vectors, queries, whole) == {256: 1, 128: 1, 64: 1}
    spread = gaussian(300, 320)
    cuts = agreement_of_cuts(spread, queries, nearest_of(spread, queries, 10))
    assert 0 < cuts[64] < cuts[128] < cuts[256] < 1


def test_int8_keeps_almost_all_neighbors_and_binary_fewer():
    vectors = gaussian(400, 67)  # no multiple of 8
    queries = draw_queries(400, rng())
    kept = agreement_of_codings(vectors, queries, nearest_of(vectors, queries, 10))
    assert kept["int8"] > 0.95 > kept["ubinary"] > 0.1
    assert agreement_of_codings(vectors[:, :3], queries, nearest_of(vectors, queries, 10)).keys() == {"int8"}


def test_outliers_and_dense_spots_by_hand():
    angles = np.array([0, 1, 2, 40, 41.5, 90])  # three close ones, two, and one alone
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1).astype(np.float32)
    found = nearest_neighbors(vectors, 1)
    assert isolated_rows(found, 2).tolist() == [5, 3]
    assert dense_rows(found, 9).tolist() == [0, 2, 3, 5] or dense_rows(found, 9)[0] in (0, 1, 2)
    assert len(set(dense_rows(found, 2).tolist()) & {0, 1, 2}) == 1  # the others are its neighbours
    empty = neighbors(np.zeros((1, 0)), np.zeros((1, 0)))
    assert isolated_rows(empty, 3).tolist() == dense_rows(empty, 3).tolist() == []


def test_queries_are_all_rows_or_a_thousand_different_ones():
    assert draw_queries(5, rng()).tolist() == [0, 1, 2, 3, 4]
    assert len(set(draw_queries(5000, rng()).tolist())) == 1000
