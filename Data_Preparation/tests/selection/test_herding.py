import numpy as np
import pytest
from support.selector_checks import check_contract, gaussian_clusters, ranked

from data_pipeline.selection import vectors as blocks
from data_pipeline.selection.selectors.herding import HerdingConfig, herding


def textbook(vectors, rows):
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    weights, picks = mean.copy(), []
    for _ in range(rows):
        scores = vectors @ weights
        scores[picks] = -np.inf
        picks.append(int(scores.argmax()))
        weights += mean - vectors[picks[-1]]
    return picks


def deviation(vectors, rows):
    vectors = vectors.astype(np.float64)
    return np.linalg.norm(vectors[rows].mean(axis=0) - vectors.mean(axis=0))


def test_by_hand():
    # Mean 1.5. Weights 1.5: row 3 (value 3). Weights 0: all equal, row 0. Weights 1.5: row 2. Last, row 1.
    vectors = np.array([[0], [1], [2], [3]], np.float32)
    found = ranked(herding, vectors, 4, HerdingConfig())
    assert found.rows.tolist() == [3, 0, 2, 1]
    assert found.values.tolist() == pytest.approx([1.5, 0, 1 / 6, 0])


@pytest.mark.parametrize("settings", [{}, {"pool": None}, {"pool": 500}])
def test_few_rows_are_herded_as_in_the_paper(settings, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 64)
    vectors = gaussian_clusters(500)
    assert ranked(herding, vectors, 100, HerdingConfig(**settings)).rows.tolist() == textbook(vectors, 100)


def test_pools_stay_far_nearer_to_the_mean_than_random_rows():
    vectors = gaussian_clusters(20_000, dim=32, clusters=50)
    found = ranked(herding, vectors, 2000, HerdingConfig())
    for rows in (200, 2000):
        randoms = [deviation(vectors, np.random.default_rng(seed).permutation(20_000)[:rows]) for seed in range(5)]
        assert deviation(vectors, found.rows[:rows]) < np.mean(randoms) / 10


def test_values_are_the_deviations():
    vectors = gaussian_clusters(3000)
    found = ranked(herding, vectors, 50, HerdingConfig(pool=100))
    for rows in (1, 7, 50):
        assert found.values[rows - 1] == pytest.approx(deviation(vectors, found.rows[:rows]), rel=1e-4)


def test_the_pools_are_of_the_seed():
    vectors, config = gaussian_clusters(1000), HerdingConfig(pool=50)
    first = ranked(herding, vectors, 100, config, seed=0).rows.tolist()
    assert first == ranked(herding, vectors, 100, config, seed=0).rows.tolist()
    assert first != ranked(herding, vectors, 100, config, seed=1).rows.tolist()


@pytest.mark.parametrize("settings", [{}, {"pool": 20}, {"pool": 1}, {"pool": 5, "picks_per_pool": 16}])
def test_contract(settings, tmp_path):
    check_contract(herding, HerdingConfig(**settings), tmp_path)
