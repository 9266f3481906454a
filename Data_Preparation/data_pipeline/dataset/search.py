"""Exact nearest-neighbour search over the vectors of a dataset."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from data_pipeline.embeddings import Embedder, encode
from data_pipeline.store.reader import Rows
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils.displays import table_html
from data_pipeline.utils.terminal import one_line, printable

_TEXT_CHARS, _HTML_CHARS = 80, 300


class SearchHits(list[dict[str, Any]]):
    """Samples that a search found, best first, each with `index` and `score`."""

    def _repr_html_(self) -> str:
        return table_html(f"{len(self)} rows", ("score", "index", "text_id", "text"), self._cells(_HTML_CHARS))

    def __repr__(self) -> str:
        lines = [f"{score}  {index:>6}  {text_id}  {text}" for score, index, text_id, text in self._cells(_TEXT_CHARS)]
        return printable("\n".join([f"SearchHits of {len(self)} rows", *lines]))

    def _cells(self, chars: int) -> list[tuple[str, str, str, str]]:
        return [
            (
                f"{hit['score']:.3f}",
                str(hit["index"]),
                str(hit.get("metadata", {}).get("text_id", "")),
                one_line(hit.get("text", ""), chars),
            )
            for hit in self
        ]


Query: TypeAlias = "str | Sequence[float] | np.ndarray[Any, Any] | torch.Tensor"


def search(rows: Rows, query: Query, k: int, load_embedder: Callable[[], Embedder]) -> tuple[IntArray, Float32Array]:
    """Find the rows with the largest cosine to a query; reads all vectors once.

    Args:
        rows: the rows.
        query: a text, or a vector of shape (dim,).
        k: number of results; at most all rows.
        load_embedder: returns the embedder that made the vectors; called for a text only.

    Returns:
        Indices of the rows and their cosines, each of shape (k,), best first.

    Raises:
        ValueError: the vector has another shape or no direction, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    vector = _query_vector(query, rows.dim, load_embedder)
    scores = np.zeros(len(rows), dtype=np.float32)
    start = 0
    for stored in rows.iter_vectors():
        block = stored.astype(np.float32)
        norms = np.linalg.norm(block, axis=1)
        scores[start : start + len(block)] = block @ vector / np.where(norms > 0, norms, 1)
        start += len(block)
    best = np.argsort(-scores, kind="stable")[:k]
    return best, scores[best]


def _query_vector(query: Query, dim: int, load_embedder: Callable[[], Embedder]) -> Float32Array:
    """The vector of a query, scaled to length 1, shape (dim,)."""
    if isinstance(query, str):
        vector = encode(load_embedder(), [query], query=True)[0][:dim]
    else:
        vector = np.asarray(query, dtype=np.float32)
    if vector.shape != (dim,):
        raise ValueError(f"the query vector must have shape ({dim},), got {vector.shape}")
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise ValueError("the query vector has no direction: its length is 0 or not finite")
    return np.asarray(vector / length, dtype=np.float32)
