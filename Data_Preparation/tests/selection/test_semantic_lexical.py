import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.ordering import fractional_ranks
from data_pipeline.selection.selectors import semantic_lexical as module
from data_pipeline.selection.selectors.semantic_lexical import SemanticLexicalConfig, semantic_lexical


def features(vectors, scores):
    return Features([str(row) for row in range(len(scores))], vectors, scores={"mtld": np.array(scores, np.float64)})


def ranked(vectors, scores, rows, seed=0, **config):
    return semantic_lexical(
        features(vectors, scores), rows, np.random.default_rng(seed), SemanticLexicalConfig(**config)
    )


def step_by_step(vectors, weights, rows):
    """Every product anew for every row."""
    chosen = [int(weights.argmax())]
    while len(chosen) < rows:
        distances = np.linalg.norm(vectors[:, None] - vectors[chosen], axis=2).min(axis=1)
        distances[chosen] = -1
        chosen.append(int((distances * weights).argmax()))
    return chosen


@pytest.mark.parametrize("candidates", [1, 40, 1024])
@pytest.mark.parametrize("alpha", [0.3, 1, 4])
def test_each_is_the_best_of_all(monkeypatch, candidates, alpha):
    monkeypatch.setattr(module, "_CANDIDATES", candidates)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 37)
    rng = np.random.default_rng(1)
    vectors, scores = rng.standard_normal((200, 6)).astype(np.float32), rng.permutation(200)
    expected = step_by_step(vectors, fractional_ranks(scores.astype(float)) ** alpha, 120)
    assert ranked(vectors, scores, 120, alpha=alpha).rows.tolist() == expected


def test_alpha_0_is_farthest_first_from_a_random_row():
    vectors = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    found = ranked(vectors, np.arange(60), 30, alpha=0).rows
    first = np.zeros(60)
    first[found[0]] = 1e-9
    assert found.tolist() == step_by_step(vectors, 1 + first, 30)
    assert len({int(ranked(vectors, np.arange(60), 1, seed, alpha=0).rows[0]) for seed in range(20)}) > 5


def test_by_hand():
    # On a line; the rows at 0 and 10 have the richest words. 9 is as far as 10 is, nearly, and poorer.
    vectors = np.array([[0], [1], [5], [9], [10]], np.float32)
    found = ranked(vectors, [5, 1, 3, 2, 4], 5)
    assert found.rows.tolist() == [0, 4, 2, 3, 1]
    np.testing.assert_allclose(found.values, [0.9, 10 * 0.7, 5 * 0.5, 1 * 0.3, 1 * 0.1], rtol=1e-5)


def test_only_the_order_of_the_lexical_scores_counts():
    rng = np.random.default_rng(2)
    vectors, scores = rng.standard_normal((50, 3)).astype(np.float32), rng.standard_normal(50)
    assert ranked(vectors, scores, 50).rows.tolist() == ranked(vectors, np.exp(9 * scores), 50).rows.tolist()


def test_rounding_chooses_no_row_twice(monkeypatch):
    # So far from zero, float32 takes a row's distance to itself for that to any other.
    monkeypatch.setattr(module, "_SAME", 0)
    monkeypatch.setattr(module, "_CANDIDATES", 7)
    vectors = 1000 + np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    assert sorted(ranked(vectors, np.arange(300), 300).rows) == list(range(300))


def test_copies_are_never_chosen_twice_and_come_last():
    # An earlier system chose row 0 again and again once all distances were 0.
    vectors = np.repeat(np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32), 20, axis=0)
    scores = np.random.default_rng(1).permutation(100)
    found = ranked(vectors, scores, 100)
    assert sorted(found.rows) == list(range(100))
    assert len(set(found.rows[:5] // 20)) == 5
    assert (found.values[5:] == 0).all()
    assert (np.diff(scores[found.rows[5:]]) < 0).all()


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 4), st.sampled_from([1, 5, 1024]))
@settings(max_examples=40, deadline=None)
def test_exactly_so_many_distinct_rows_and_fewer_are_a_prefix(count, width, seed, candidates):
    rng = np.random.default_rng(seed)
    vectors, scores = rng.integers(0, 3, (count, width)).astype(np.float16), rng.integers(0, 4, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CANDIDATES", candidates)
        whole = ranked(vectors, scores, count, seed).rows.tolist()
        assert sorted(whole) == list(range(count))
        assert all(ranked(vectors, scores, rows, seed).rows.tolist() == whole[:rows] for rows in range(count))


def test_vectors_may_be_tensors_of_half_precision_or_read_only():
    rng = np.random.default_rng(0)
    vectors, scores = rng.standard_normal((100, 8)).astype(np.float16), rng.permutation(100)
    expected = ranked(vectors.astype(np.float32), scores, 40).rows.tolist()
    assert ranked(torch.from_numpy(vectors), scores, 40).rows.tolist() == expected
    assert ranked(vectors, scores, 40).rows.tolist() == expected


def test_what_it_looks_at():
    assert SemanticLexicalConfig(score="mattr").needs == {"embeddings", "score:mattr"}
    with pytest.raises(SelectionError, match="NaN"):
        ranked(np.array([[1.0], [np.nan]], np.float32), [1, 2], 1)
