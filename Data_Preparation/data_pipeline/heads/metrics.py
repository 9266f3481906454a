"""Measures of scores: rank correlation, errors, F1, calibration, thresholds and bootstrap intervals.

All take arrays of shape (N,) and return a float; NaN if the measure is not defined on these rows.
"""
# Not from scipy and scikit-learn: these belong to extras, and heads are evaluated without any. Besides, scikit-learn
# gives a label without rows another F1 than NaN, and has no calibration error.

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Numbers = NDArray[Any]


def spearman(truth: Numbers, scores: Numbers) -> float:
    """Compute the rank correlation, with mean ranks of ties, -1 to 1 (Spearman, 1904)."""
    ranks = [pl.Series(values).rank("average").to_numpy().astype(np.float64) for values in (truth, scores)]
    first, second = (rank - rank.mean() for rank in ranks)
    spread = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / spread) if spread else math.nan


def mean_absolute_error(truth: Numbers, scores: Numbers) -> float:
    """Compute the mean absolute error, in the unit of the labels."""
    return float(np.abs(truth - scores).mean())


def mean_squared_error(truth: Numbers, scores: Numbers) -> float:
    """Compute the mean squared error, in the squared unit of the labels."""
    return float(np.square(truth - scores).mean())


def accuracy(truth: Numbers, predicted: Numbers) -> float:
    """Compute the share of correct labels, 0 to 1."""
    return float((truth == predicted).mean())


def f1_by_label(truth: Numbers, predicted: Numbers, labels: Sequence[Any]) -> dict[Any, float]:
    """Compute F1 of each label, keyed by label so that nothing can be misaligned.

    F1 is NaN for a label that occurs neither among the true nor among the predicted labels.
    """
    return {label: f1_micro(truth, predicted, [label]) for label in labels}


def f1_macro(truth: Numbers, predicted: Numbers, labels: Sequence[Any]) -> float:
    """Compute the mean of `f1_by_label` over the labels that occur."""
    defined = [score for score in f1_by_label(truth, predicted, labels).values() if not math.isnan(score)]
    return sum(defined) / len(defined) if defined else math.nan


def f1_micro(truth: Numbers, predicted: Numbers, labels: Sequence[Any]) -> float:
    """Compute F1 from the hits and misses of all labels together; with one label per row it is the accuracy."""
    hits = sum(int(((truth == label) & (predicted == label)).sum()) for label in labels)
    wrong = sum(int(((truth == label) ^ (predicted == label)).sum()) for label in labels)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else math.nan


@dataclass(frozen=True)
class Bin:
    """Rows whose probabilities lie in one range."""

    low: float
    """Lower end of the range."""
    high: float
    """Upper end of the range."""
    rows: int
    """Number of rows in the range."""
    predicted: float
    """Mean probability."""
    observed: float
    """Share of positive rows."""


def reliability(true: NDArray[np.bool_], probability: Numbers, bins: int = 10) -> list[Bin]:
    """Compare predicted and observed probabilities in equally wide ranges; empty ranges are left out."""
    indices = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        Bin(
            low=index / bins,
            high=(index + 1) / bins,
            rows=int(mask.sum()),
            predicted=float(probability[mask].mean()),
            observed=float(true[mask].mean()),
        )
        for index in range(bins)
        if (mask := indices == index).any()
    ]


def expected_calibration_error(true: NDArray[np.bool_], probability: Numbers, bins: int = 10) -> float:
    """Compute the mean distance of predicted and observed probability, 0 to 1 (Naeini et al., 2015)."""
    ranges = reliability(true, probability, bins)
    return sum(abs(part.predicted - part.observed) * part.rows for part in ranges) / len(true)


@dataclass(frozen=True)
class Threshold:
    """Lowest score from which a wanted precision is reached."""

    wanted: float
    """Wanted precision, 0 to 1."""
    score: float
    """Lowest score that counts as positive."""
    precision: float
    """Precision on the rows, 0 to 1."""
    recall: float
    """Recall on the rows, 0 to 1."""
    rows: int
    """Number of rows with that score or more."""


def threshold_for(true: NDArray[np.bool_], scores: Numbers, precision: float) -> float:
    """Find the lowest score of highest recall at which `scores >= threshold` has a precision.

    Args:
        true: whether each row is positive, shape (N,).
        scores: score of each row, shape (N,).
        precision: wanted precision, 0 to 1.

    Returns:
        Lowest score that counts as positive; infinite if no threshold reaches the precision.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(true[order])
    # A threshold cannot separate rows of equal score: only the last of them is a candidate.
    is_last = np.append(ranked[1:] != ranked[:-1], True)
    counts = np.arange(1, len(scores) + 1)
    candidates = np.flatnonzero(is_last & (hits / counts >= precision) & (hits > 0))
    if not len(candidates):
        return math.inf
    return float(ranked[candidates[np.argmax(hits[candidates])]])


def measure_threshold(wanted: float, score: float, true: NDArray[np.bool_], scores: Numbers) -> Threshold:
    """Measure precision and recall of a threshold, which may have been chosen on other rows."""
    is_above = scores >= score
    hits, rows, positives = int((is_above & true).sum()), int(is_above.sum()), int(true.sum())
    precision, recall = hits / rows if rows else math.nan, hits / positives if positives else math.nan
    return Threshold(wanted, score, precision, recall, rows)


def bootstrap(
    measures: Mapping[str, Callable[[NDArray[np.int64]], float]],
    rows: int,
    rounds: int,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Compute percentile intervals of measures by drawing rows with replacement (Efron, 1979).

    Args:
        measures: functions of row numbers, which may repeat, by name.
        rows: number of rows.
        rounds: number of samples.
        rng: generator that the rows are drawn from.
        confidence: confidence of the intervals, 0 to 1.

    Returns:
        Lower and upper end of the interval of each measure; NaN if the measure is defined on no sample.
    """
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        sample = rng.integers(0, rows, rows)
        for name, measure in measures.items():
            drawn[name].append(measure(sample))
    edges = ((1 - confidence) / 2, (1 + confidence) / 2)
    intervals: dict[str, tuple[float, float]] = {}
    for name, values in drawn.items():
        defined = np.array([value for value in values if not math.isnan(value)])
        low, high = np.quantile(defined, edges).tolist() if len(defined) else (math.nan, math.nan)
        intervals[name] = low, high
    return intervals
