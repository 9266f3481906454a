import numpy as np
import pytest
from support.selector_checks import check_contract, gaussian_clusters, ranked

from data_pipeline.selection.selectors import facility_location as module
from data_pipeline.selection.selectors.facility_location import FacilityLocationConfig, facility_location


def similarities(vectors):
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.maximum(unit @ unit.T, 0)


def plain_greedy(similar, rows):
    covered, picks, gains = np.zeros(len(similar)), [], []
    for _ in range(rows):
        added = np.maximum(similar - covered, 0).sum(axis=1)
        added[picks] = -1
        picks.append(int(np.argmax(added >= added.max() - 1e-6)))  # two rows that cover each other are equal
        gains.append(added.max())
        covered = np.maximum(covered, similar[picks[-1]])
    return picks, gains


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_same_picks_as_the_plain_algorithm(batch, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", batch)
    vectors = gaussian_clusters(300)
    found = ranked(facility_location, vectors, 80, FacilityLocationConfig())
    picks, gains = plain_greedy(similarities(vectors), 80)
    assert found.rows.tolist() == picks
    assert found.values == pytest.approx(gains, rel=1e-3, abs=1e-4)


def test_by_hand():
    # Two directions, one of three rows and one of two; the first of each is enough.
    vectors = np.array([[1, 0], [0, 2], [3, 0], [0, 4], [5, 0]], np.float32)
    found = ranked(facility_location, vectors, 5, FacilityLocationConfig())
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.values.tolist() == [3, 2, 0, 0, 0]


def test_parts_are_greedy_for_a_sum_without_similarities_between_them(monkeypatch):
    vectors = gaussian_clusters(400)
    parts = [np.arange(start, 400, 3) for start in range(3)]
    monkeypatch.setattr(module, "bounded_parts", lambda vectors, most, rng: parts)
    found = ranked(facility_location, vectors, 60, FacilityLocationConfig())
    same_part = np.arange(400)[:, None] % 3 == np.arange(400) % 3
    picks, gains = plain_greedy(similarities(vectors) * same_part, 60)
    assert found.rows.tolist() == picks
    assert found.values == pytest.approx(gains, rel=1e-3)


def test_parts_come_near_to_the_whole():
    vectors = gaussian_clusters(2000, dim=16, clusters=20)
    similar = similarities(vectors)

    def covered(rows):
        return similar[rows].max(axis=0).mean()

    whole = covered(ranked(facility_location, vectors, 100, FacilityLocationConfig()).rows)
    parts = covered(ranked(facility_location, vectors, 100, FacilityLocationConfig(dense_rows=300)).rows)
    chance = covered(np.random.default_rng(0).permutation(2000)[:100])
    assert whole - parts < 0.2 * (whole - chance)


@pytest.mark.parametrize("settings", [{}, {"dense_rows": 40}, {"dense_rows": 1}])
def test_contract(settings, tmp_path):
    check_contract(facility_location, FacilityLocationConfig(**settings), tmp_path)
