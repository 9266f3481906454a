from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.selectors.stratified import StratifiedConfig, stratified


def features(**columns):
    count = len(next(iter(columns.values())))
    scores = {name: np.array(values, np.float64) for name, values in columns.items()}
    return Features([str(row) for row in range(count)], scores=scores)


def ranked(table, rows, seed=0, **config):
    config = StratifiedConfig(**config)
    return stratified(table.only(config.needs), rows, np.random.default_rng(seed), config).rows.tolist()


def sainte_lague(sizes, budget):
    """One row after another to the stratum that has the best claim to it, the larger first among equals."""
    seats = [0] * len(sizes)
    for _ in range(budget):
        claims = [Fraction(size, 2 * taken + 1) for size, taken in zip(sizes, seats, strict=True)]
        best = max(range(len(sizes)), key=lambda stratum: (claims[stratum], sizes[stratum], -stratum))
        seats[best] += 1
    return seats


@pytest.mark.slow
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.booleans(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_budget_gives_each_stratum_its_share(sizes, spread, seed):
    # With so many bins, every value is a stratum.
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    table = features(kind=kinds, length=np.arange(len(kinds)) % 5)
    config = {"columns": ("kind",), "bins": len(kinds), "spread": "length" if spread else None}
    whole = ranked(table, len(kinds), seed, **config)
    assert sorted(whole) == list(range(len(kinds)))
    for budget in range(len(kinds) + 1):
        found = np.bincount(kinds[whole[:budget]], minlength=len(sizes)).tolist()
        assert found == sainte_lague(sizes, budget)
        assert ranked(table, budget, seed, **config) == whole[:budget]


def test_no_stratum_is_crowded_out_by_the_first_ones():
    # An earlier system gave every group one row at least and cut the list: the last groups got none.
    kinds = np.repeat(np.arange(300), 10)
    found = ranked(features(kind=kinds), 300, columns=("kind",), bins=300)
    assert len(set(kinds[found])) == 300


def test_cells_of_a_grid_of_quantiles():
    rng = np.random.default_rng(0)
    a, b = rng.permutation(1000), rng.permutation(1000)
    found = ranked(features(a=a, b=b), 160, columns=("a", "b"), bins=4)
    for column in (a, b):
        counts = np.bincount(column[found] // 250, minlength=4)
        assert counts.min() >= 35
        assert counts.max() <= 45


def test_spread_means_from_everywhere():
    lengths = np.random.default_rng(0).permutation(1000)
    table = features(kind=np.zeros(1000), length=lengths)
    for rows in (1, 7, 10, 64, 333):
        found = np.sort(lengths[ranked(table, rows, columns=("kind",), bins=1, spread="length")])
        gaps = np.diff([0, *found.tolist(), 1000])
        assert gaps.max() <= 2.1 * 1000 / rows


def test_distinct_spreads_leave_nothing_to_chance():
    table = features(kind=[0, 1] * 20, length=np.arange(40))
    config = {"columns": ("kind",), "bins": 2, "spread": "length"}
    assert ranked(table, 15, 0, **config) == ranked(table, 15, 1, **config)
    config["spread"] = None
    assert ranked(table, 15, 0, **config) != ranked(table, 15, 1, **config)


def test_what_it_looks_at():
    assert StratifiedConfig(columns=("a", "b"), spread="c").needs == {"score:a", "score:b", "score:c"}
    with pytest.raises(SelectionError, match="score:b"):
        ranked(features(a=[1]), 1, columns=("a", "b"))
    with pytest.raises(ValidationError):
        StratifiedConfig(columns=())


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1, 1e9]), st.floats(-5, 5)), min_size=1, max_size=40), st.integers(1, 9)
)
@settings(max_examples=100, deadline=None)
def test_exactly_so_many_distinct_rows_and_fewer_are_a_prefix(rows, bins):
    table = features(a=[row[0] for row in rows], b=[row[1] for row in rows])
    whole = ranked(table, len(rows), columns=("a", "b"), bins=bins)
    assert sorted(whole) == list(range(len(rows)))
    assert all(ranked(table, count, columns=("a", "b"), bins=bins) == whole[:count] for count in range(len(rows)))
