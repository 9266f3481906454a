"""Exact dense search: every passage is compared with every query, block by block.

A block's scores come from one matrix product in float32, whose last bits depend on the position of a row in the block.
So they only select the passages that may be among the best; these are scored again, each alone and in float64, and
ranked by that score. Thus equal vectors have equal scores, wherever they lie, and stay in passage order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings import encode
from data_pipeline.errors import CorruptShardError
from data_pipeline.retrieval.passage_vectors import PassageVectors
from data_pipeline.retrieval.ranked_list import RankedList, top_k
from data_pipeline.types import Float32Array, IntArray

Similarity = Literal["cosine", "dot"]
"""Similarity of two vectors."""
Float64Array = NDArray[np.float64]

_FLOAT32_ERROR = 2.0**-24  # relative: half a unit in the last place


@dataclass(frozen=True)
class DenseIndex:
    """Search over the vectors of passages.

    Args:
        vectors: vectors of all passages.
        is_empty: whether each passage is empty, shape (N,); empty ones are never returned.
        measure: similarity of a query and a passage.
        passage_rows: number of vectors in memory at a time.
    """

    vectors: PassageVectors
    is_empty: NDArray[np.bool_]
    measure: Similarity = "cosine"
    passage_rows: int = 16_384

    def encode(self, queries: Sequence[str]) -> Float32Array:
        """Encode queries, with the embedder's query prompt before each; shape (Q, dim)."""
        return encode(self.vectors.embedder, queries, query=True)[:, : self.vectors.dim]

    def search(self, queries_QD: NDArray[Any], k: int) -> list[RankedList]:
        """Search for the best passages of each query, among those that are not empty.

        Takes one pass over the vectors, and memory for one block and for Q * passage_rows scores in float32.

        Args:
            queries_QD: vectors of queries, shape (Q, dim); cosine ignores their length.
            k: number of passages per query at most; may exceed the number of passages.

        Raises:
            ValueError: the shape is wrong, or a query's vector is zero or not finite.
            CorruptShardError: a passage's vector is not finite.
        """
        exact_QD = self._prepare(queries_QD)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        float32_QD = exact_QD.astype(np.float32)
        lengths_Q = np.linalg.norm(exact_QD, axis=1)
        selections = [_TopSelection(k) for _ in exact_QD]
        for start, block_RD, max_length in self._blocks():
            products_QR = float32_QD @ block_RD.T
            products_QR[:, self.is_empty[start : start + len(block_RD)]] = -np.inf
            # Twice the error bound of a float32 product and of the length it is divided by, in any order of summation.
            slack_Q = 2 * (2 * self.vectors.dim + 8) * _FLOAT32_ERROR * lengths_Q * max_length
            for query, selection in enumerate(selections):
                if selection.add_block(products_QR[query], start, float(slack_Q[query])):
                    self._rank_exactly(selection, exact_QD[query])
        for query, selection in enumerate(selections):
            self._rank_exactly(selection, exact_QD[query])
        return [selection.ranked for selection in selections]

    def score(self, query_D: NDArray[Any], rows: IntArray) -> RankedList:
        """Rank given passages, best first; empty ones are left out.

        Args:
            query_D: vector of a query, shape (dim,).
            rows: rows of the passages, shape (N,).
        """
        rows = np.sort(rows[~self.is_empty[rows]])
        if not len(rows):
            return RankedList.empty()
        return top_k(self._score_exactly(self._prepare(query_D[None])[0], rows), rows, len(rows))

    def _prepare(self, queries_QD: NDArray[Any]) -> Float64Array:
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.vectors.dim:
            raise ValueError(
                f"query vectors must have shape (queries, {self.vectors.dim}), got {queries_QD.shape}: they come from "
                f"another model than the vectors in {self.vectors.where}"
            )
        exact = queries_QD.astype(np.float64)
        lengths = np.linalg.norm(exact, axis=1)
        if len(bad := np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))):
            raise ValueError(f"the vector of query {bad[0]} has no direction: its length is {lengths[bad[0]]}")
        return exact / lengths[:, None] if self.measure == "cosine" else exact

    def _blocks(self) -> Iterator[tuple[int, Float32Array, float]]:
        """Iterate over all vectors in order: first row, vectors of shape (R, dim) and their greatest length.

        For cosine the vectors have length 1.
        """
        for start in range(0, self.vectors.rows, self.passage_rows):
            rows = np.arange(start, min(start + self.passage_rows, self.vectors.rows))
            block = self.vectors.read(rows).astype(np.float32)
            lengths = np.linalg.norm(block, axis=1)
            if len(bad := np.flatnonzero(~np.isfinite(lengths))):
                raise CorruptShardError(
                    f"{self.vectors.where}: the vector of row {start + bad[0]} is not finite. Compute the embeddings "
                    "again."
                )
            if self.measure == "cosine":
                block /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
                yield start, block, 1.0
            else:
                yield start, block, float(lengths.max())

    def _score_exactly(self, query_D: Float64Array, rows: IntArray) -> Float64Array:
        """Score rows in float64, each independent of the others."""
        vectors = self.vectors.read(rows).astype(np.float64)
        products = (vectors * query_D).sum(axis=1)
        if self.measure == "dot":
            return np.asarray(products)
        return np.asarray(products / np.maximum(np.sqrt((vectors * vectors).sum(axis=1)), np.finfo(np.float64).tiny))

    def _rank_exactly(self, selection: "_TopSelection", query_D: Float64Array) -> None:
        rows = np.sort(selection.rows)
        exact = top_k(self._score_exactly(query_D, rows), rows, selection.k) if len(rows) else RankedList.empty()
        selection.set_ranked(exact)


class _TopSelection:
    """Passages that may be among the k best ones of one query."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.rows = np.zeros(0, np.int64)
        self.ranked = RankedList.empty()
        self._scores = np.zeros(0, np.float32)
        self._floor = np.float32(-np.inf)

    def add_block(self, scores: Float32Array, start: int, slack: float) -> bool:
        """Add those passages of a block that may be among the best; return whether they must be ranked exactly now.

        Args:
            scores: scores of the block's passages, to within half of `slack`; -inf for those to leave out.
            start: row of the first passage.
            slack: difference of two scores up to which their order is not certain.
        """
        positions = np.flatnonzero((scores >= self._floor) & (scores > -np.inf))
        self.rows = np.concatenate([self.rows, positions + start])
        self._scores = np.concatenate([self._scores, scores[positions]])
        if len(self.rows) > self.k:
            kth = np.partition(self._scores, len(self._scores) - self.k)[len(self._scores) - self.k]
            self._floor = max(self._floor, np.float32(kth - np.float32(slack)))
            is_above = self._scores >= self._floor
            self.rows, self._scores = self.rows[is_above], self._scores[is_above]
        # Very many equal scores must not fill the memory.
        return len(self.rows) > 4 * self.k + 1024

    def set_ranked(self, ranked: RankedList) -> None:
        """Set the exact ranking of the passages so far, and drop the others."""
        self.ranked = ranked
        is_ranked = np.isin(self.rows, ranked.rows)
        self.rows, self._scores = self.rows[is_ranked], self._scores[is_ranked]
