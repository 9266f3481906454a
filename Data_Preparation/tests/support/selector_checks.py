"""Rows to select from, and checks that every selector of embeddings must pass."""

import numpy as np
import pytest
import torch

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features


def features_of(vectors):
    return Features([str(row) for row in range(len(vectors))], vectors)


def ranked(selector, vectors, rows, config, seed=0):
    return selector(features_of(vectors), rows, np.random.default_rng(seed), config)


def gaussian_clusters(rows, dim=8, clusters=10, seed=0):
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(clusters, dim)) + 1
    return (centers[rng.integers(clusters, size=rows)] + rng.normal(size=(rows, dim))).astype(np.float32)


def with_copies():
    """Every row is there five times, two rows are zero."""
    vectors = np.tile(gaussian_clusters(12), (5, 1))
    vectors[[3, 40]] = 0
    return vectors


def mapped(vectors, folder):
    path = folder / "vectors.npy"
    np.save(path, vectors)
    return np.load(path, mmap_mode="r")


def check_contract(selector, config, tmp_path):
    """Exact counts, no row twice, prefixes, seeds, and the same rows from every kind of array."""
    for vectors in (gaussian_clusters(200), with_copies(), np.ones((30, 3), np.float32), np.zeros((30, 3), np.float32)):
        full = ranked(selector, vectors, len(vectors), config)
        assert sorted(full.rows.tolist()) == list(range(len(vectors)))
        for rows in (1, 2, 17, len(vectors) - 1):
            fewer = ranked(selector, vectors, rows, config)
            assert fewer.rows.tolist() == full.rows[:rows].tolist()
            if full.values is not None:
                assert len(full.values) == len(vectors)
                assert fewer.values.tolist() == full.values[:rows].tolist()
    assert ranked(selector, np.ones((1, 3), np.float32), 1, config).rows.tolist() == [0]
    _check_seeds_and_arrays(selector, config, tmp_path)


def _check_seeds_and_arrays(selector, config, tmp_path):
    vectors = gaussian_clusters(300).astype(np.float16)
    first = ranked(selector, vectors, 50, config).rows.tolist()
    assert first == ranked(selector, vectors, 50, config).rows.tolist()
    same = vectors.astype(np.float32), vectors.astype(np.float64), torch.from_numpy(vectors), mapped(vectors, tmp_path)
    for other in same:
        assert first == ranked(selector, other, 50, config).rows.tolist()
    for wrong in (np.nan, np.inf):
        broken = gaussian_clusters(20)
        broken[7, 3] = wrong
        with pytest.raises(SelectionError, match="row 7 .*NaN or infinite"):
            ranked(selector, broken, 5, config)
    with pytest.raises(SelectionError, match="embeddings"):
        selector(Features(["a"]), 1, np.random.default_rng(0), config)
