"""Two ranked lists of a query -> one."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from data_pipeline.retrieval.ranked_list import Ranked, nothing
from data_pipeline.types import Float32Array, IntArray

Float64Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that may be relevant to a query, and where each list has it; ranks count from 1."""

    row: int
    """Of the passages."""
    rank: int
    """In the fused list."""
    score: float
    """By which it was ranked."""
    bm25_score: float | None
    """None where it is not in that list."""
    bm25_rank: int | None
    dense_score: float | None
    """None where it is not in that list."""
    dense_rank: int | None


def min_max(bm25: Ranked, dense: Ranked, dense_weight: float, k: int) -> list[Candidate]:
    """The convex combination of scores scaled to 0 to 1, list by list.

    A list's best passage has 1 and its last one 0, as have those it lacks; where all of a list are equally
    good, they have 1. See Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", 2023.

    Args:
        bm25: one list.
        dense: the other.
        dense_weight: what the dense list counts, 0 to 1.
        k: candidates, at most.
    """
    return _fused(bm25, dense, _scaled(bm25.scores) * (1 - dense_weight), _scaled(dense.scores) * dense_weight, k)


def reciprocal_ranks(bm25: Ranked, dense: Ranked, rrf_k: float, k: int) -> list[Candidate]:
    """Ranked by the sum of 1 / (rrf_k + rank) over the lists that have a passage.

    See Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009.

    Args:
        bm25: one list.
        dense: the other.
        rrf_k: 60 in the paper.
        k: candidates, at most.
    """
    of_bm25, of_dense = (1 / (rrf_k + np.arange(1, len(listed.rows) + 1)) for listed in (bm25, dense))
    return _fused(bm25, dense, of_bm25, of_dense, k)


def reranked(bm25: Ranked, dense: Ranked, k: int) -> list[Candidate]:
    """BM25's passages in the order of the dense scores; what `dense` has beside them is left out.

    Args:
        bm25: says which passages.
        dense: says in which order; BM25's passages that it lacks come last, in BM25's order.
        k: candidates, at most.
    """
    kept = np.isin(dense.rows, bm25.rows)
    dense = Ranked(dense.rows[kept], dense.scores[kept])
    rest = np.flatnonzero(~np.isin(bm25.rows, dense.rows))
    scores = np.full(len(bm25.rows), -np.inf)
    places = {row: place for place, row in enumerate(bm25.rows.tolist())}
    for row, score in zip(dense.rows.tolist(), dense.scores.tolist(), strict=True):
        scores[places[row]] = score
    ordered = np.concatenate([dense.rows, bm25.rows[rest]])[:k]
    return _candidates(ordered, np.array([scores[places[row]] for row in ordered.tolist()]), bm25, dense)


def only_bm25(bm25: Ranked, k: int) -> list[Candidate]:
    """BM25's list as it is."""
    return _candidates(bm25.rows[:k], bm25.scores[:k].astype(np.float64), bm25, nothing())


def only_dense(dense: Ranked, k: int) -> list[Candidate]:
    """The dense list as it is."""
    return _candidates(dense.rows[:k], dense.scores[:k].astype(np.float64), nothing(), dense)


def _scaled(scores: Float32Array) -> Float64Array:
    exact = scores.astype(np.float64)
    if not len(exact):
        return exact
    low, high = exact.min(), exact.max()
    return (exact - low) / (high - low) if high > low else np.ones(len(exact))


def _fused(
    bm25: Ranked,
    dense: Ranked,
    bm25_parts: Float64Array,
    dense_parts: Float64Array,
    k: int,
) -> list[Candidate]:
    rows = np.unique(np.concatenate([bm25.rows, dense.rows]))
    scores = np.zeros(len(rows))
    scores[np.searchsorted(rows, bm25.rows)] += bm25_parts
    scores[np.searchsorted(rows, dense.rows)] += dense_parts
    order = np.argsort(-scores, kind="stable")[:k]  # rows ascend, so equal scores stay in passage order
    return _candidates(rows[order], scores[order], bm25, dense)


def _candidates(rows: IntArray, scores: Float64Array, bm25: Ranked, dense: Ranked) -> list[Candidate]:
    of_bm25, of_dense = _places(bm25), _places(dense)
    absent = (None, None)
    return [
        Candidate(row, rank, score, *of_bm25.get(row, absent), *of_dense.get(row, absent))
        for rank, (row, score) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True), start=1)
    ]


def _places(listed: Ranked) -> dict[int, tuple[float, int]]:
    """Scores and ranks by row."""
    return {
        row: (score, rank)
        for rank, (row, score) in enumerate(zip(listed.rows.tolist(), listed.scores.tolist(), strict=True), start=1)
    }
