"""Rows with similar vectors: which are duplicates, of which row, and how similar, by brute force."""

import numpy as np
import pytest
import torch
from support.selector_checks import gaussian_clusters

from data_pipeline.selection import semantic_duplicates as module
from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.semantic_duplicates import find_copies, find_duplicates, semantic_duplicates
from data_pipeline.selection.vectors import VectorBlocks


def blocks(vectors):
    return VectorBlocks(vectors, torch.device("cpu"), unit=True)


def unit(vectors):
    exact = vectors.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-30)


def plain(vectors, order, threshold):
    """One row at a time: the retained rows, and (row, most similar retained row, cosine) of the others."""
    vectors = unit(vectors)
    retained, duplicates = [], []
    for row in order:
        cosines = vectors[retained] @ vectors[row] if retained else np.zeros(0)
        if len(cosines) and cosines.max() > threshold:
            duplicates.append((int(row), retained[int(cosines.argmax())], cosines.max()))
        else:
            retained.append(int(row))
    return retained, duplicates


def same(found, expected):
    assert found.rows.tolist() == [row for row, _, _ in expected]
    assert found.similar_to.tolist() == [other for _, other, _ in expected]
    assert found.cosines == pytest.approx([cosine for _, _, cosine in expected], abs=1e-5)


@pytest.mark.parametrize("block", [1, 7, 64, 1024])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_duplicates_are_those_found_one_by_one(block, threshold, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    vectors = gaussian_clusters(300, dim=4)
    order = np.random.default_rng(0).permutation(300)
    retained, duplicates = plain(vectors, order, threshold)
    assert 2 < len(retained) < 300
    found_retained, found = find_duplicates(blocks(vectors), order, threshold)
    assert found_retained.tolist() == retained
    same(found, duplicates)


@pytest.mark.parametrize("keep", ["first", "nearest", "farthest"])
def test_one_cluster_compares_all_pairs(keep):
    vectors, among = gaussian_clusters(200, dim=4), np.arange(0, 200, 2)
    distances = np.linalg.norm(unit(vectors) - unit(vectors).mean(axis=0), axis=1)
    sign = {"first": 0, "nearest": 1, "farthest": -1}[keep]
    order = among[np.argsort(sign * distances[among], kind="stable")]
    found = semantic_duplicates(blocks(vectors), among, 0.9, np.random.default_rng(0), clusters=1, keep=keep)
    same(found, sorted(plain(vectors, order, 0.9)[1]))


def test_duplicates_are_searched_for_within_clusters():
    vectors = gaussian_clusters(300, dim=4)
    clusters = cluster(blocks(vectors), 6, np.random.default_rng(3))
    expected = []
    for members in clusters.members():
        expected += plain(vectors, clusters.by_distance(members, "farthest"), 0.9)[1]
    found = semantic_duplicates(
        blocks(vectors), np.arange(300), 0.9, np.random.default_rng(3), clusters=6, keep="farthest"
    )
    same(found, sorted(expected))


@pytest.mark.parametrize(("block", "part_numbers"), [(1024, 2**24), (7, 5 * 4)])
def test_copies_of_another_set_are_those_of_all_pairs(block, part_numbers, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "_PART_NUMBERS", part_numbers)
    vectors, others = gaussian_clusters(100, dim=4), gaussian_clusters(23, dim=4, seed=1)
    rows = np.arange(5, 100, 3)
    cosines = unit(vectors)[rows] @ unit(others).T
    expected = [
        (int(row), int(some.argmax()), some.max()) for row, some in zip(rows, cosines, strict=True) if some.max() >= 0.9
    ]
    assert 0 < len(expected) < len(rows)
    same(find_copies(blocks(vectors), rows, blocks(others), 0.9), expected)


def test_rows_of_zeros_and_no_rows():
    vectors = np.zeros((5, 3), np.float32)
    vectors[0] = vectors[1] = 1
    found = semantic_duplicates(blocks(vectors), np.arange(5), 0.9, np.random.default_rng(0), clusters=1, keep="first")
    assert (found.rows.tolist(), found.similar_to.tolist()) == ([1], [0])
    nothing = np.zeros(0, np.int64)
    found = semantic_duplicates(blocks(vectors), nothing, 0.9, np.random.default_rng(0), clusters=3, keep="farthest")
    assert not len(found.rows)
    assert not len(find_copies(blocks(vectors), nothing, blocks(vectors), 0.9).rows)
