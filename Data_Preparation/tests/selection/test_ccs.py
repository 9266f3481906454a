import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.selectors.ccs import CcsConfig, ccs


def features(scores):
    return Features([str(row) for row in range(len(scores))], scores={"s": np.array(scores, np.float64)})


def ranked(scores, rows, seed=0, **config):
    return ccs(features(scores), rows, np.random.default_rng(seed), CcsConfig(score="s", **config)).rows.tolist()


def papers_budgets(sizes, budget):
    """Algorithm 1 of the paper: the smallest stratum first, each gets an equal part of what is left."""
    budgets, left = [0] * len(sizes), budget
    waiting = sorted(range(len(sizes)), key=lambda stratum: sizes[stratum])
    while waiting:
        stratum = waiting[0]
        budgets[stratum] = min(sizes[stratum], left // len(waiting))
        left -= budgets[stratum]
        waiting.pop(0)
    return budgets


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_budget_is_split_as_in_the_paper(sizes, seed):
    # Stratum i has the scores i + something below 1; the ends 0 and len(sizes) make the parts 1 wide.
    sizes = [sizes[0] + 1, *sizes[1:]]
    rng = np.random.default_rng(seed)
    scores = np.concatenate([stratum + rng.uniform(0.1, 0.9, size) for stratum, size in enumerate(sizes)])
    scores[0] = 0
    scores = np.append(scores, len(sizes))
    sizes[-1] += 1
    strata = np.minimum(scores.astype(int), len(sizes) - 1)
    whole = ranked(scores, len(scores), seed, beta=0, strata=len(sizes))
    assert sorted(whole) == list(range(len(scores)))
    for budget in range(len(scores) + 1):
        found = np.bincount(strata[whole[:budget]], minlength=len(sizes)).tolist()
        expected = papers_budgets(sizes, budget)
        # Which of two strata of one size gets the odd row, the paper leaves open.
        assert sorted(zip(sizes, found, strict=True)) == sorted(zip(sizes, expected, strict=True))
        assert ranked(scores, budget, seed, beta=0, strata=len(sizes)) == whole[:budget]


def test_by_hand():
    # Parts of the range 0..10: ten scores below 5, two above.
    scores = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 9, 10]
    found = ranked(scores, 7, beta=0, strata=2)
    assert len(found) == 7
    assert {10, 11} < set(found[:4])


def test_the_hardest_are_left_out():
    scores = np.arange(100)
    assert max(ranked(scores, 70, beta=0.3)) == 69
    assert min(ranked(scores, 70, beta=0.3, hardest="lowest")) == 30
    with pytest.raises(
        SelectionError,
        match="71 rows exceeds the remaining rows: 70 of 100 remain .* 30% are dropped. Lower beta",
    ):
        ranked(scores, 71, beta=0.3)


def test_unless_strict_they_come_last_the_easiest_first():
    whole = ranked(np.arange(100), 100, beta=0.3, strict=False)
    assert sorted(whole[:70]) == list(range(70))
    assert whole[70:] == list(range(70, 100))
    turned = ranked(np.arange(100), 100, beta=0.3, hardest="lowest", strict=False)
    assert turned[70:] == list(range(29, -1, -1))


def test_one_outlier_does_not_matter_once_the_hardest_are_dropped():
    scores = [*np.linspace(0, 1, 99), 1e9]
    found = ranked(scores, 10, beta=0.01, strata=10)
    assert sorted((np.array(scores)[found] * 10).clip(max=9).astype(int)) == list(range(10))


def test_equal_scores_are_one_stratum():
    assert sorted(ranked([7.0] * 20, 20, beta=0)) == list(range(20))
    assert ranked([7.0] * 20, 5, 0) != ranked([7.0] * 20, 5, 1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 0.9), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_exactly_so_many_distinct_rows_and_fewer_are_a_prefix(scores, beta, strata):
    whole = ranked(scores, len(scores), beta=beta, strata=strata, strict=False)
    assert sorted(whole) == list(range(len(scores)))
    for rows in range(len(scores)):
        assert ranked(scores, rows, beta=beta, strata=strata, strict=False) == whole[:rows]


def test_it_looks_at_the_score_alone():
    assert CcsConfig(score="perplexity").needs == {"score:perplexity"}
