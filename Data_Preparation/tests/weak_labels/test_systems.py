"""Systems ranked under labels and under gold."""

import math

import pytest

from data_pipeline.config.labels import LabelConfig
from data_pipeline.errors import SourceError
from data_pipeline.judge.base import Judgement
from data_pipeline.weak_labels.qrels import read_run
from data_pipeline.weak_labels.state import JudgedPair, SampledCandidate
from data_pipeline.weak_labels.systems import labels_of, own_runs, rank_systems

pytest.importorskip("ir_measures", reason='needs the extra "weak-labels"')
pytest.importorskip("scipy", reason='needs the extra "weak-labels"')

GOLD = {"q1": {"a": 3, "b": 0, "c": 0}, "q2": {"d": 3}}
BEST = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {"d": 1.0}}
MIDDLE = {"q1": {"a": 2.0, "b": 3.0, "c": 1.0}, "q2": {"d": 1.0}}
WORST = {"q1": {"a": 1.0, "b": 3.0, "c": 2.0}}
SYSTEMS = {"best": BEST, "middle": MIDDLE, "worst": WORST}


def test_ndcg_by_hand_and_the_same_order_is_tau_1():
    found = rank_systems(SYSTEMS, GOLD, GOLD)
    assert found["queries"] == 2
    assert {name: values["gold"] for name, values in found["systems"].items()} == {
        "best": 1.0,
        "middle": round((1 / math.log2(3) + 1) / 2, 4),
        "worst": round((1 / math.log2(4) + 0) / 2, 4),  # a query that it lacks counts 0
    }
    assert found["kendall_tau"] == 1.0


def test_labels_that_turn_the_order_round_are_tau_minus_1():
    labels = {"q1": {"a": 0, "b": 1, "c": 3}, "q2": {"d": 0, "x": 3}}
    found = rank_systems({"one": {"q1": {"a": 2.0, "c": 1.0}}, "two": {"q1": {"a": 1.0, "c": 2.0}}}, labels, GOLD)
    assert found["kendall_tau"] == -1.0


def test_queries_of_one_side_alone_do_not_count_and_nothing_to_compare_is_none():
    found = rank_systems(SYSTEMS, {"q3": {"a": 3}}, GOLD)
    assert (found["queries"], found["kendall_tau"]) == (0, None)
    assert rank_systems({"one": BEST, "two": BEST}, GOLD, GOLD)["kendall_tau"] is None
    assert rank_systems({}, GOLD, GOLD)["kendall_tau"] is None


def pair(passage, ranks, grade):
    judgement = Judgement("failed", reason="x") if grade is None else Judgement("ok", grade)
    return JudgedPair("q1", "text", SampledCandidate("q1", passage, {}, ranks), judgement)


def test_the_runs_own_rankings_and_labels_of_judged_pairs_alone():
    pairs = [pair("a", {"bm25": 1, "dense": 2}, 3), pair("b", {"dense": 1}, None), pair("c", {"bm25": 4}, 0)]
    assert own_runs(pairs) == {"bm25": {"q1": {"a": 1.0, "c": 0.25}}, "dense": {"q1": {"a": 0.5, "b": 1.0}}}
    assert labels_of(pairs) == {"q1": {"a": 3, "c": 0}}


def test_trec_runs_are_read_and_what_is_none_is_named(tmp_path):
    path = tmp_path / "mine.run"
    path.write_text("q1 Q0 a 1 2.5 mine\n\nq1 Q0 b 2 -1 mine\n")
    assert read_run(path) == {"q1": {"a": 2.5, "b": -1.0}}
    for wrong in ("q1 Q0 a 1 mine", "q1 Q0 a 1 high mine", "q1 Q0 a 1 nan mine"):
        path.write_text(f"q1 Q0 b 2 1 mine\n{wrong}\n")
        with pytest.raises(SourceError, match="line 2: expected query id, Q0"):
            read_run(path)
    path.write_text("")
    with pytest.raises(SourceError, match="is empty"):
        read_run(path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_run(tmp_path / "none.run")


def test_runs_need_gold_and_names_of_their_own(tmp_path):
    with pytest.raises(ValueError, match="runs needs gold"):
        LabelConfig.model_validate({"queries": {"source": "sample"}, "runs": ["a.run"]})
    with pytest.raises(ValueError, match="same name"):
        LabelConfig.model_validate({"queries": {"source": "sample"}, "gold": "sample", "runs": ["x/a.run", "y/a.run"]})
