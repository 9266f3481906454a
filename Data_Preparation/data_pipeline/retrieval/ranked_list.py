"""Ranked passages of a query, as BM25 and dense search return them."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import Float32Array, IntArray


class RankedList(NamedTuple):
    """Passages of one query, best first; equal scores in passage order."""

    rows: IntArray
    """Rows of the passages, shape (N,)."""
    scores: Float32Array
    """Scores of the passages, shape (N,)."""

    @classmethod
    def empty(cls) -> Self:
        """Make a list without passages."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32))


def top_k(scores: NDArray[Any], rows: IntArray, k: int) -> RankedList:
    """Rank the k highest scores, equal ones in the order of `rows`; O(N + k log k).

    Args:
        scores: scores of passages, shape (N,).
        rows: their rows, ascending, shape (N,).
        k: number of passages to return at most.
    """
    if len(scores) > k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)  # all ties of the k-th score, so that row order decides
        scores, rows = scores[candidates], rows[candidates]
    order = np.argsort(-scores, kind="stable")[:k]
    return RankedList(rows[order].astype(np.int64, copy=False), scores[order].astype(np.float32, copy=False))
