import logging

import numpy as np
import pytest
from support.selector_checks import check_contract, gaussian_clusters, ranked

from data_pipeline.selection import semantic_duplicates as module
from data_pipeline.selection.selectors.dedup import DedupConfig, dedup


def plain(vectors, order, threshold):
    """Rows that are like none kept before them."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    kept = []
    for row in order:
        if not kept or (unit[kept] @ unit[row]).max() <= threshold:
            kept.append(int(row))
    return kept


def kept_of(vectors, rows, **settings):
    return sorted(ranked(dedup, vectors, rows, DedupConfig(**settings)).rows.tolist())


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_same_rows_as_one_by_one(block, threshold, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    vectors = gaussian_clusters(300, dim=4)
    expected = plain(vectors, range(300), threshold)
    assert 2 < len(expected) < 300
    assert kept_of(vectors, len(expected), threshold=threshold, keep="first") == sorted(expected)


@pytest.mark.parametrize(("keep", "sign"), [("nearest", 1), ("farthest", -1)])
def test_which_one_is_kept(keep, sign):
    vectors = gaussian_clusters(200, dim=4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(sign * np.linalg.norm(unit - unit.mean(axis=0), axis=1))
    expected = plain(vectors, order, 0.9)
    assert kept_of(vectors, len(expected), threshold=0.9, keep=keep) == sorted(expected)


def test_copies_come_last_and_a_budget_that_reaches_them_is_told(caplog):
    vectors = np.repeat(np.eye(10, dtype=np.float32), 3, axis=0)
    with caplog.at_level(logging.WARNING):
        found = ranked(dedup, vectors, 10, DedupConfig(keep="first", cluster_rows=4)).rows
        assert not caplog.records
        assert sorted(found.tolist()) == list(range(0, 30, 3))
        more = ranked(dedup, vectors, 14, DedupConfig(keep="first", cluster_rows=4)).rows
    assert more[:10].tolist() == found.tolist()
    assert len(set(more.tolist())) == 14
    assert "4 of the 14 selected rows are duplicates" in caplog.text


def test_rows_of_zeros_are_like_nothing():
    vectors = np.zeros((5, 3), np.float32)
    vectors[0] = vectors[1] = 1
    assert kept_of(vectors, 4, keep="first") == [0, 2, 3, 4]


def test_kept_rows_are_in_random_order():
    vectors = gaussian_clusters(100, dim=32)
    orders = {tuple(ranked(dedup, vectors, 100, DedupConfig(threshold=1), seed).rows.tolist()) for seed in range(3)}
    assert len(orders) == 3


@pytest.mark.parametrize("settings", [{}, {"cluster_rows": 10, "keep": "nearest"}, {"threshold": 0, "keep": "first"}])
def test_contract(settings, tmp_path):
    check_contract(dedup, DedupConfig(**settings), tmp_path)
