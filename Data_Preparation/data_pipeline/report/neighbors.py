"""Nearest neighbours of every row among all rows, by cosine."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.types import Float32Array, IntArray

_BLOCK_ROWS = 1024
_EXACT_DIM = 512
_CANDIDATES_PER_NEIGHBOR = 5


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbours of N rows, the nearest first."""

    rows: NDArray[np.int32]
    """Row numbers of the neighbours, never the row itself, shape (N, K)."""
    cosines: Float32Array
    """Cosines to them, -1 to 1, shape (N, K)."""


def nearest_neighbors(vectors_ND: Float32Array, count: int, seed: int = 0) -> Neighbors:
    """Find the nearest neighbours of every row.

    They are exact for vectors of up to 512 dimensions. For wider ones, a random projection to 512 dimensions chooses
    five times as many candidates, whose cosines are exact.

    Args:
        vectors_ND: finite vectors, shape (N, D); rows of length 0 have cosine 0 to all.
        count: number of neighbours of a row; at most N - 1 are returned.
        seed: seed of the random projection.
    """
    vectors = _unit_length(torch.from_numpy(np.ascontiguousarray(vectors_ND, dtype=np.float32)))
    rows, dim = vectors.shape
    count = max(0, min(count, rows - 1))
    if dim <= _EXACT_DIM:
        return _nearest(vectors, vectors, count)
    generator = torch.Generator().manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(dim, _EXACT_DIM, generator=generator))
    candidates = min(rows - 1, count * _CANDIDATES_PER_NEIGHBOR)
    return _nearest(_unit_length(vectors @ directions), vectors, count, candidates)


def nearest_of(vectors_ND: Float32Array, queries: IntArray, count: int) -> Neighbors:
    """Find the nearest neighbours of some rows among all rows, exactly.

    Args:
        vectors_ND: finite vectors, shape (N, D).
        queries: row numbers, shape (Q,).
        count: number of neighbours of a row; at most N - 1 are returned.
    """
    vectors = _unit_length(torch.from_numpy(np.ascontiguousarray(vectors_ND, dtype=np.float32)))
    return _nearest(vectors, vectors, max(0, min(count, len(vectors) - 1)), queries=queries)


def _unit_length(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def _nearest(
    approximate: torch.Tensor,
    vectors: torch.Tensor,
    count: int,
    candidates: int | None = None,
    queries: IntArray | None = None,
) -> Neighbors:
    """Find the nearest rows by cosines of approximate vectors, and order candidates by those of the vectors."""
    asked = torch.arange(len(vectors)) if queries is None else torch.from_numpy(queries)
    nearest, cosines = torch.empty(len(asked), count, dtype=torch.int32), torch.empty(len(asked), count)
    buffer = torch.empty(_BLOCK_ROWS, len(vectors))  # new memory for each block takes as long as a part of the product
    for start in range(0, len(asked) if count else 0, _BLOCK_ROWS):
        rows = asked[start : start + _BLOCK_ROWS]
        similarities = torch.mm(approximate[rows], approximate.T, out=buffer[: len(rows)])
        similarities[torch.arange(len(rows)), rows] = -torch.inf
        values, indices = similarities.topk(count if candidates is None else candidates, dim=1)
        if candidates is not None:
            exact = torch.bmm(vectors[indices], vectors[rows].unsqueeze(2)).squeeze(2)
            values, order = exact.topk(count, dim=1)
            indices = indices.gather(1, order)
        block = slice(start, start + len(rows))
        nearest[block], cosines[block] = indices.to(torch.int32), values.clamp(-1, 1)
    return Neighbors(nearest.numpy(), cosines.numpy())
