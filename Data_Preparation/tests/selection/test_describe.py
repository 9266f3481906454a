import numpy as np
import pytest
from scipy.stats import ks_2samp

from data_pipeline.selection import Features, describe

RNG = np.random.default_rng(1)
VECTORS = RNG.normal(size=(80, 5)).astype(np.float32)
LENGTHS = RNG.integers(1, 50, 80)
LABELS = RNG.integers(0, 3, 80)
FEATURES = Features([str(row) for row in range(80)], VECTORS, labels=LABELS, token_counts=LENGTHS)
ROWS = np.array([3, 1, 50, 77, 12, 9, 30])


def test_coverage_by_brute_force():
    found = describe(FEATURES, ROWS)
    distances = np.linalg.norm(VECTORS[:, None] - VECTORS[ROWS], axis=2).min(axis=1)
    assert found["kcenter_radius"] == pytest.approx(distances.max(), rel=1e-4)
    assert found["mean_distance"] == pytest.approx(distances.mean(), rel=1e-3)
    deviation = np.linalg.norm(VECTORS.mean(axis=0) - VECTORS[ROWS].mean(axis=0))
    assert found["mean_deviation"] == pytest.approx(deviation, rel=1e-4)
    assert (found["rows"], found["of"]) == (7, 80)


def test_mmd_by_brute_force():
    from scipy.spatial.distance import cdist, pdist

    width = np.median(pdist(VECTORS)) ** 2
    kernel = np.exp(-(cdist(VECTORS, VECTORS) ** 2) / width)
    within = (kernel.sum() - 80) / (80 * 79)
    part = kernel[np.ix_(ROWS, ROWS)]
    within_part = (part.sum() - 7) / (7 * 6)
    across = (kernel[:, ROWS].sum() - 7) / (80 * 7 - 7)
    assert describe(FEATURES, ROWS)["mmd2"] == pytest.approx(within + within_part - 2 * across, abs=1e-5)


def test_drifts_by_hand_and_by_scipy():
    found = describe(FEATURES, ROWS)
    shares = np.bincount(LABELS[ROWS], minlength=3) / 7
    assert found["label_shares"] == {str(value): pytest.approx(share, abs=1e-5) for value, share in enumerate(shares)}
    assert found["label_drift"] == pytest.approx(np.abs(shares - np.bincount(LABELS) / 80).sum() / 2, rel=1e-4)
    assert found["length_drift"] == pytest.approx(ks_2samp(LENGTHS, LENGTHS[ROWS]).statistic, rel=1e-4)
    assert found["length_ratio"] == pytest.approx(LENGTHS[ROWS].mean() / LENGTHS.mean(), rel=1e-4)


def test_all_rows_are_no_drift():
    found = describe(FEATURES, np.arange(80))
    for name in ("kcenter_radius", "mean_deviation", "label_drift", "length_drift"):
        assert found[name] == pytest.approx(0, abs=2e-3), name
    assert found["overlap_with_random"] == found["overlap_expected"] == 1


def test_near_duplicates_of_rows_kept_apart():
    others = Features(["x", "y"], np.stack([VECTORS[50] * 3, -VECTORS[0]]))
    found = describe(FEATURES, ROWS, others=others)["near_duplicates_of_others"]
    assert found == {"selected": 1, "all": 1}


def test_what_is_not_there_is_left_out():
    found = describe(Features(["a", "b", "c"]), np.array([1]))
    assert set(found) == {"rows", "of", "overlap_with_random", "overlap_expected"}
    assert describe(Features(["a", "b"], np.ones((2, 3), np.float32)), np.array([0]))["mmd2"] is None


def test_a_subset_drawn_from_one_side_has_a_large_mmd():
    shifted = VECTORS.copy()
    shifted[:20] += 5
    features = Features(FEATURES.ids, shifted)
    near, far = (describe(features, rows)["mmd2"] for rows in (np.arange(0, 80, 4), np.arange(20)))
    assert far > 10 * abs(near)
