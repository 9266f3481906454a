"""Fusion of the ranked lists of a query into one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

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
    sparse_score: float | None = None
    """Score of sparse search; None if the passage is not in that list."""
    sparse_rank: int | None = None
    """Rank of sparse search; None if the passage is not in that list."""


class Lists(NamedTuple):
    """Ranked lists of a query; a search that is not used has an empty one."""

    bm25: RankedList = RankedList.empty()
    dense: RankedList = RankedList.empty()
    sparse: RankedList = RankedList.empty()


def fuse_min_max(lists: Lists, weights: tuple[float, float, float], k: int) -> list[Candidate]:
    """Rank by a weighted mean of the scores, which are scaled to 0 to 1 in each list.

    In each list the best passage has 1 and the last one 0, as have passages that are not in the list; if all scores of
    a list are equal, they are 1. See Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval",
    2023.

    Args:
        lists: lists of the query.
        weights: weight of the scores of each list, 0 to 1, in the order of `Lists`.
        k: number of candidates at most.
    """
    parts = [_scale(ranked.scores) * weight for ranked, weight in zip(lists, weights, strict=True)]
    return _rank_by_sum(lists, parts, k)


def fuse_reciprocal_ranks(lists: Lists, rrf_k: float, k: int) -> list[Candidate]:
    """Rank by the sum of 1 / (rrf_k + rank) over the lists that a passage is in.

    See Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009.

    Args:
        lists: lists of the query.
        rrf_k: constant that is added to each rank; 60 in the paper.
        k: number of candidates at most.
    """
    return _rank_by_sum(lists, [1 / (rrf_k + np.arange(1, len(ranked.rows) + 1)) for ranked in lists], k)


def rerank_by_dense(lists: Lists, k: int) -> list[Candidate]:
    """Rank the passages of BM25 by their dense scores; other passages are left out.

    Args:
        lists: passages to rank, and their dense scores; passages without one come last, in the order of BM25.
        k: number of candidates at most.
    """
    bm25, dense, _ = lists
    is_common = np.isin(dense.rows, bm25.rows)
    dense = RankedList(dense.rows[is_common], dense.scores[is_common])
    others = bm25.rows[~np.isin(bm25.rows, dense.rows)]
    rows = np.concatenate([dense.rows, others])
    scores = np.concatenate([dense.scores.astype(np.float64), np.full(len(others), -np.inf)])
    return _make_candidates(rows[:k], scores[:k], Lists(bm25, dense))


def take_first(lists: Lists, name: Literal["bm25", "dense", "sparse"], k: int) -> list[Candidate]:
    """Take the first k passages of one list."""
    ranked: RankedList = getattr(lists, name)
    return _make_candidates(ranked.rows[:k], ranked.scores[:k].astype(np.float64), Lists(**{name: ranked}))


def _scale(scores: Float32Array) -> Float64Array:
    exact = scores.astype(np.float64)
    if not len(exact):
        return exact
    low, high = exact.min(), exact.max()
    return (exact - low) / (high - low) if high > low else np.ones(len(exact))


def _rank_by_sum(lists: Lists, parts: Sequence[Float64Array], k: int) -> list[Candidate]:
    rows = np.unique(np.concatenate([ranked.rows for ranked in lists]))
    scores = np.zeros(len(rows))
    for ranked, part in zip(lists, parts, strict=True):
        scores[np.searchsorted(rows, ranked.rows)] += part
    order = np.argsort(-scores, kind="stable")[:k]  # rows ascend, so equal scores stay in passage order
    return _make_candidates(rows[order], scores[order], lists)


def _make_candidates(rows: IntArray, scores: Float64Array, lists: Lists) -> list[Candidate]:
    in_bm25, in_dense, in_sparse = map(_scores_and_ranks, lists)
    absent = (None, None)
    return [
        Candidate(row, rank, score, *in_bm25.get(row, absent), *in_dense.get(row, absent), *in_sparse.get(row, absent))
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1)
    ]


def _scores_and_ranks(ranked: RankedList) -> dict[int, tuple[float, int]]:
    """Map each row to its score and rank."""
    return {
        row: (score, rank)
        for rank, (row, score) in enumerate(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True), start=1)
    }
