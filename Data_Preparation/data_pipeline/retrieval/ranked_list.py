"""A query's ranked passages, as BM25 and dense search give them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import Float32Array, IntArray


class Ranked(NamedTuple):
    """One query's passages, the best first; equal scores in passage order."""

    rows: IntArray
    """Shape (found,)."""
    scores: Float32Array
    """Shape (found,)."""


def best(scores: NDArray[Any], rows: IntArray, k: int) -> Ranked:
    """The k highest scores, equal ones in the order of `rows`, which ascend; O(N + k log k)."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)  # all that are as good as the last one, not any k of them
        scores, rows = scores[kept], rows[kept]
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranked(rows[order].astype(np.int64, copy=False), scores[order].astype(np.float32, copy=False))


def nothing() -> Ranked:
    """No passages."""
    return Ranked(np.zeros(0, np.int64), np.zeros(0, np.float32))
