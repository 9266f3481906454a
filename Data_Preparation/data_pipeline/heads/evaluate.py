"""Evaluation of a head on labelled vectors: measures with confidence intervals, and thresholds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.heads import metrics
from data_pipeline.heads.apply import Scorer, probabilities
from data_pipeline.heads.identity import check_identity
from data_pipeline.heads.labelled import Labelled, label_name
from data_pipeline.heads.model import Head
from data_pipeline.utils.displays import Displayed

_MAX_GRADES = 20
"""Number of distinct whole numbers up to which they are evaluated as labels too."""


Measure: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], float]
"""Function of true and predicted values to the value of a measure."""
MeasureOfRows: TypeAlias = Callable[[NDArray[np.int64]], float]
"""Function of row numbers, which may repeat, to the value of a measure."""


@dataclass(frozen=True)
class Estimate:
    """Value of a measure, with a 95 % confidence interval by bootstrap."""

    value: float
    low: float
    """Lower end of the interval; NaN without bootstrap."""
    high: float
    """Upper end of the interval; NaN without bootstrap."""


@dataclass(frozen=True, repr=False)
class Evaluation(Displayed):
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

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows: measures, with their 95 % intervals."""
        rows = [("rows", f"{self.rows:,}")]
        for name, measure in self.measures.items():
            has_interval = not np.isnan(measure.low)
            interval = f" ({measure.low:.4f} to {measure.high:.4f})" if has_interval else ""
            rows.append((name, f"{measure.value:.4f}{interval}"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Evaluation as JSON; NaN becomes null, since JSON has no NaN."""
        return _replace_nan(asdict(self))


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
    quality = (_quality_of_numbers if head.kind == "regression" else _quality_of_labels)(head, truth, outputs)
    all_rows = np.arange(len(truth))
    intervals = dict.fromkeys(quality.measures, (math.nan, math.nan))
    if rounds:
        intervals = metrics.bootstrap(quality.measures, len(truth), rounds, np.random.default_rng(seed))
    estimates = {name: Estimate(measure(all_rows), *intervals[name]) for name, measure in quality.measures.items()}
    return Evaluation(len(truth), estimates, quality.f1, quality.reliability, thresholds)


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
    if unknown := sorted(set(names) - positions.keys()):
        raise ConfigError(
            f"{data.where} has the label {unknown[0]!r}, the head knows {', '.join(head.labels[:20])}. "
            "It was trained on other labels."
        )
    return np.array([positions[name] for name in names])


@dataclass
class _Quality:
    """What is measured of a head, before intervals are computed."""

    measures: dict[str, MeasureOfRows]
    f1: dict[str, float]
    reliability: list[metrics.Bin]


def _quality_of_numbers(head: Head, truth: NDArray[Any], outputs: NDArray[np.float32]) -> _Quality:
    quality = _Quality({}, {}, [])
    for column, label in enumerate(head.labels):
        prefix = "" if len(head.labels) == 1 else f"{label}."
        true, scores = truth[:, column].astype(np.float64), outputs[:, column].astype(np.float64)
        grades = np.unique(true[~np.isnan(true)])
        if not len(grades):
            raise SourceError(f"no row has a label for the target {label}")
        quality.measures |= _on_rows(prefix, _NUMBER_MEASURES, true, scores)
        if len(grades) <= _MAX_GRADES and (grades == np.round(grades)).all():
            # Scores may lie beyond the labels: they count as the nearest label.
            rounded = np.where(np.isnan(true), np.nan, np.clip(np.round(scores), grades[0], grades[-1]))
            names = np.unique(np.concatenate([grades, rounded[~np.isnan(true)]])).tolist()
            quality.measures |= _on_rows(prefix, _label_measures(names), true, rounded)
            by_label = metrics.f1_by_label(true, rounded, names)
            quality.f1 |= {f"{prefix}{name:g}": value for name, value in by_label.items()}
    return quality


def _quality_of_labels(head: Head, truth: NDArray[Any], outputs: NDArray[np.float32]) -> _Quality:
    chances = probabilities(head, outputs)
    predicted = chances.argmax(axis=1)
    names = list(range(len(head.labels)))
    measures = _on_rows("", _label_measures(names), truth, predicted)
    if head.kind == "binary":
        true, chance = truth == 1, chances[:, 1].astype(np.float64)
    else:
        true, chance = truth == predicted, chances.max(axis=1).astype(np.float64)
    measures |= _on_rows("", {"ece": metrics.expected_calibration_error}, true, chance)
    if head.kind == "ordinal":
        grades = head.grades.astype(np.float64)
        measures |= _on_rows("", _NUMBER_MEASURES, grades[truth], (chances * grades).sum(axis=1))
    by_label = metrics.f1_by_label(truth, predicted, names)
    f1 = {head.labels[index]: score for index, score in by_label.items()}
    return _Quality(measures, f1, metrics.reliability(true, chance))


_NUMBER_MEASURES: Mapping[str, Measure] = {
    "spearman": metrics.spearman, "mae": metrics.mean_absolute_error, "mse": metrics.mean_squared_error
}  # fmt: skip


def _label_measures(names: Sequence[Any]) -> Mapping[str, Measure]:
    return {
        "accuracy": metrics.accuracy,
        "f1_micro": partial(metrics.f1_micro, labels=names),
        "f1_macro": partial(metrics.f1_macro, labels=names),
    }


def _on_rows(
    prefix: str, measures: Mapping[str, Measure], truth: NDArray[Any], predicted: NDArray[Any]
) -> dict[str, MeasureOfRows]:
    """Make functions of row numbers from measures; rows whose truth is NaN are left out."""
    is_labelled = ~np.isnan(truth)

    def on_rows(measure: Measure, rows: NDArray[np.int64]) -> float:
        labelled = rows[is_labelled[rows]]
        return measure(truth[labelled], predicted[labelled]) if len(labelled) else math.nan

    return {prefix + name: partial(on_rows, measure) for name, measure in measures.items()}


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
    measured_on = _positives_and_scores(head, data, outputs, positive_from)
    choice = measured_on
    if chosen_on is not None:
        choice = _positives_and_scores(head, chosen_on, _compute_outputs(head, chosen_on), positive_from)
    scores = [metrics.threshold_for(*choice, precision) for precision in precisions]
    return [
        metrics.measure_threshold(precision, score, *measured_on)
        for precision, score in zip(precisions, scores, strict=True)
    ]


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
