import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.registry import SELECTORS
from data_pipeline.selection.selectors.by_score import (
    CleanlabConfig,
    El2nConfig,
    ForgettingConfig,
    GrandConfig,
    LlmJudgeConfig,
    SelfFilterConfig,
)

cleanlab, el2n, llm_judge, self_filter = (
    SELECTORS[name].rank for name in ("cleanlab", "el2n", "llm_judge", "self_filter")
)
DIFFICULTY = [("el2n", El2nConfig), ("grand", GrandConfig), ("forgetting", ForgettingConfig)]
NAN = float("nan")


def features(**columns):
    count = len(next(iter(columns.values())))
    return Features(
        [f"r{row}" for row in range(count)], scores={name: np.array(values) for name, values in columns.items()}
    )


def chosen(selector, table, rows, config, seed=0):
    return selector(table.only(config.needs), rows, np.random.default_rng(seed), config).rows.tolist()


def is_prefix_ordered(selector, table, config, seed):
    whole = chosen(selector, table, len(table), config, seed)
    assert sorted(whole) == list(range(len(table)))
    assert all(chosen(selector, table, rows, config, seed) == whole[:rows] for rows in range(len(table)))
    return whole


@pytest.mark.parametrize(("column", "config"), DIFFICULTY)
def test_the_hardest_come_last_whatever_the_direction(column, config):
    selector = SELECTORS[column].rank
    assert SELECTORS[column].config is config
    table = features(**{column: [0.5, 9, 3, 1, 7, 2, 8, 4, 6, 5]}, other=np.zeros(10))
    assert config().needs == {f"score:{column}"}
    assert chosen(selector, table, 10, config()) == [6, 4, 8, 9, 7, 2, 5, 3, 0, 1]
    assert chosen(selector, table, 10, config(drop_hardest=0)) == [1, 6, 4, 8, 9, 7, 2, 5, 3, 0]
    assert chosen(selector, table, 4, config(direction="lowest", drop_hardest=0.3)) == [0, 3, 5, 2]
    assert chosen(selector, table, 10, config(direction="highest", drop_hardest=0.3))[-3:] == [4, 6, 1]
    middle = chosen(selector, table, 10, config(direction="middle", low=0.25, high=0.75, drop_hardest=0.2))
    assert sorted(middle[:4]) == [2, 5, 7, 9]  # of the eight that are left, the four in the middle
    assert middle[-2:] == [6, 1]
    ranking = selector(table.only({f"score:{column}"}), 2, np.random.default_rng(0), config())
    assert ranking.values.tolist() == [8, 7]
    with pytest.raises(ValidationError):
        config(drop_hardest=1)


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 1e9]), min_size=1, max_size=30),
    st.sampled_from(["highest", "lowest", "middle"]),
    st.floats(0, 0.99),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_difficulty_is_a_whole_order(scores, direction, drop, seed):
    table, config = features(el2n=scores), El2nConfig(direction=direction, drop_hardest=drop)
    whole = is_prefix_ordered(el2n, table, config, seed)
    dropped = int(drop * len(scores))
    last = [scores[row] for row in whole[len(scores) - dropped :]]
    assert last == sorted(scores)[len(scores) - dropped :]


def test_labels_with_issues_come_last():
    table = features(label_quality=[0.9, 0.1, 0.8, 0.3, 0.2, 0.7], label_issue=[0, 1, 0, 0, 1, 0])
    assert CleanlabConfig().needs == {"score:label_quality", "score:label_issue"}
    assert chosen(cleanlab, table, 6, CleanlabConfig(order="score")) == [0, 2, 5, 3, 4, 1]
    found = {tuple(chosen(cleanlab, table, 6, CleanlabConfig(), seed)) for seed in range(30)}
    assert len(found) > 10
    assert {order[4:] for order in found} == {(4, 1)}
    assert all(set(order[:4]) == {0, 2, 3, 5} for order in found)


def test_clear_rows_come_first():
    table = features(llm_judge=[0.2, 0.9, 0.5, 0.4, 1.0])
    assert chosen(llm_judge, table, 5, LlmJudgeConfig(order="score")) == [1 + 3, 1, 2, 3, 0]
    found = {tuple(chosen(llm_judge, table, 5, LlmJudgeConfig(), seed)) for seed in range(40)}
    assert {order[3:] for order in found} == {(3, 0)}
    assert len({order[:3] for order in found}) == 6
    assert set(chosen(llm_judge, table, 2, LlmJudgeConfig(threshold=0.9))) == {1, 4}


def test_rows_without_an_answer_are_an_error_or_last():
    table = features(llm_judge=[NAN, 0.9, NAN, 0.1])
    with pytest.raises(
        SelectionError, match=r"2 of 4 rows have no answer in llm_judge, first row 0 \('r0'\).*set unjudged"
    ):
        chosen(llm_judge, table, 1, LlmJudgeConfig())
    config = LlmJudgeConfig(unjudged="last")
    found = {tuple(chosen(llm_judge, table, 4, config, seed)) for seed in range(20)}
    assert found == {(1, 3, 0, 2), (1, 3, 2, 0)}
    ranking = llm_judge(table, 3, np.random.default_rng(0), config)
    assert ranking.values[:2].tolist() == [0.9, 0.1]
    assert np.isnan(ranking.values[2])
    with pytest.raises(SelectionError, match="missing feature 'score:llm_judge'"):
        llm_judge(features(other=[1.0]), 1, np.random.default_rng(0), config)


def test_self_filtered_rows_by_score_or_by_threshold():
    table = features(self_filter=[0.2, 0.9, 0.6, 0.4])
    assert chosen(self_filter, table, 4, SelfFilterConfig()) == [1, 2, 3, 0]
    found = {tuple(chosen(self_filter, table, 4, SelfFilterConfig(order="random"), seed)) for seed in range(20)}
    assert found == {(1, 2, 3, 0), (2, 1, 3, 0)}
    with pytest.raises(SelectionError, match="row 1"):
        chosen(self_filter, features(self_filter=[0.5, NAN]), 1, SelfFilterConfig())


@given(
    st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0, NAN]), min_size=1, max_size=25),
    st.sampled_from(["random", "score"]),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_screens_are_whole_orders(scores, order, seed):
    config = LlmJudgeConfig(order=order, unjudged="last")
    whole = is_prefix_ordered(llm_judge, features(llm_judge=scores), config, seed)
    groups = [2 if np.isnan(scores[row]) else 0 if scores[row] >= 0.5 else 1 for row in whole]
    assert groups == sorted(groups)
    numbers = np.nan_to_num(np.array(scores)).tolist()
    is_prefix_ordered(self_filter, features(self_filter=numbers), SelfFilterConfig(order=order), seed)
    table = features(label_quality=numbers, label_issue=[float(number == 0.3) for number in numbers])
    is_prefix_ordered(cleanlab, table, CleanlabConfig(order=order), seed)
