"""A judge's opinion of a few rows, learnt by a small head and extended to all.

The way of the quality classifiers that corpora are filtered by, such as FineWeb-Edu's: Penedo et al., "The FineWeb
Datasets" (2024), arXiv:2406.17557.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.metrics.small_head import (
    Embeddings,
    SmallHeadConfig,
    last_head,
    open_inputs,
    probabilities,
)

_LEAST_ROWS = 5


class SelfFilterMeasureConfig(SmallHeadConfig):
    """The heads, and what they learn."""

    epochs: int = Field(20, ge=1)
    """Passes over the judged rows."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Rows with a grade of this or more are good ones."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """One head for each; their probabilities are averaged."""


def self_filter(
    embeddings: Embeddings, judged: ArrayLike, config: SelfFilterMeasureConfig
) -> dict[str, NDArray[np.float64]]:
    """Probability that a row is a good one, column `self_filter`, 0 to 1, judged rows included.

    Args:
        embeddings: shape (N, D).
        judged: shape (N,), a grade such as `llm_judge`; NaN where there is none.
        config: see `SelfFilterMeasureConfig`.

    Raises:
        SelectionError: there are too few good or bad rows to learn from, or the embeddings are not what they should be.
    """
    inputs = open_inputs(embeddings, config.device)
    grades = np.asarray(judged, np.float64)
    if grades.shape != (len(inputs),) or np.isinf(grades).any():
        raise SelectionError(
            f"judged must be one finite number, or NaN, for each of {len(inputs)} rows, found shape {grades.shape} "
            f"and {np.isinf(grades).sum()} infinite ones"
        )
    rows, good = np.flatnonzero(~np.isnan(grades)), grades >= config.threshold
    counts = np.bincount(good[rows], minlength=2)
    if counts.min() < _LEAST_ROWS:
        raise SelectionError(
            f"of {len(rows)} judged rows {counts[1]} have a grade of {config.threshold:g} or more and {counts[0]} a "
            f"lower one; {_LEAST_ROWS} of each are needed to learn from. Judge more rows, or change threshold."
        )
    total = np.zeros(len(inputs))
    for seed in config.seeds:
        head = last_head(inputs, rows, good.astype(np.int64), 2, config, seed)
        total += probabilities(head, inputs, np.arange(len(inputs)))[:, 1]
    return {"self_filter": total / len(config.seeds)}
