from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.selectors.full import FullConfig, full
from data_pipeline.selection.selectors.length_matched_random import LengthMatchedRandomConfig, length_matched_random

LIKE = LengthMatchedRandomConfig(like="other")


def features(counts, like):
    ids = [str(row) for row in range(len(counts))]
    return Features(ids, token_counts=np.array(counts, np.int64), subsets={"other": np.array(like, np.int64)})


def matched(counts, like, rows=None, seed=0):
    rows = len(like) if rows is None else rows
    return length_matched_random(features(counts, like), rows, np.random.default_rng(seed), LIKE).rows.tolist()


def test_full_is_the_first_rows():
    some = Features([str(row) for row in range(7)])
    for rows in (1, 3, 7):
        assert full(some, rows, np.random.default_rng(0), FullConfig()).rows.tolist() == list(range(rows))
    assert FullConfig().needs == frozenset()


def test_lengths_are_those_of_the_other_selection_in_its_order():
    counts = np.random.default_rng(0).integers(1, 6, 500)
    like = np.random.default_rng(1).choice(500, 60, replace=False)
    found = matched(counts, like)
    assert counts[found].tolist() == counts[like].tolist()
    assert len(set(found)) == 60
    assert found != matched(counts, like, seed=1)
    ranking = length_matched_random(features(counts, like), 60, np.random.default_rng(0), LIKE)
    assert ranking.values.tolist() == counts[like].tolist()


def test_the_nearest_length_where_none_is_left():
    # Wanted: 5, 5, 9, 1, 1; there: 5 4 7 9 20.
    found = matched([5, 4, 7, 9, 20], [0, 0, 3, 1, 1])
    assert found == [0, 1, 3, 2, 4]
    ties = Counter(tuple(matched([3, 5, 7], [1, 1, 1], seed=seed)) for seed in range(100))
    assert set(ties) == {(1, 0, 2), (1, 2, 0)}
    assert min(ties.values()) > 25


def test_rows_of_one_length_are_drawn_evenly():
    found = Counter(matched([4] * 5 + [9], [5, 0], seed=seed)[1] for seed in range(400))
    assert set(found) == set(range(5))
    assert min(found.values()) > 45


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(0, 5), st.randoms())
@settings(max_examples=150, deadline=None)
def test_distinct_exact_prefixes_and_never_a_nearer_row_left(counts, seed, random):
    like = random.sample(range(len(counts)), random.randint(1, len(counts)))
    whole = matched(counts, like, seed=seed)
    assert len(set(whole)) == len(like)
    for rows in range(len(like)):
        assert matched(counts, like, rows, seed) == whole[:rows]
    left = set(range(len(counts)))
    for wanted, row in zip(like, whole, strict=True):
        assert abs(counts[row] - counts[wanted]) == min(abs(counts[other] - counts[wanted]) for other in left)
        left.remove(row)


def test_more_rows_than_there_are_to_match_is_an_error():
    with pytest.raises(
        SelectionError, match="budget of 3 rows exceeds the selection 'other', which has 2 rows to match"
    ):
        matched([1, 2, 3, 4], [0, 1], 3)
    with pytest.raises(SelectionError, match="subset:other"):
        length_matched_random(Features(["a"], token_counts=np.array([1])), 1, np.random.default_rng(0), LIKE)


def test_it_sees_lengths_and_the_other_selection_alone():
    assert LIKE.needs == {"token_counts", "subset:other"}
