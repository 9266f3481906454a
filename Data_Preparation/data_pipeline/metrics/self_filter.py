"""Grades of a judge for a few rows, extended to all rows by a small head.

The method of quality classifiers for corpora such as FineWeb-Edu: Penedo et al., "The FineWeb
Datasets" (2024), arXiv:2406.17557.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.small_head import Embeddings, SmallHeadConfig, class_probabilities, last_head, open_inputs

_MIN_ROWS = 5


class SelfFilterMeasureConfig(SmallHeadConfig):
    """Settings of the measure `self_filter`."""

    epochs: int = Field(20, ge=1)
    """Epochs over the judged rows."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Lowest grade of a good row."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds, one head for each; their probabilities are averaged."""


def self_filter(
    embeddings: Embeddings, judged: ArrayLike, config: SelfFilterMeasureConfig
) -> dict[str, NDArray[np.float64]]:
    """Probability that a row is good, column `self_filter`, 0 to 1, for judged rows, too.

    Args:
        embeddings: Shape (N, D).
        judged: Shape (N,), grade of each row, such as `llm_judge`; NaN for rows that were not judged.
        config: Settings.

    Raises:
        SelectionError: There are too few good or bad rows to train on, or embeddings or grades are invalid.
    """
    inputs = open_inputs(embeddings, config.device)
    grades = np.asarray(judged, np.float64)
    if grades.shape != (len(inputs),) or np.isinf(grades).any():
        raise SelectionError(
            f"judged: expected one finite number or NaN for each of {len(inputs)} rows, found shape {grades.shape} and "
            f"{np.isinf(grades).sum()} infinite values"
        )
    rows, good = np.flatnonzero(~np.isnan(grades)), grades >= config.threshold
    counts = np.bincount(good[rows], minlength=2)
    if counts.min() < _MIN_ROWS:
        raise SelectionError(
            f"of {len(rows)} judged rows {counts[1]} have a grade of {config.threshold:g} or more and {counts[0]} a "
            f"lower one; expected at least {_MIN_ROWS} of each. Judge more rows, or change threshold"
        )
    total = np.zeros(len(inputs))
    for seed in config.seeds:
        head = last_head(inputs, rows, good.astype(np.int64), 2, config, seed)
        total += class_probabilities(head, inputs, np.arange(len(inputs)))[:, 1]
    return {"self_filter": total / len(config.seeds)}
