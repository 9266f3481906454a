"""Task of a training: kind, labels and targets; and the rows that are held out for validation."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.heads.labelled import Labelled, label_name
from data_pipeline.heads.model import Kind
from data_pipeline.utils import shown

_MAX_LISTED_LABELS = 10


@dataclass(frozen=True)
class TrainingTask:
    """What a head is trained to predict."""

    kind: Kind
    labels: tuple[str, ...]
    targets: NDArray[Any]
    """Regression: targets of shape (N, T), float32, NaN if missing; else positions in `labels`, shape (N,), int64."""


def make_task(data: Labelled, kind: str) -> TrainingTask:
    """Make the task of labelled data.

    Args:
        data: vectors with labels.
        kind: kind of the head; `auto` chooses regression for numbers, else by the number of labels.

    Raises:
        ConfigError: the labels do not fit the kind.
    """
    if kind == "auto":
        is_text = data.labels.dtype.kind == "U"
        kind = "regression" if not is_text else "binary" if len(np.unique(data.labels)) == 2 else "multiclass"
    if kind == "regression":
        targets = _to_numbers(data).reshape(len(data), -1).astype(np.float32)
        names = tuple(f"target_{number}" for number in range(targets.shape[1])) if targets.shape[1] > 1 else ("score",)
        return TrainingTask("regression", names, targets)
    if data.labels.ndim != 1:
        raise ConfigError(f"{data.where}: a {kind} head needs one label per row, found {data.labels.shape[1]}")
    values, positions = np.unique(data.labels, return_inverse=True)
    if kind == "binary" and len(values) != 2:
        raise ConfigError(f"{data.where}: a binary head needs two labels, found {len(values)}: {_join_labels(values)}")
    if len(values) < 2:
        raise ConfigError(
            f"{data.where}: all rows have the label {_join_labels(values)}; a {kind} head needs two labels or more"
        )
    labels = tuple(label_name(value) for value in values)
    return TrainingTask(cast(Kind, kind), labels, positions.astype(np.int64))


def _to_numbers(data: Labelled) -> NDArray[Any]:
    """Convert the labels of a regression to numbers; they may be texts that spell numbers."""
    try:
        return data.labels.astype(np.float64)
    except ValueError:
        invalid = next(label for label in data.labels.ravel().tolist() if not _is_number(label))
        raise ConfigError(f"{data.where}: a regression needs numbers, found the label {shown(invalid)}") from None


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _join_labels(values: NDArray[Any]) -> str:
    names = ", ".join(label_name(value) for value in values[:_MAX_LISTED_LABELS])
    return names + (", ..." if len(values) > _MAX_LISTED_LABELS else "")


def check_labels(task: TrainingTask, held_out: NDArray[np.bool_], where: str) -> None:
    """Make sure that the training rows have every label.

    Args:
        task: task of the training.
        held_out: whether each row is for validation, shape (N,).
        where: source of the data, for messages.

    Raises:
        SourceError: no training row has one of the labels.
    """
    if task.kind == "regression":
        for column, name in enumerate(task.labels):
            if not np.isfinite(task.targets[~held_out, column]).any():
                raise SourceError(f"{where}: no training row has a label for {name}")
        return
    missing = set(range(len(task.labels))) - set(task.targets[~held_out].tolist())
    if missing:
        names = ", ".join(task.labels[position] for position in sorted(missing))
        raise SourceError(
            f"{where}: after documents were held out for validation, no row is left to train on with the label "
            f"{names}. Add documents, or lower validation_share."
        )


def held_out_rows(documents: NDArray[np.str_], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose rows for validation: random whole documents, until they make up a share of all rows.

    Args:
        documents: document of each row, shape (N,).
        share: share of the rows, 0 to 1.
        seed: seed of the choice.

    Returns:
        Whether each row is for validation, shape (N,).

    Raises:
        SourceError: there are fewer than two documents.
    """
    names, members = np.unique(documents, return_inverse=True)
    if len(names) < 2:
        raise SourceError(f"training needs two documents or more, one of them for validation; found {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = np.bincount(members)[order]
    count = min(max(1, int(np.searchsorted(np.cumsum(sizes), share * len(documents))) + 1), len(names) - 1)
    return np.isin(members, order[:count])
