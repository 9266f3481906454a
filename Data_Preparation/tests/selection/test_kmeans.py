import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selector_checks import check_contract, gaussian_clusters, mapped, ranked

from data_pipeline.selection import clusters as module
from data_pipeline.selection import vectors as blocks
from data_pipeline.selection.clusters import bounded_parts, cluster
from data_pipeline.selection.selectors.kmeans import KMeansConfig, kmeans
from data_pipeline.selection.vectors import VectorBlocks


def clustered(values, k, seed=0):
    return cluster(VectorBlocks(values, torch.device("cpu")), k, np.random.default_rng(seed))


def test_clusters_that_lie_far_apart_are_found(monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 17)
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 6
    values = (100 * rng.normal(size=(6, 5))[truth] + rng.normal(size=(300, 5))).astype(np.float32)
    found = clustered(values, 6)
    assert len({(one, other) for one, other in zip(truth, found.labels.tolist(), strict=True)}) == 6
    for label, members in enumerate(found.members()):
        assert found.centroids[label] == pytest.approx(values[members].mean(axis=0), rel=1e-4, abs=1e-3)
    distances = np.linalg.norm(values - found.centroids[found.labels], axis=1)
    assert found.distances == pytest.approx(distances, rel=1e-2)
    assert found.inertia == pytest.approx((distances.astype(float) ** 2).sum(), rel=1e-2)


@pytest.mark.parametrize("sample", [40, 128])
def test_as_good_as_scikit_learn(sample, monkeypatch):
    from sklearn.cluster import KMeans

    monkeypatch.setattr(module, "_SAMPLE_ROWS_PER_CLUSTER", sample)
    values = gaussian_clusters(3000, clusters=40)
    peer = KMeans(30, n_init=1, random_state=0).fit(values)
    found = clustered(values, 30)
    assert found.inertia < 1.1 * peer.inertia_
    nearest = ((values[:, None] - found.centroids) ** 2).sum(axis=2)
    assert found.distances**2 == pytest.approx(nearest.min(axis=1), rel=1e-3, abs=1e-3)


def test_no_cluster_stays_empty_where_there_are_rows_enough():
    # Two points many times, and some far ones: random starts often fall together.
    values = np.concatenate([np.zeros((200, 2)), np.ones((200, 2)), 50 * np.eye(10, 2) + np.arange(10)[:, None]])
    for seed in range(5):
        assert np.bincount(clustered(values.astype(np.float32), 8, seed).labels, minlength=8).min() > 0


def test_copies_and_too_few_rows():
    found = clustered(np.ones((20, 3), np.float32), 5)
    assert len(found.centroids) == 5
    assert found.inertia == 0
    assert len(clustered(gaussian_clusters(3), 128).centroids) == 3


def test_seeds_and_maps(tmp_path):
    values = gaussian_clusters(500)
    first = clustered(values, 10, seed=0)
    assert np.array_equal(first.labels, clustered(mapped(values, tmp_path), 10, seed=0).labels)
    assert np.array_equal(first.labels, clustered(torch.from_numpy(values), 10, seed=0).labels)
    assert not np.array_equal(first.labels, clustered(values, 10, seed=1).labels)


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_parts_hold_every_row_once_and_no_more_than_allowed(rows, most, seed, copies):
    values = np.ones((rows, 2), np.float32) if copies else gaussian_clusters(rows)
    parts = bounded_parts(VectorBlocks(values, torch.device("cpu")), most, np.random.default_rng(seed))
    assert all(0 < len(part) <= most for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))


@pytest.mark.parametrize("order", ["random", "nearest", "farthest"])
def test_every_prefix_is_proportional(order):
    values, config = gaussian_clusters(1000), KMeansConfig(clusters=20, order=order)
    found = ranked(kmeans, values, 1000, config)
    labels = clustered(values, 20).labels
    sizes = np.bincount(labels, minlength=20)
    for rows in (10, 60, 128, 500, 999):
        counts = np.bincount(labels[found.rows[:rows]], minlength=20)
        assert np.abs(counts - sizes * rows / 1000).max() < 1.5


@pytest.mark.parametrize(("order", "sign"), [("nearest", 1), ("farthest", -1)])
def test_within_a_cluster_in_order_of_the_distance(order, sign):
    values = gaussian_clusters(300)
    found = ranked(kmeans, values, 300, KMeansConfig(clusters=5, order=order))
    clusters = clustered(values, 5)
    for label in range(5):
        inside = found.rows[clusters.labels[found.rows] == label]
        assert (np.diff(sign * clusters.distances[inside]) >= 0).all()


def test_every_seed_has_an_order_of_its_own():
    values = gaussian_clusters(300)
    assert (
        ranked(kmeans, values, 30, KMeansConfig(), 0).rows.tolist()
        != ranked(kmeans, values, 30, KMeansConfig(), 1).rows.tolist()
    )


@pytest.mark.parametrize("settings", [{}, {"clusters": 7}, {"clusters": 1, "order": "farthest"}, {"order": "nearest"}])
def test_contract(settings, tmp_path):
    check_contract(kmeans, KMeansConfig(**settings), tmp_path)
