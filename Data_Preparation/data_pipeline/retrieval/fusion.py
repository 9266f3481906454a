"""Fusion of the two ranked lists of a query into one."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_pipeline.retrieval.ranked_list import RankedList
from data_pipeline.types import Float32Array, IntArray

Float64Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that may be relevant to a query, with its position in each list; ranks count from 1."""

    row: int
    """Row of the passage."""
    rank: int
    """Rank in the fused list."""
    score: float
    """Score in the fused list."""
    bm25_score: float | None
    """Score of BM25; None if the passage is not in that list."""
    bm25_rank: int | None
    """Rank of BM25; None if the passage is not in that list."""
    dense_score: float | None
    """Score of dense search; None if the passage is not in that list."""
    dense_rank: int | None
    """Rank of dense search; None if the passage is not in that list."""


def fuse_min_max(bm25: RankedList, dense: RankedList, dense_weight: float, k: int) -> list[Candidate]:
    """Rank by a weighted mean of the scores, which are scaled to 0 to 1 in each list.

    In each list the best passage has 1 and the last one 0, as have passages that are not in the list; if all scores of
    a list are equal, they are 1. See Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval",
    2023.

    Args:
        bm25: list of BM25.
        dense: list of dense search.
        dense_weight: weight of the dense scores, 0 to 1.
        k: number of candidates at most.
    """
    bm25_parts, dense_parts = _scale(bm25.scores) * (1 - dense_weight), _scale(dense.scores) * dense_weight
    return _rank_by_sum(bm25, dense, bm25_parts, dense_parts, k)


def fuse_reciprocal_ranks(bm25: RankedList, dense: RankedList, rrf_k: float, k: int) -> list[Candidate]:
    """Rank by the sum of 1 / (rrf_k + rank) over the lists that a passage is in.

    See Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009.

    Args:
        bm25: list of BM25.
        dense: list of dense search.
        rrf_k: constant that is added to each rank; 60 in the paper.
        k: number of candidates at most.
    """
    bm25_parts, dense_parts = (1 / (rrf_k + np.arange(1, len(ranked.rows) + 1)) for ranked in (bm25, dense))
    return _rank_by_sum(bm25, dense, bm25_parts, dense_parts, k)


def rerank_by_dense(bm25: RankedList, dense: RankedList, k: int) -> list[Candidate]:
    """Rank the passages of BM25 by their dense scores; other passages of `dense` are left out.

    Args:
        bm25: passages to rank.
        dense: dense scores; passages without one come last, in the order of BM25.
        k: number of candidates at most.
    """
    is_common = np.isin(dense.rows, bm25.rows)
    dense = RankedList(dense.rows[is_common], dense.scores[is_common])
    others = bm25.rows[~np.isin(bm25.rows, dense.rows)]
    rows = np.concatenate([dense.rows, others])
    scores = np.concatenate([dense.scores.astype(np.float64), np.full(len(others), -np.inf)])
    return _make_candidates(rows[:k], scores[:k], bm25, dense)


def take_bm25(bm25: RankedList, k: int) -> list[Candidate]:
    """Take the first k passages of BM25."""
    return _make_candidates(bm25.rows[:k], bm25.scores[:k].astype(np.float64), bm25, RankedList.empty())


def take_dense(dense: RankedList, k: int) -> list[Candidate]:
    """Take the first k passages of dense search."""
    return _make_candidates(dense.rows[:k], dense.scores[:k].astype(np.float64), RankedList.empty(), dense)


def _scale(scores: Float32Array) -> Float64Array:
    exact = scores.astype(np.float64)
    if not len(exact):
        return exact
    low, high = exact.min(), exact.max()
    return (exact - low) / (high - low) if high > low else np.ones(len(exact))


def _rank_by_sum(
    bm25: RankedList, dense: RankedList, bm25_parts: Float64Array, dense_parts: Float64Array, k: int
) -> list[Candidate]:
    rows = np.unique(np.concatenate([bm25.rows, dense.rows]))
    scores = np.zeros(len(rows))
    scores[np.searchsorted(rows, bm25.rows)] += bm25_parts
    scores[np.searchsorted(rows, dense.rows)] += dense_parts
    order = np.argsort(-scores, kind="stable")[:k]  # rows ascend, so equal scores stay in passage order
    return _make_candidates(rows[order], scores[order], bm25, dense)


def _make_candidates(rows: IntArray, scores: Float64Array, bm25: RankedList, dense: RankedList) -> list[Candidate]:
    in_bm25, in_dense = _scores_and_ranks(bm25), _scores_and_ranks(dense)
    absent = (None, None)
    return [
        Candidate(row, rank, score, *in_bm25.get(row, absent), *in_dense.get(row, absent))
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1)
    ]


def _scores_and_ranks(ranked: RankedList) -> dict[int, tuple[float, int]]:
    """Map each row to its score and rank."""
    return {
        row: (score, rank)
        for rank, (row, score) in enumerate(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True), start=1)
    }
