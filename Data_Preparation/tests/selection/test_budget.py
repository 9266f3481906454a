import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.errors import SelectionError
from data_pipeline.selection import Budget, interleaved, quotas
from data_pipeline.selection.budget import rows_within_tokens


@pytest.mark.parametrize(
    "wrong", [{}, {"rows": 1, "tokens": 1}, {"rows": 0}, {"tokens": -3}, {"fraction": 0}, {"fraction": 1.01}]
)
def test_a_budget_is_one_thing_in_range(wrong):
    with pytest.raises(SelectionError, match="budget: "):
        Budget(**wrong)


def test_fractions_round_to_the_nearest_row_and_give_one_at_least():
    assert Budget(fraction=0.1).rows_of(67_349) == 6735
    assert Budget(fraction=0.001).rows_of(10) == 1
    assert Budget(fraction=1).rows_of(7) == 7
    assert Budget(rows=7).rows_of(7) == 7
    with pytest.raises(SelectionError, match="the budget is 8 rows, and there are only 7"):
        Budget(rows=8).rows_of(7)
    with pytest.raises(SelectionError, match="no rows to select from"):
        Budget(fraction=0.5).rows_of(0)


def test_labels_do_not_collide():
    """The older names rounded: 0.5 % and 0.4 % were both p00."""
    budgets = [Budget(fraction=f) for f in (0.1, 0.01, 0.005, 0.004, 0.0049)] + [Budget(rows=10), Budget(tokens=10)]
    assert [budget.label for budget in budgets] == ["p10", "p1", "p0.5", "p0.4", "p0.49", "n10", "t10"]


def test_largest_remainders_by_hand():
    assert quotas([50, 30, 20], 10) == [5, 3, 2]
    assert quotas([5, 5, 5], 10) == [4, 3, 3]  # equal remainders: the first
    assert quotas([10, 1, 1], 3) == [3, 0, 0] or quotas([10, 1, 1], 3) == [2, 1, 0]
    assert quotas([7, 0, 2], 9) == [7, 0, 2]
    assert quotas([100, 3, 50], 30, "equal") == [14, 3, 13]
    with pytest.raises(SelectionError, match="the strata have 3"):
        quotas([1, 2], 4)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.data())
def test_quotas_add_up_and_no_stratum_gives_more_than_it_has(sizes, data):
    rows = data.draw(st.integers(0, sum(sizes)))
    for shares in ("proportional", "equal"):
        found = quotas(sizes, rows, shares)
        assert sum(found) == rows
        assert all(0 <= quota <= size for quota, size in zip(found, sizes, strict=True))
    if sum(sizes):
        for quota, size in zip(quotas(sizes, rows), sizes, strict=True):
            assert abs(quota - size * rows / sum(sizes)) < 1  # quota rule


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6))
@example([1, 1, 1, 1, 1, 11])  # reaches the bound
def test_strata_take_turns(counts):
    """A stratum has places in the middle of each of its equal parts, so none is ahead of it by more than half one."""
    turns = interleaved(counts)
    assert np.bincount(turns, minlength=len(counts)).tolist() == counts
    shares = np.array(counts) / max(1, len(turns))
    others = np.count_nonzero(counts) - 1
    bounds = np.where(shares > 0, (1 - shares) / 2 + shares * others / 2, 0)
    for place in range(1, len(turns) + 1):
        seen = np.bincount(turns[:place], minlength=len(counts))
        assert (np.abs(seen - shares * place) <= bounds + 1e-9).all()


def test_tokens_are_those_of_the_longest_prefix_that_fits():
    counts = np.array([5, 1, 9, 3, 3, 3, 100])
    order = np.array([2, 0, 1, 6, 3, 4, 5])

    def rank(rows):
        asked.append(rows)
        return order[:rows]

    asked = []
    assert rows_within_tokens(rank, counts, 15) == 3
    assert rows_within_tokens(rank, counts, 14) == 2
    assert rows_within_tokens(rank, counts, 10_000) == 7
    with pytest.raises(SelectionError, match="the first row of the ranking has 9"):
        rows_within_tokens(rank, counts, 8)
    long_first = np.array([6, 0, 1, 2, 3, 4, 5])
    assert rows_within_tokens(lambda rows: long_first[:rows], counts, 115) == 4  # 100 + 5 + 1 + 9
