import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.ordering import distance_to_band, fractional_ranks, ranks_within_groups
from data_pipeline.selection.registry import SELECTORS
from data_pipeline.selection.selectors.by_score import (
    ConsistencyConfig,
    PredictiveEntropyConfig,
    RankByScoreConfig,
    TextMetricConfig,
    WordpieceRatioConfig,
    rank_by_score,
)
from data_pipeline.selection.selectors.perplexity import PerplexityConfig, perplexity


def features(**columns):
    count = len(next(iter(columns.values())))
    scores = {name: np.array(values, np.float64) for name, values in columns.items()}
    return Features([str(row) for row in range(count)], scores=scores)


def chosen(selector, table, rows, config, seed=0):
    return selector(table.only(config.needs), rows, np.random.default_rng(seed), config).rows.tolist()


BY_SCORE = [
    ("text_metric", TextMetricConfig, "flesch_reading_ease"),
    ("predictive_entropy", PredictiveEntropyConfig, "predictive_entropy"),
    ("wordpiece_ratio", WordpieceRatioConfig, "wordpiece_ratio"),
    ("consistency", ConsistencyConfig, "consistency"),
]


@pytest.mark.parametrize(("name", "config", "column"), BY_SCORE)
def test_one_column_and_its_direction(name, config, column):
    selector = SELECTORS[name].rank
    assert SELECTORS[name].config is config
    table = features(**{column: [3, 1, 4, 1.5, 9, 2]}, other=[0] * 6)
    assert config().needs == {f"score:{column}"}
    assert chosen(selector, table, 3, config()) == [4, 2, 0]
    assert chosen(selector, table, 3, config(direction="lowest")) == [1, 3, 5]
    assert sorted(chosen(selector, table, 2, config(direction="middle", low=0.35, high=0.65))) == [0, 5]
    assert chosen(selector, table, 1, config(score="other", direction="lowest"))[0] in range(6)
    ranking = selector(table, 2, np.random.default_rng(0), config())
    assert ranking.values.tolist() == [9, 4]


@given(
    st.lists(st.sampled_from([0.0, 1.0, 1.5, -3.0, 1e9]), min_size=1, max_size=40),
    st.sampled_from(["highest", "lowest", "middle"]),
    st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_exactly_so_many_distinct_rows_and_fewer_are_a_prefix(scores, direction, seed):
    table, config = features(s=scores), RankByScoreConfig(score="s", direction=direction)
    whole = chosen(rank_by_score, table, len(scores), config, seed)
    assert sorted(whole) == list(range(len(scores)))
    for rows in range(len(scores)):
        assert chosen(rank_by_score, table, rows, config, seed) == whole[:rows]


def test_equal_scores_are_in_random_order():
    table, config = features(s=[1.0] * 50), RankByScoreConfig(score="s")
    assert chosen(rank_by_score, table, 50, config, 0) != chosen(rank_by_score, table, 50, config, 1)
    assert chosen(rank_by_score, table, 50, config, 0) == chosen(rank_by_score, table, 50, config, 0)


def test_fractional_ranks_ignore_outliers_and_average_equal_scores():
    assert fractional_ranks(np.array([5.0, 1e12, -7])).tolist() == [0.5, 5 / 6, 1 / 6]
    assert fractional_ranks(np.array([2.0, 2, 1, 3])).tolist() == [0.5, 0.5, 0.125, 0.875]
    assert fractional_ranks(np.array([4.0])).tolist() == [0.5]


@given(st.integers(1, 60), st.floats(0, 0.45), st.floats(0.55, 1))
@settings(max_examples=100, deadline=None)
def test_a_band_of_distinct_scores_has_its_share_of_the_rows(count, low, high):
    scores = np.random.default_rng(count).permutation(count).astype(np.float64)
    within = np.count_nonzero(distance_to_band(scores, low, high) == 0)
    assert abs(within - (high - low) * count) <= 1
    logarithms = np.log1p(scores)
    np.testing.assert_array_equal(distance_to_band(logarithms, low, high), distance_to_band(scores, low, high))


def test_ranks_within_groups_by_hand():
    groups, order = np.array([0, 1, 0, 1, 1]), np.array([4, 2, 0, 1, 3])
    assert ranks_within_groups(groups, order).tolist() == [1, 1, 0, 2, 0]


@pytest.mark.parametrize("wrong", [{"low": 0.5, "high": 0.5}, {"low": -1}, {"high": 1.1}, {"direction": "up"}])
def test_impossible_directions_are_refused(wrong):
    with pytest.raises(ValidationError):
        RankByScoreConfig(score="s", **wrong)


def test_a_missing_or_broken_score_is_named():
    with pytest.raises(SelectionError, match="missing feature 'score:s'"):
        chosen(rank_by_score, features(other=[1]), 1, RankByScoreConfig(score="s"))
    with pytest.raises(SelectionError, match="row 1"):
        chosen(rank_by_score, features(s=[1, np.nan]), 1, RankByScoreConfig(score="s"))


# The perplexity band


TEN = [0.1, 500, 3, 7, 2, 9, 4, 1e6, 5, 6]  # 0.1 2 3 | 4 5 6 7 | 9 500 1e6


def test_the_band_comes_first_then_the_rows_nearest_to_it():
    table = features(perplexity=TEN)
    found = chosen(perplexity, table, 10, PerplexityConfig())
    assert sorted(found[:4]) == [3, 6, 8, 9]
    # By rank, both sides alike: 3 and 9, then 2 and 500, then the ends.
    assert [set(found[4:6]), set(found[6:8]), set(found[8:])] == [{2, 5}, {4, 1}, {0, 7}]
    orders = {tuple(chosen(perplexity, table, 4, PerplexityConfig(), seed)) for seed in range(20)}
    assert len(orders) > 5


def test_more_rows_than_the_band_has_is_never_silently_fewer():
    # An earlier system returned 800 rows of 1,200 without a word.
    table = features(perplexity=np.arange(2000))
    assert len(set(chosen(perplexity, table, 1200, PerplexityConfig()))) == 1200
    strict = PerplexityConfig(outside="error")
    assert len(chosen(perplexity, table, 800, strict)) == 800
    with pytest.raises(
        SelectionError, match="budget of 1200 rows exceeds the band: 800 of 2000 rows have a perplexity between"
    ):
        chosen(perplexity, table, 1200, strict)


def test_within_the_band_by_weighted_ranks():
    table = features(perplexity=TEN, words=[0, 0, 0, 1, 0, 0, 2, 0, 3, 1e9], variety=[0, 0, 0, 4, 0, 0, 3, 0, 2, 1])
    one = PerplexityConfig(rank_by={"words": 1})
    assert one.needs == {"score:perplexity", "score:words"}
    assert chosen(perplexity, table, 4, one) == [9, 8, 6, 3]
    assert chosen(perplexity, table, 4, PerplexityConfig(rank_by={"words": -1})) == [3, 6, 8, 9]
    # One outlier does not drown the other column, as it does when values are scaled to 0..1.
    both = PerplexityConfig(rank_by={"words": 0.4, "variety": 0.6})
    assert both.needs == {"score:perplexity", "score:words", "score:variety"}
    assert chosen(perplexity, table, 4, both) == [3, 6, 8, 9]
    with pytest.raises(SelectionError, match="score:readability"):
        chosen(perplexity, table, 4, PerplexityConfig(rank_by={"readability": 1}))


def test_the_band_may_be_of_pseudo_perplexity():
    config = PerplexityConfig(score="pseudo_perplexity")
    assert sorted(chosen(perplexity, features(pseudo_perplexity=TEN), 4, config)) == [3, 6, 8, 9]


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 1e9]), min_size=1, max_size=40),
    st.booleans(),
    st.floats(0, 0.5),
    st.floats(0.51, 1),
)
@settings(max_examples=150, deadline=None)
def test_a_band_gives_so_many_distinct_rows_and_prefixes(scores, weighted, low, high):
    table = features(perplexity=scores, words=scores[::-1])
    config = PerplexityConfig(p_low=low, p_high=high, rank_by={"words": 2} if weighted else {})
    whole = chosen(perplexity, table, len(scores), config)
    assert sorted(whole) == list(range(len(scores)))
    assert all(chosen(perplexity, table, rows, config) == whole[:rows] for rows in range(len(scores)))


@pytest.mark.parametrize("wrong", [{"p_low": 0.8}, {"rank_by": {"words": np.inf}}, {"outside": "random"}])
def test_impossible_bands_are_refused(wrong):
    with pytest.raises(ValidationError):
        PerplexityConfig(**wrong)
