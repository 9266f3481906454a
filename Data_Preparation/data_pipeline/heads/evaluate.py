"""Evaluation of a head on labelled vectors: measures with confidence intervals, and thresholds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.heads import metrics
from data_pipeline.heads.apply import Scorer, probabilities
from data_pipeline.heads.identity import check_identity
from data_pipeline.heads.labelled import Labelled, label_name
from data_pipeline.heads.model import Head

_MAX_GRADES = 20
"""Number of distinct whole numbers up to which they are evaluated as labels too."""


MeasureOfRows: TypeAlias = Callable[[NDArray[np.int64]], float]
"""Function of row numbers, which may repeat, to the value of a measure."""
Measures: TypeAlias = dict[str, MeasureOfRows]


@dataclass(frozen=True)
class Estimate:
    """Value of a measure, with a 95 % confidence interval by bootstrap."""

    value: float
    low: float
    """Lower end of the interval; NaN without bootstrap."""
    high: float
    """Upper end of the interval; NaN without bootstrap."""


@dataclass(frozen=True)
class Evaluation:
    """Quality of a head on labelled rows."""

    rows: int
    """Number of rows."""
    measures: dict[str, Estimate]
    """Estimates by name of the measure; see `heads.metrics`."""
    f1: dict[str, float] = field(default_factory=dict)
    """F1 of each label."""
    reliability: list[metrics.Bin] = field(default_factory=list)
    """Calibration of the probability of the likeliest label; binary: of the second label."""
    thresholds: list[metrics.Threshold] = field(default_factory=list)
    """Thresholds, with their precision and recall on these rows."""

    def to_json(self) -> dict[str, Any]:
        """Evaluation as JSON; NaN becomes null, since JSON has no NaN."""
        content: dict[str, Any] = _replace_nan(asdict(self))
        return content


def evaluate_head(
    head: Head,
    data: Labelled,
    precisions: Sequence[float] = (),
    positive_from: float | None = None,
    chosen_on: Labelled | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a head on labelled vectors.

    Args:
        head: head to evaluate.
        data: vectors with labels.
        precisions: precisions, 0 to 1; for each, the threshold that reaches it is chosen.
        positive_from: lowest label that counts as positive for thresholds; not used for a binary head.
        chosen_on: other rows on which thresholds are chosen, before they are measured on `data`. None: they are chosen
            on `data` itself, which overestimates their precision.
        rounds: number of bootstrap samples; 0 for no intervals.
        seed: seed of the bootstrap.

    Raises:
        WrongEmbedderError: the vectors are of another embedder than the head's.
        ConfigError: the head lacks a label of the data, or thresholds need `positive_from`.
        SourceError: no row has a label.
    """
    truth = _read_truth(head, data)
    outputs = _compute_outputs(head, data)
    thresholds = _choose_thresholds(head, data, outputs, precisions, positive_from, chosen_on)
    if head.kind == "regression":
        return _evaluate_numbers(head, truth, outputs, thresholds, rounds, seed)
    return _evaluate_labels(head, truth, outputs, thresholds, rounds, seed)


def _compute_outputs(head: Head, data: Labelled) -> NDArray[np.float32]:
    check_identity(
        "that is evaluated", head.embedder, head.dim, {"dim": str(data.vectors.shape[1]), **data.embedder}, data.where
    )
    return Scorer({"head": head}).outputs(data.vectors)[0]


def _read_truth(head: Head, data: Labelled) -> NDArray[Any]:
    """Read the labels: numbers of shape (N, T) for a regression, else positions in the head's labels, shape (N,)."""
    if head.kind == "regression":
        if data.labels.dtype.kind == "U":
            raise ConfigError(f"{data.where} has labels such as {data.labels[0]!r}; a regression head needs numbers")
        truth = data.labels.reshape(len(data), -1)
        if truth.shape[1] != len(head.labels):
            raise ConfigError(
                f"{data.where} has {truth.shape[1]} labels per row, the head has {len(head.labels)} targets"
            )
        return truth
    if data.labels.ndim != 1:
        raise ConfigError(f"{data.where} has {data.labels.shape[1]} labels per row; a {head.kind} head needs one")
    names = [label_name(label) for label in data.labels.tolist()]
    positions = {label: position for position, label in enumerate(head.labels)}
    unknown = sorted(set(names) - positions.keys())
    if unknown:
        raise ConfigError(
            f"{data.where} has the label {unknown[0]!r}, the head knows {', '.join(head.labels[:20])}. "
            "It was trained on other labels."
        )
    return np.array([positions[name] for name in names])


def _evaluate_numbers(
    head: Head,
    truth: NDArray[Any],
    outputs: NDArray[np.float32],
    thresholds: list[metrics.Threshold],
    rounds: int,
    seed: int,
) -> Evaluation:
    measures: Measures = {}
    f1: dict[str, float] = {}
    for column, label in enumerate(head.labels):
        is_labelled = ~np.isnan(truth[:, column])
        if not is_labelled.any():
            raise SourceError(f"no row has a label for the target {label}")
        prefix = "" if len(head.labels) == 1 else f"{label}."
        true = truth[is_labelled, column].astype(np.float64)
        scores = outputs[is_labelled, column].astype(np.float64)
        # Arrays hold labelled rows only: the position of each row among them.
        position = np.cumsum(is_labelled) - 1
        measures |= _measures_of_numbers(prefix, true, scores, is_labelled, position)
        grades = np.unique(true)
        if len(grades) <= _MAX_GRADES and (grades == np.round(grades)).all():
            # Scores may lie beyond the labels: they count as the nearest label.
            rounded = np.clip(np.round(scores), grades[0], grades[-1])
            names = np.unique(np.concatenate([grades, rounded])).tolist()
            measures |= _measures_of_labels(prefix, true, rounded, names, is_labelled, position)
            by_label = metrics.f1_by_label(true, rounded, names)
            f1 |= {f"{prefix}{name:g}": value for name, value in by_label.items()}
    return Evaluation(len(truth), _estimate(measures, len(truth), rounds, seed), f1, [], thresholds)


def _evaluate_labels(
    head: Head,
    truth: NDArray[Any],
    outputs: NDArray[np.float32],
    thresholds: list[metrics.Threshold],
    rounds: int,
    seed: int,
) -> Evaluation:
    chances = probabilities(head, outputs)
    predicted = chances.argmax(axis=1)
    is_labelled, position = np.ones(len(truth), bool), np.arange(len(truth))
    names = list(range(len(head.labels)))
    measures = _measures_of_labels("", truth, predicted, names, is_labelled, position)
    if head.kind == "binary":
        true, chance = truth == 1, chances[:, 1].astype(np.float64)
    else:
        true, chance = truth == predicted, chances.max(axis=1).astype(np.float64)
    measures["ece"] = _on_rows(metrics.expected_calibration_error, true, chance, is_labelled, position)
    if head.kind == "ordinal":
        grades = head.grades.astype(np.float64)
        expected = (chances * grades).sum(axis=1)
        measures |= _measures_of_numbers("", grades[truth], expected, is_labelled, position)
    by_label = metrics.f1_by_label(truth, predicted, names)
    return Evaluation(
        rows=len(truth),
        measures=_estimate(measures, len(truth), rounds, seed),
        f1={head.labels[index]: score for index, score in by_label.items()},
        reliability=metrics.reliability(true, chance),
        thresholds=thresholds,
    )


def _measures_of_numbers(
    prefix: str,
    truth: NDArray[Any],
    predicted: NDArray[Any],
    is_labelled: NDArray[np.bool_],
    position: NDArray[np.int64],
) -> Measures:
    named = {"spearman": metrics.spearman, "mae": metrics.mean_absolute_error, "mse": metrics.mean_squared_error}
    return {
        prefix + name: _on_rows(measure, truth, predicted, is_labelled, position) for name, measure in named.items()
    }


def _measures_of_labels(
    prefix: str,
    truth: NDArray[Any],
    predicted: NDArray[Any],
    names: Sequence[Any],
    is_labelled: NDArray[np.bool_],
    position: NDArray[np.int64],
) -> Measures:
    def micro(true: NDArray[Any], predicted: NDArray[Any]) -> float:
        return metrics.f1_micro(true, predicted, names)

    def macro(true: NDArray[Any], predicted: NDArray[Any]) -> float:
        return metrics.f1_macro(true, predicted, names)

    named = {"accuracy": metrics.accuracy, "f1_micro": micro, "f1_macro": macro}
    return {
        prefix + name: _on_rows(measure, truth, predicted, is_labelled, position) for name, measure in named.items()
    }


def _on_rows(
    measure: Callable[[NDArray[Any], NDArray[Any]], float],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    is_labelled: NDArray[np.bool_],
    position: NDArray[np.int64],
) -> MeasureOfRows:
    """Make a function of row numbers from a measure; `truth` and `predicted` are those of the labelled rows."""

    def of_rows(rows: NDArray[np.int64]) -> float:
        labelled = position[rows[is_labelled[rows]]]
        return measure(truth[labelled], predicted[labelled]) if len(labelled) else math.nan

    return of_rows


def _estimate(measures: Measures, rows: int, rounds: int, seed: int) -> dict[str, Estimate]:
    all_rows = np.arange(rows)
    intervals = dict.fromkeys(measures, (math.nan, math.nan))
    if rounds:
        intervals = metrics.bootstrap(measures, rows, rounds, np.random.default_rng(seed))
    return {name: Estimate(measure(all_rows), *intervals[name]) for name, measure in measures.items()}


def _choose_thresholds(
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
        raise ConfigError(
            f"thresholds need a head with one score; this one is {head.kind} with {len(head.labels)} labels"
        )
    if positive_from is None and head.kind != "binary":
        raise ConfigError(f"thresholds of a {head.kind} head need the lowest positive label; set positive_from")
    true, scores = _positives_and_scores(head, data, outputs, positive_from)
    choice = true, scores
    if chosen_on is not None:
        choice = _positives_and_scores(head, chosen_on, _compute_outputs(head, chosen_on), positive_from)
    thresholds = []
    for precision in precisions:
        threshold = metrics.threshold_for(*choice, precision)
        if threshold is None:
            threshold = metrics.Threshold(precision, math.inf, math.nan, 0.0, 0)
        thresholds.append(metrics.apply_threshold(threshold, true, scores))
    return thresholds


def _positives_and_scores(
    head: Head, data: Labelled, outputs: NDArray[np.float32], positive_from: float | None
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Determine which labelled rows are positive, and their scores."""
    truth = _read_truth(head, data)
    if head.kind == "regression":
        is_labelled = ~np.isnan(truth[:, 0])
        return truth[is_labelled, 0] >= positive_from, outputs[is_labelled, 0]
    scores = np.asarray(Scorer({"head": head}).score(data.vectors)["head"])
    if head.kind == "binary":
        return truth == 1, scores
    return head.grades[truth] >= positive_from, scores


def _replace_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _replace_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
