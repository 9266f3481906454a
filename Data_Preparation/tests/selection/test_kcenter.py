import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selector_checks import check_contract, features_of, gaussian_clusters, ranked

from data_pipeline.selection import vectors as blocks
from data_pipeline.selection.selectors import kcenter as module
from data_pipeline.selection.selectors.kcenter import KCenterConfig, kcenter


def plain_greedy(vectors, first, rows):
    """Farthest first, every distance in float64, ties to the lowest row."""
    vectors = vectors.astype(np.float64)
    squared = ((vectors - vectors[first]) ** 2).sum(axis=1)
    picks, values = [first], [np.inf]
    while len(picks) < rows:
        squared[picks] = -1
        picks.append(int(squared.argmax()))
        values.append(squared.max() ** 0.5)
        squared = np.minimum(squared, ((vectors - vectors[picks[-1]]) ** 2).sum(axis=1))
    return picks, values


@pytest.fixture(params=[3, 2048])
def _candidates(request, monkeypatch):
    monkeypatch.setattr(module, "_CANDIDATES", request.param)
    monkeypatch.setattr(blocks, "_BLOCK_ROWS", 13)


@pytest.mark.usefixtures("_candidates")
@pytest.mark.parametrize("offset", [0, 1000])
def test_same_picks_as_the_plain_algorithm(offset):
    vectors = gaussian_clusters(400) + np.float32(offset)
    found = ranked(kcenter, vectors, 150, KCenterConfig())
    picks, values = plain_greedy(vectors, found.rows[0], 150)
    assert found.rows.tolist() == picks
    assert found.values == pytest.approx(values, rel=1e-6)


@pytest.mark.usefixtures("_candidates")
def test_cosine_is_of_directions():
    vectors = gaussian_clusters(300)
    found = ranked(
        kcenter, vectors * np.linspace(1, 5, 300, dtype=np.float32)[:, None], 60, KCenterConfig(metric="cosine")
    )
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    picks, values = plain_greedy(unit, found.rows[0], 60)
    assert found.rows.tolist() == picks
    assert found.values[1:] == pytest.approx(np.square(values[1:]) / 2, rel=1e-5)  # |a - b|^2 = 2 - 2 cos


@pytest.mark.parametrize("candidates", [1, 4, 2048])
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 2)), min_size=1, max_size=40), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_ties_and_copies_go_to_the_lowest_row(candidates, points, seed):
    vectors = np.array(points, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CANDIDATES", candidates)
        found = ranked(kcenter, vectors, len(vectors), KCenterConfig(), seed)
    picks, _ = plain_greedy(vectors, found.rows[0], len(vectors))
    assert found.rows.tolist() == picks


def test_far_more_ties_than_candidates(monkeypatch):
    monkeypatch.setattr(module, "_CANDIDATES", 4)
    found = ranked(kcenter, np.eye(40, dtype=np.float32), 40, KCenterConfig())
    first = int(found.rows[0])
    assert found.rows[1:].tolist() == [row for row in range(40) if row != first]


def test_copies_are_never_taken_while_others_are_left():
    vectors = np.repeat(gaussian_clusters(30), 4, axis=0)
    found = ranked(kcenter, vectors, 120, KCenterConfig())
    assert len(set((found.rows[:30] // 4).tolist())) == 30
    assert found.values[29] > 0
    assert not found.values[30:].any()
    rest = found.rows[30:].tolist()
    assert rest == sorted(rest)


def count_rounds(monkeypatch):
    calls, choose = [], module._Greedy._choose

    def counted(greedy, *arguments):
        calls.append(len(greedy.picks))
        choose(greedy, *arguments)

    monkeypatch.setattr(module._Greedy, "_choose", counted)
    return calls


@pytest.mark.parametrize("outlier", [True, False])
def test_outliers_make_it_neither_wrong_nor_slow(outlier, monkeypatch):
    vectors = gaussian_clusters(600)
    seed = 0
    first = int(ranked(kcenter, vectors, 1, KCenterConfig(), seed).rows[0])
    vectors[first if outlier else first - 1] *= 1e6
    rounds = count_rounds(monkeypatch)
    found = ranked(kcenter, vectors, 200, KCenterConfig(), seed)
    assert found.rows.tolist() == plain_greedy(vectors, found.rows[0], 200)[0]
    assert len(rounds) < 10


def test_isolated_rows_come_last():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 4)).astype(np.float32)
    vectors[[5, 50, 150]] += np.array([[100, 0, 0, 0], [0, 100, 0, 0], [0, 0, 100, 0]], np.float32)
    plain = ranked(kcenter, vectors, 200, KCenterConfig())
    assert {5, 50, 150} <= set(plain.rows[:4].tolist())
    robust = ranked(kcenter, vectors, 200, KCenterConfig(drop_isolated=0.015))
    assert set(robust.rows[-3:].tolist()) == {5, 50, 150}
    assert sorted(robust.rows.tolist()) == list(range(200))


def test_every_seed_has_a_first_row_of_its_own():
    starts = {int(ranked(kcenter, gaussian_clusters(100), 1, KCenterConfig(), seed).rows[0]) for seed in range(20)}
    assert len(starts) > 10


@pytest.mark.parametrize("settings", [{}, {"metric": "cosine"}, {"drop_isolated": 0.2}])
def test_contract(settings, tmp_path):
    check_contract(kcenter, KCenterConfig(**settings), tmp_path)


def test_it_asks_for_embeddings_alone():
    assert KCenterConfig().needs == {"embeddings"}
    assert len(kcenter(features_of(gaussian_clusters(5)), 3, np.random.default_rng(0), KCenterConfig()).rows) == 3
