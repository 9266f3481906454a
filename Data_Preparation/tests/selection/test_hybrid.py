"""Selectors that are made of others: sequential and fusion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.selection import Budget, StrataConfig, registry, select
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Selector
from data_pipeline.selection.registry import FusionConfig, SequentialConfig, rank_by_fusion, rank_sequentially
from data_pipeline.selection.selectors import full


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    made_of_others = {
        "full": Selector(full.full, full.FullConfig),
        "sequential": Selector(rank_sequentially, SequentialConfig),
        "fusion": Selector(rank_by_fusion, FusionConfig),
    }
    for name, selector in made_of_others.items():
        monkeypatch.setitem(registry.SELECTORS, name, selector)


def by(score, direction="highest"):
    return {"selector": "text_metric", "parameters": {"score": score, "direction": direction}}


def table(rows=12, seed=0, **columns):
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(size=rows) for name in ("a", "b")} | columns
    return Features([str(row) for row in range(rows)], rng.normal(size=(rows, 3)).astype(np.float32), scores=scores)


def ranked(selector, features, rows, config, seed=0):
    return selector(features.only(config.needs), rows, np.random.default_rng(seed), config)


def steps(*parts):
    return SequentialConfig(steps=parts)


def parts(*parts):
    return FusionConfig(parts=parts)


def test_each_step_sees_what_those_before_it_left():
    features = table(a=np.arange(12.0), b=np.array([5.0, 1, 4, 0, 9, 8, 7, 6, 3, 2, 11, 10]))
    config = steps(by("a") | {"keep": 0.5}, by("b", "lowest") | {"keep": 0.25}, {"selector": "full"})
    assert config.needs == {"score:a", "score:b"}
    # a leaves 11 10 9 8 7 6, b of these 9 8 7.
    assert ranked(rank_sequentially, features, 3, config).rows.tolist() == [9, 8, 7]
    assert ranked(rank_sequentially, features, 1, config).rows.tolist() == [9]
    with pytest.raises(
        SelectionError, match="budget of 4 rows exceeds the remaining rows: the steps before full leave 3 of 12. Raise"
    ):
        ranked(rank_sequentially, features, 4, config)


def test_one_step_is_the_selector_itself():
    features = table()
    found = ranked(rank_sequentially, features, 12, steps(by("a")))
    assert found.rows.tolist() == np.argsort(-features.scores["a"]).tolist()


def test_a_step_is_shown_what_it_needs_and_no_more(monkeypatch):
    seen = []

    def spy(features, rows, rng, config):
        seen.append((len(features), features.embeddings is None, sorted(features.scores)))
        return full.full(features, rows, rng, config)

    monkeypatch.setitem(registry.SELECTORS, "full", Selector(spy, full.FullConfig))
    config = steps(by("a") | {"keep": 0.5}, {"selector": "full"})
    ranked(rank_sequentially, table(), 2, config)
    both = parts(by("a"), {"selector": "full"}, {"selector": "kcenter"})
    assert both.needs == {"score:a", "embeddings"}
    ranked(rank_by_fusion, table(), 2, both)
    assert seen == [(6, True, []), (12, True, [])]


def test_what_an_early_step_draws_does_not_move_a_later_one():
    features = table(200, a=np.arange(200.0))
    chance = {"selector": "random"}
    both = [
        ranked(rank_sequentially, features, 40, steps(first | {"keep": 1}, chance)).rows
        for first in ({"selector": "full"}, by("a"))
    ]
    # The first step leaves all rows, in one order or the other; the second draws the same places.
    assert both[0].tolist() == (199 - both[1]).tolist()


def test_places_are_added_up_with_their_weights():
    # Places by a: 0 1 2 3; by b: 3 0 1 2.
    features = table(4, a=np.array([4.0, 3, 2, 1]), b=np.array([1.0, 4, 3, 2]))
    found = ranked(rank_by_fusion, features, 4, parts(by("a"), by("b") | {"weight": 3}))
    shares = {0: (1 + 0) / 4, 1: (2 / 3 + 3) / 4, 2: (1 / 3 + 2) / 4, 3: (0 + 1) / 4}
    assert found.rows.tolist()[:2] == [1, 2]
    assert set(found.rows.tolist()[2:]) == {0, 3}
    np.testing.assert_allclose(found.values, [shares[row] for row in found.rows.tolist()])


def test_an_outlier_moves_no_more_than_its_own_place():
    scores = np.random.default_rng(1).normal(size=12)
    wild = scores.copy()
    wild[scores.argmax()] = 1e30
    config = parts(by("a"), by("b"))
    tame = ranked(rank_by_fusion, table(a=scores), 12, config).rows.tolist()
    assert ranked(rank_by_fusion, table(a=wild), 12, config).rows.tolist() == tame


def test_a_part_may_rank_fewer():
    features = table(10, a=np.arange(10.0), b=np.arange(10.0)[::-1])
    config = parts(by("a") | {"depth": 0.3, "weight": 10}, by("b"))
    # a ranks 9 8 7, all others are alike to it and come as b has them.
    assert ranked(rank_by_fusion, features, 10, config).rows.tolist() == [9, 8, 7, 0, 1, 2, 3, 4, 5, 6]
    strict = {"selector": "ccs", "parameters": {"score": "a", "beta": 0.2}}
    with pytest.raises(SelectionError, match="budget of 10 rows exceeds the remaining rows: 8 of 10"):
        ranked(rank_by_fusion, features, 1, parts(strict))
    assert len(ranked(rank_by_fusion, features, 10, parts(strict | {"depth": 0.8})).rows) == 10
    assert ranked(rank_by_fusion, table(1), 1, parts(by("a"))).rows.tolist() == [0]


def test_they_can_be_parts_of_each_other():
    quality = {"selector": "fusion", "parameters": {"parts": [by("a"), by("b")]}}
    config = steps(quality | {"keep": 0.5}, {"selector": "kcenter", "keep": 0.3}, {"selector": "random"})
    assert config.needs == {"score:a", "score:b", "embeddings"}
    features = table(40)
    best = set(ranked(rank_by_fusion, features, 20, parts(by("a"), by("b"))).rows.tolist())
    found = ranked(rank_sequentially, features, 12, config).rows.tolist()
    assert set(found) <= best
    assert len(set(found)) == 12


@pytest.mark.slow
@given(
    st.integers(2, 40),
    st.integers(0, 5),
    st.sampled_from(["full", "random", "kcenter", "text_metric"]),
    st.sampled_from(["random", "kcenter", "text_metric"]),
)
@settings(max_examples=60, deadline=None)
def test_exactly_so_many_distinct_rows_and_fewer_are_a_prefix(count, seed, first, last):
    one, other = ({"selector": name} | (by("a") if name == "text_metric" else {}) for name in (first, last))
    features = table(count, seed, a=np.random.default_rng(seed).integers(3, size=count).astype(float))
    config = steps(one | {"keep": 0.6}, other)
    left = max(1, int(0.6 * count + 0.5))
    for selector, settled, most in (
        (rank_sequentially, config, left),
        (rank_by_fusion, parts(one, other | {"weight": 2}), count),
    ):
        whole = ranked(selector, features, most, settled, seed).rows.tolist()
        assert len(set(whole)) == most
        for rows in range(1, most):
            assert ranked(selector, features, rows, settled, seed).rows.tolist() == whole[:rows]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([by("a"), by("b")], "every step but the last has a keep"),
        ([by("a") | {"keep": 0.5}], "the last has none"),
        ([by("a") | {"keep": 0.2}, by("b") | {"keep": 0.5}, by("a")], "no step can leave more than it gets"),
        ([by("a") | {"keep": 0}, by("b")], "greater than 0"),
        ([{"selector": "best"}], "unknown selector 'best'"),
        ([{"selector": "full", "parameters": {"k": 3}}], "parameters of full"),
        ([], "at least 1 item"),
    ],
)
def test_impossible_steps_are_refused_when_they_are_set(wrong, message):
    with pytest.raises(ValidationError, match=message):
        SequentialConfig(steps=wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([by("a") | {"weight": 0}], "greater than 0"),
        ([by("a") | {"weight": float("inf")}], "finite"),
        ([by("a", "up")], "parameters of text_metric"),
        ([], "at least 1 item"),
    ],
)
def test_impossible_parts_are_refused_when_they_are_set(wrong, message):
    with pytest.raises(ValidationError, match=message):
        FusionConfig(parts=wrong)


def test_select_takes_them_like_any_other():
    features = table(30, labels=np.zeros(30))
    chosen = {"steps": [by("a") | {"keep": 0.5}, by("b")]}
    found = select("sequential", features, Budget(rows=5), parameters=chosen)
    assert found.sees == {"score:a", "score:b"}
    assert found.settings["parameters"] == chosen
    assert found.subset.startswith("sequential_n5_seed0_")
    strata = StrataConfig(by="a", bins=3)
    grouped = select("fusion", features, Budget(rows=9), parameters={"parts": [by("a"), by("b")]}, strata=strata)
    thirds = np.argsort(np.argsort(features.scores["a"])) // 10
    assert np.bincount(thirds[grouped.rows]).tolist() == [3, 3, 3]
    with pytest.raises(ConfigError, match="unknown selector 'best'"):
        select("fusion", features, Budget(rows=9), parameters={"parts": [{"selector": "best"}]})
