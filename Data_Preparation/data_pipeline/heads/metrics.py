"""How good scores are: rank and error of numbers, hits of labels, calibration, thresholds, intervals.

All take arrays of shape (N,) and give a float; NaN where the measure is not defined on these rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Numbers = NDArray[Any]


def spearman(truth: Numbers, scores: Numbers) -> float:
    """Rank correlation, ties at their mean rank (Spearman, 1904); -1 to 1."""
    ranks = [pl.Series(values).rank("average").to_numpy().astype(np.float64) for values in (truth, scores)]
    first, second = (rank - rank.mean() for rank in ranks)
    spread = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / spread) if spread else math.nan


def mean_absolute_error(truth: Numbers, scores: Numbers) -> float:
    """In the labels' unit."""
    return float(np.abs(truth - scores).mean())


def mean_squared_error(truth: Numbers, scores: Numbers) -> float:
    """In the labels' unit, squared."""
    return float(np.square(truth - scores).mean())


def accuracy(truth: Numbers, found: Numbers) -> float:
    """Share of labels that are right, 0 to 1."""
    return float((truth == found).mean())


def f1_by_label(truth: Numbers, found: Numbers, labels: Sequence[Any]) -> dict[Any, float]:
    """F1 of each label, by its name: never by its place, so that nothing can be misaligned.

    NaN for a label that is neither among the true nor among the found ones.
    """
    scores = {}
    for label in labels:
        hits = int(((truth == label) & (found == label)).sum())
        wrong = int(((truth == label) ^ (found == label)).sum())
        scores[label] = 2 * hits / (2 * hits + wrong) if hits or wrong else math.nan
    return scores


def f1_macro(truth: Numbers, found: Numbers, labels: Sequence[Any]) -> float:
    """Mean of `f1_by_label` over the labels that occur."""
    known = [score for score in f1_by_label(truth, found, labels).values() if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan


def f1_micro(truth: Numbers, found: Numbers, labels: Sequence[Any]) -> float:
    """F1 over all labels' hits and misses together; with one label a row it is the accuracy."""
    hits = sum(int(((truth == label) & (found == label)).sum()) for label in labels)
    wrong = sum(int(((truth == label) ^ (found == label)).sum()) for label in labels)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else math.nan


@dataclass(frozen=True)
class Bin:
    """Rows whose probabilities are in one range."""

    low: float
    high: float
    rows: int
    predicted: float
    """Mean probability."""
    observed: float
    """Share of rows where it came true."""


def reliability(true: NDArray[np.bool_], probability: Numbers, bins: int = 10) -> list[Bin]:
    """Predicted against observed, in equally wide ranges of probability; empty ones are left out."""
    places = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            rows=int(mask.sum()),
            predicted=float(probability[mask].mean()),
            observed=float(true[mask].mean()),
        )
        for place in range(bins)
        if (mask := places == place).any()
    ]


def expected_calibration_error(true: NDArray[np.bool_], probability: Numbers, bins: int = 10) -> float:
    """Mean distance of predicted from observed (Naeini et al., 2015); 0 to 1."""
    found = reliability(true, probability, bins)
    return sum(abs(some.predicted - some.observed) * some.rows for some in found) / len(true)


@dataclass(frozen=True)
class Threshold:
    """The lowest score from which a wanted precision is reached."""

    wanted: float
    score: float
    precision: float
    recall: float
    rows: int
    """With that score or more."""


def threshold_for(true: NDArray[np.bool_], scores: Numbers, precision: float) -> Threshold | None:
    """The threshold of highest recall at which `scores >= threshold` has a precision.

    Returns:
        None where no threshold has it.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(true[order])
    # Rows with one score cannot be divided: only the last of them can be a threshold.
    ends = np.append(ranked[1:] != ranked[:-1], True)
    counts = np.arange(1, len(scores) + 1)
    good = np.flatnonzero(ends & (hits / counts >= precision) & (hits > 0))
    if not len(good):
        return None
    place = int(good[np.argmax(hits[good])])
    return _threshold(precision, float(ranked[place]), true, scores)


def apply_threshold(found: Threshold, true: NDArray[np.bool_], scores: Numbers) -> Threshold:
    """What a threshold that was found on other rows gives on these."""
    return _threshold(found.wanted, found.score, true, scores)


def _threshold(wanted: float, score: float, true: NDArray[np.bool_], scores: Numbers) -> Threshold:
    kept = scores >= score
    hits, rows, all_true = int((kept & true).sum()), int(kept.sum()), int(true.sum())
    return Threshold(wanted, score, hits / rows if rows else math.nan, hits / all_true if all_true else math.nan, rows)


def bootstrap(
    measures: Mapping[str, Callable[[NDArray[np.int64]], float]],
    rows: int,
    rounds: int,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of measures, by drawing rows with replacement (Efron, 1979).

    Args:
        measures: from row numbers, with repeats, to a value.
        rows: how many there are.
        rounds: of drawing.
        rng: draws.
        confidence: of the intervals, 0 to 1.
    """
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        some = rng.integers(0, rows, rows)
        for name, measure in measures.items():
            drawn[name].append(measure(some))
    edges = ((1 - confidence) / 2, (1 + confidence) / 2)
    intervals = {}
    for name, values in drawn.items():
        known = np.array([value for value in values if not math.isnan(value)])
        low, high = np.quantile(known, edges) if len(known) else (math.nan, math.nan)
        intervals[name] = float(low), float(high)
    return intervals
