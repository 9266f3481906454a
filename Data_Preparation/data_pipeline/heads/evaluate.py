"""A head on labelled vectors: every measure with its interval, and thresholds that were chosen elsewhere."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.heads import metrics
from data_pipeline.heads.apply import Scorer, probabilities
from data_pipeline.heads.identity import check_identity
from data_pipeline.heads.labelled import Labelled, label_name
from data_pipeline.heads.model import Head

_MOST_GRADES = 20  # of whole numbers, that are also looked at as labels


@dataclass(frozen=True)
class Measure:
    """A value, and the range that drawing the rows again leaves it in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """How good a head is on some rows."""

    rows: int
    measures: dict[str, Measure]
    f1: dict[str, float] = field(default_factory=dict)
    """Of each label."""
    reliability: list[metrics.Bin] = field(default_factory=list)
    """Of the probability of the label that was found; binary: of the second label."""
    thresholds: list[metrics.Threshold] = field(default_factory=list)
    """As they do on these rows."""

    def to_json(self) -> dict[str, Any]:
        """NaN, which JSON does not have, as null."""
        found: dict[str, Any] = _without_nan(asdict(self))
        return found


def evaluate_head(
    head: Head,
    data: Labelled,
    precisions: Sequence[float] = (),
    positive_from: float | None = None,
    chosen_on: Labelled | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measure a head.

    Args:
        head: the head.
        data: vectors with labels.
        precisions: for each, the threshold that reaches it.
        positive_from: labels from this number on count as positive for thresholds; a binary head needs none.
        chosen_on: other rows on which thresholds are chosen; what they do is measured on `data`. None: on `data`
            itself, which flatters them.
        rounds: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.

    Raises:
        WrongEmbedder: the head does not belong to the vectors.
        ConfigError: the head has no such labels, or thresholds need `positive_from`.
        SourceError: no row has a label.
    """
    truth = _truth(head, data)
    outputs = _outputs(head, data)
    thresholds = _thresholds(head, data, outputs, precisions, positive_from, chosen_on)
    if head.kind == "regression":
        return _of_numbers(head, truth, outputs, thresholds, rounds, seed)
    return _of_labels(head, truth, outputs, thresholds, rounds, seed)


def _outputs(head: Head, data: Labelled) -> NDArray[np.float32]:
    check_identity(
        "that is evaluated", head.embedder, head.dim, {"dim": str(data.vectors.shape[1]), **data.embedder}, data.where
    )
    return Scorer({"head": head}).outputs(data.vectors)[0]


def _truth(head: Head, data: Labelled) -> NDArray[Any]:
    """Regression: numbers of shape (N, T); else the labels' places, shape (N,)."""
    if head.kind == "regression":
        if data.labels.dtype.kind == "U":
            raise ConfigError(f"{data.where} has labels such as {data.labels[0]!r}; a regression head needs numbers")
        truth = data.labels.reshape(len(data), -1)
        if truth.shape[1] != len(head.labels):
            raise ConfigError(
                f"{data.where} has {truth.shape[1]} labels a row, the head has {len(head.labels)} targets"
            )
        return truth
    if data.labels.ndim != 1:
        raise ConfigError(f"{data.where} has {data.labels.shape[1]} labels a row; a {head.kind} head needs one")
    names = [label_name(label) for label in data.labels.tolist()]
    places = {label: place for place, label in enumerate(head.labels)}
    unknown = sorted(set(names) - places.keys())
    if unknown:
        raise ConfigError(
            f"{data.where} has the label {unknown[0]!r}, the head knows {', '.join(head.labels[:20])}. "
            "It was trained on other labels."
        )
    return np.array([places[name] for name in names])


def _of_numbers(
    head: Head,
    truth: NDArray[Any],
    outputs: NDArray[np.float32],
    thresholds: list[metrics.Threshold],
    rounds: int,
    seed: int,
) -> Evaluation:
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {}
    f1: dict[str, float] = {}
    for number, label in enumerate(head.labels):
        there = ~np.isnan(truth[:, number])
        if not there.any():
            raise SourceError(f"no row has a label for the target {label}")
        prefix = "" if len(head.labels) == 1 else f"{label}."
        true, scores = truth[there, number].astype(np.float64), outputs[there, number].astype(np.float64)
        # Of rows without a label none is drawn: places among those that have one.
        place = np.cumsum(there) - 1
        measures |= _number_measures(prefix, true, scores, there, place)
        grades = np.unique(true)
        if len(grades) <= _MOST_GRADES and (grades == np.round(grades)).all():
            # Scores may lie beyond the labels: they count as the nearest one.
            rounded = np.clip(np.round(scores), grades[0], grades[-1])
            names = np.unique(np.concatenate([grades, rounded])).tolist()
            measures |= _label_measures(prefix, true, rounded, names, there, place)
            found = metrics.f1_by_label(true, rounded, names)
            f1 |= {f"{prefix}{name:g}": value for name, value in found.items()}
    return Evaluation(len(truth), _measured(measures, len(truth), rounds, seed), f1, [], thresholds)


def _of_labels(
    head: Head,
    truth: NDArray[Any],
    outputs: NDArray[np.float32],
    thresholds: list[metrics.Threshold],
    rounds: int,
    seed: int,
) -> Evaluation:
    chances = probabilities(head, outputs)
    found = chances.argmax(axis=1)
    everywhere, place = np.ones(len(truth), bool), np.arange(len(truth))
    names = list(range(len(head.labels)))
    measures = _label_measures("", truth, found, names, everywhere, place)
    if head.kind == "binary":
        true, chance = truth == 1, chances[:, 1].astype(np.float64)
    else:
        true, chance = truth == found, chances.max(axis=1).astype(np.float64)
    measures["ece"] = _drawn(metrics.expected_calibration_error, true, chance, everywhere, place)
    if head.kind == "ordinal":
        grades = head.grades.astype(np.float64)
        expected = (chances * grades).sum(axis=1)
        measures |= _number_measures("", grades[truth], expected, everywhere, place)
    by_label = metrics.f1_by_label(truth, found, names)
    return Evaluation(
        rows=len(truth),
        measures=_measured(measures, len(truth), rounds, seed),
        f1={head.labels[number]: score for number, score in by_label.items()},
        reliability=metrics.reliability(true, chance),
        thresholds=thresholds,
    )


def _number_measures(
    prefix: str, truth: NDArray[Any], found: NDArray[Any], there: NDArray[np.bool_], place: NDArray[np.int64]
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    named = {"spearman": metrics.spearman, "mae": metrics.mean_absolute_error, "mse": metrics.mean_squared_error}
    return {prefix + name: _drawn(measure, truth, found, there, place) for name, measure in named.items()}


def _label_measures(
    prefix: str,
    truth: NDArray[Any],
    found: NDArray[Any],
    names: Sequence[Any],
    there: NDArray[np.bool_],
    place: NDArray[np.int64],
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    def micro(true: NDArray[Any], guess: NDArray[Any]) -> float:
        return metrics.f1_micro(true, guess, names)

    def macro(true: NDArray[Any], guess: NDArray[Any]) -> float:
        return metrics.f1_macro(true, guess, names)

    named = {"accuracy": metrics.accuracy, "f1_micro": micro, "f1_macro": macro}
    return {prefix + name: _drawn(measure, truth, found, there, place) for name, measure in named.items()}


def _drawn(
    measure: Callable[[NDArray[Any], NDArray[Any]], float],
    truth: NDArray[Any],
    found: NDArray[Any],
    there: NDArray[np.bool_],
    place: NDArray[np.int64],
) -> Callable[[NDArray[np.int64]], float]:
    """A measure of rows by their numbers, where `truth` and `found` are of the rows that have a label."""

    def of_rows(rows: NDArray[np.int64]) -> float:
        known = place[rows[there[rows]]]
        return measure(truth[known], found[known]) if len(known) else math.nan

    return of_rows


def _measured(
    measures: dict[str, Callable[[NDArray[np.int64]], float]], rows: int, rounds: int, seed: int
) -> dict[str, Measure]:
    everything = np.arange(rows)
    nothing = dict.fromkeys(measures, (math.nan, math.nan))
    intervals = metrics.bootstrap(measures, rows, rounds, np.random.default_rng(seed)) if rounds else nothing
    return {name: Measure(measure(everything), *intervals[name]) for name, measure in measures.items()}


def _thresholds(
    head: Head,
    data: Labelled,
    outputs: NDArray[np.float32],
    precisions: Sequence[float],
    positive_from: float | None,
    chosen_on: Labelled | None,
) -> list[metrics.Threshold]:
    if not precisions:
        return []
    if head.kind == "multiclass" or (head.kind == "regression" and len(head.labels) > 1):
        raise ConfigError(f"thresholds are for heads with one score; this one is {head.kind} with {len(head.labels)}")
    if positive_from is None and head.kind != "binary":
        raise ConfigError(f"which labels are positive? A {head.kind} head needs --positive-from NUMBER for thresholds")
    true, scores = _positive(head, data, outputs, positive_from)
    if chosen_on is None:
        choice = true, scores
    else:
        choice = _positive(head, chosen_on, _outputs(head, chosen_on), positive_from)
    found = []
    for precision in precisions:
        threshold = metrics.threshold_for(*choice, precision)
        if threshold is None:
            threshold = metrics.Threshold(precision, math.inf, math.nan, 0.0, 0)
        found.append(metrics.apply_threshold(threshold, true, scores))
    return found


def _positive(
    head: Head, data: Labelled, outputs: NDArray[np.float32], positive_from: float | None
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Which rows are positive, and their scores."""
    truth = _truth(head, data)
    if head.kind == "regression":
        there = ~np.isnan(truth[:, 0])
        return truth[there, 0] >= positive_from, outputs[there, 0]
    scorer_scores = Scorer({"head": head}).score(data.vectors)["head"]
    scores = np.asarray(scorer_scores)
    if head.kind == "binary":
        return truth == 1, scores
    return head.grades[truth] >= positive_from, scores


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(some) for name, some in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
