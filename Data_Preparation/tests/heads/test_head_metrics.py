"""Measures against scikit-learn and scipy, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, precision_recall_curve

from data_pipeline.heads import metrics

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_spearman_is_scipys_also_with_ties(pairs):
    truth, scores = (np.array(column, float) for column in zip(*pairs, strict=True))
    found = metrics.spearman(truth, scores)
    if len(set(truth)) == 1 or len(set(scores)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(truth, scores).statistic)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_f1_is_scikit_learns_for_labels_that_occur(pairs):
    truth, found = (np.array(column) for column in zip(*pairs, strict=True))
    labels = sorted(set(truth) | set(found))
    by_label = metrics.f1_by_label(truth, found, range(5))
    assert [by_label[label] for label in labels] == pytest.approx(
        f1_score(truth, found, labels=labels, average=None, zero_division=0).tolist()
    )
    assert all(math.isnan(by_label[label]) for label in set(range(5)) - set(labels))
    assert metrics.f1_macro(truth, found, range(5)) == pytest.approx(f1_score(truth, found, average="macro"))
    assert metrics.f1_micro(truth, found, range(5)) == pytest.approx(f1_score(truth, found, average="micro"))


def test_a_perfect_class_has_f1_1_though_another_prediction_lies_outside_the_labels():
    # Where F1 is kept by place in a list of those that occur, a 7 among predictions moves every class after it.
    truth, found = np.array([0, 1, 1, 3]), np.array([0, 1, 1, 7])
    assert metrics.f1_by_label(truth, found, [0, 1, 2, 3, 7])[1] == 1.0


def test_errors_by_hand():
    truth, scores = np.array([1.0, 2, 4]), np.array([1.0, 3, 2])
    assert metrics.mean_absolute_error(truth, scores) == 1
    assert metrics.mean_squared_error(truth, scores) == pytest.approx(5 / 3)
    assert metrics.accuracy(truth, scores) == pytest.approx(1 / 3)


def test_calibration_error_by_hand():
    chance = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
    true = np.array([False, True, True, True, False])
    bins = metrics.reliability(true, chance)
    assert [(some.rows, some.observed) for some in bins] == [(2, 0.5), (3, pytest.approx(2 / 3))]
    expected = 2 / 5 * 0.45 + 3 / 5 * abs(2.9 / 3 - 2 / 3)
    assert metrics.expected_calibration_error(true, chance) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40), st.floats(0.05, 1))
@settings(max_examples=100, deadline=None)
def test_a_threshold_is_the_one_of_highest_recall_by_brute_force(rows, wanted):
    true, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    best = 0.0
    for threshold in set(scores.tolist()):
        kept = scores >= threshold
        if true[kept].any() and true[kept].mean() >= wanted:
            best = max(best, true[kept].sum() / true.sum())
    score = metrics.threshold_for(true, scores, wanted)
    if best == 0:
        assert score == math.inf
        return
    found = metrics.measure_threshold(wanted, score, true, scores)
    assert found.recall == pytest.approx(best)
    assert found.precision >= wanted
    assert found.rows == (scores >= found.score).sum()
    precision, recall, _ = precision_recall_curve(true, scores)
    assert max(recall[:-1][precision[:-1] >= wanted]) == pytest.approx(found.recall)


def test_a_threshold_keeps_its_score_on_other_rows():
    chosen = metrics.threshold_for(np.array([True, False]), np.array([0.9, 0.1]), 1.0)
    elsewhere = metrics.measure_threshold(1.0, chosen, np.array([True, False, True]), np.array([0.95, 0.92, 0.2]))
    assert (elsewhere.score, elsewhere.precision, elsewhere.recall, elsewhere.rows) == (0.9, 0.5, 0.5, 2)


def test_bootstrap_intervals_hold_the_value_about_as_often_as_they_say():
    # Of a mean, whose interval is known: 1.96 standard errors to both sides.
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    low, high = metrics.bootstrap({"mean": lambda rows: float(values[rows].mean())}, 400, 2000, rng)["mean"]
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


def test_bootstrap_of_what_is_undefined_is_undefined():
    found = metrics.bootstrap({"nan": lambda rows: math.nan}, 3, 5, np.random.default_rng(0))
    assert all(math.isnan(edge) for edge in found["nan"])
