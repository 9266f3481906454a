"""Exact search by vectors: every passage is compared with every query, block by block.

A block's products come from one matrix product in float32, whose last bits depend on where in the block a
row lies. So it only says which passages may be among the best; those are scored again, each on its own and
in float64, and that decides. Equal vectors have equal scores then, wherever they lie, and come in passage order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings import encode
from data_pipeline.errors import CorruptShard
from data_pipeline.retrieval.passage_vectors import PassageVectors
from data_pipeline.retrieval.ranked_list import Ranked, best, nothing
from data_pipeline.types import Float32Array, IntArray

Measure = Literal["cosine", "dot"]
Float64Array = NDArray[np.float64]

_SINGLE = 2.0**-24  # half a unit in the last place of float32, relative


@dataclass(frozen=True)
class DenseIndex:
    """Searches the vectors of passages.

    Args:
        vectors: of all passages.
        is_empty: which passages are never found, shape (rows,).
        measure: cosine or dot product.
        passage_rows: vectors in memory at a time.
    """

    vectors: PassageVectors
    is_empty: NDArray[np.bool_]
    measure: Measure = "cosine"
    passage_rows: int = 16_384

    def encode(self, queries: Sequence[str]) -> Float32Array:
        """The vectors of queries, with the embedder's query prompt before each; shape (Q, dim)."""
        return encode(self.vectors.embedder, queries, query=True)[:, : self.vectors.dim]

    def search(self, queries_QD: NDArray[Any], k: int) -> list[Ranked]:
        """Each query's best passages among all that are not empty.

        Takes one pass over the vectors, Q * passage_rows * 4 bytes of memory and those of a block.

        Args:
            queries_QD: vectors of queries, shape (Q, dim); their length does not matter to cosine.
            k: passages of a query, at most; may be more than there are.

        Raises:
            ValueError: the shape is another one, or a query's vector has no direction.
            CorruptShard: a passage's vector is not finite.
        """
        exact_QD = self._prepared(queries_QD)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        single_QD = exact_QD.astype(np.float32)
        lengths_Q = np.linalg.norm(exact_QD, axis=1)
        found = [_Best(k) for _ in exact_QD]
        for start, block_RD, longest in self._blocks():
            products_QR = single_QD @ block_RD.T
            products_QR[:, self.is_empty[start : start + len(block_RD)]] = -np.inf
            # Twice the bound of the error of a float32 product and of the length it is divided by, in any order.
            slack_Q = 2 * (2 * self.vectors.dim + 8) * _SINGLE * lengths_Q * longest
            for query, one in enumerate(found):
                if one.offer(products_QR[query], start, float(slack_Q[query])):
                    self._settle(one, exact_QD[query])
        for query, one in enumerate(found):
            self._settle(one, exact_QD[query])
        return [one.ranked for one in found]

    def score(self, query_D: NDArray[Any], rows: IntArray) -> Ranked:
        """Some passages, the best first; empty ones are left out.

        Args:
            query_D: vector of a query, shape (dim,).
            rows: which passages, shape (N,).
        """
        rows = np.sort(rows[~self.is_empty[rows]])
        if not len(rows):
            return nothing()
        return best(self._exact(self._prepared(query_D[None])[0], rows), rows, len(rows))

    def _prepared(self, queries_QD: NDArray[Any]) -> Float64Array:
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.vectors.dim:
            raise ValueError(
                f"query vectors must have shape (queries, {self.vectors.dim}), got {queries_QD.shape}: they are of "
                f"another model than the vectors in {self.vectors.where}"
            )
        exact = queries_QD.astype(np.float64)
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            bad = int(np.flatnonzero(~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0))[0])
            raise ValueError(f"the vector of query {bad} has no direction: its length is {lengths[bad, 0]}")
        return exact / lengths if self.measure == "cosine" else exact

    def _blocks(self) -> Iterator[tuple[int, Float32Array, float]]:
        """All vectors in order, at length 1 for cosine: the first row, shape (R, dim), and the greatest length."""
        for start in range(0, self.vectors.rows, self.passage_rows):
            rows = np.arange(start, min(start + self.passage_rows, self.vectors.rows))
            block = self.vectors.read(rows).astype(np.float32)
            lengths = np.linalg.norm(block, axis=1)
            if not np.isfinite(lengths).all():
                raise CorruptShard(
                    f"{self.vectors.where}: the vector of row {start + int(np.flatnonzero(~np.isfinite(lengths))[0])} "
                    "is not finite. Make the embeddings again."
                )
            if self.measure == "cosine":
                block /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
                yield start, block, 1.0
            else:
                yield start, block, float(lengths.max())

    def _exact(self, query_D: Float64Array, rows: IntArray) -> Float64Array:
        """Scores of some rows, each as if it were alone."""
        vectors = self.vectors.read(rows).astype(np.float64)
        products = (vectors * query_D).sum(axis=1)
        if self.measure == "dot":
            return np.asarray(products)
        return np.asarray(products / np.maximum(np.sqrt((vectors * vectors).sum(axis=1)), np.finfo(np.float64).tiny))

    def _settle(self, found: "_Best", query_D: Float64Array) -> None:
        rows = np.sort(found.rows)
        found.settle(best(self._exact(query_D, rows), rows, found.k) if len(rows) else nothing())


class _Best:
    """What may be among the k best passages of one query."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.rows = np.zeros(0, np.int64)
        self.ranked = nothing()
        self._scores = np.zeros(0, np.float32)
        self._floor = np.float32(-np.inf)

    def offer(self, scores: Float32Array, start: int, slack: float) -> bool:
        """Take what may be among the best of a block; says whether it is time to settle.

        Args:
            scores: of the block's passages, to within half of `slack`; -inf for those that must not be found.
            start: row of the first.
            slack: by how much a score may be below another and yet stand for a better one.
        """
        places = np.flatnonzero((scores >= self._floor) & (scores > -np.inf))
        self.rows = np.concatenate([self.rows, places + start])
        self._scores = np.concatenate([self._scores, scores[places]])
        if len(self.rows) > self.k:
            kth = np.partition(self._scores, len(self._scores) - self.k)[len(self._scores) - self.k]
            self._floor = max(self._floor, np.float32(kth - np.float32(slack)))
            kept = self._scores >= self._floor
            self.rows, self._scores = self.rows[kept], self._scores[kept]
        # Very many equally good ones must not fill the memory.
        return len(self.rows) > 4 * self.k + 1024

    def settle(self, ranked: Ranked) -> None:
        """These are the best so far, for certain."""
        self.ranked = ranked
        kept = np.isin(self.rows, ranked.rows)
        self.rows, self._scores = self.rows[kept], self._scores[kept]
