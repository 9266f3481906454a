"""Exact nearest neighbours of one row, found in one pass over the stored vectors when somebody asks for them."""

from dataclasses import dataclass

import numpy as np

from data_pipeline.report.explorer.contents import Contents
from data_pipeline.types import Float32Array, IntArray

NEIGHBORS = 10


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbours of a row, the nearest first."""

    rows: IntArray
    """Row numbers, never the row itself, shape (K,)."""
    distances: Float32Array
    """Cosine distances, 0 to 2, shape (K,)."""


def nearest_rows(contents: Contents, row: int, count: int = NEIGHBORS) -> Nearest:
    """Find the nearest neighbours of a row by cosine; a vector of length 0 has cosine 0 to all.

    Time is that of reading all vectors once; memory is that of a block.
    """
    query = contents.vectors(np.array([row]))[0]
    query /= np.linalg.norm(query) or 1.0
    best_rows, best = np.empty(0, np.int64), np.empty(0, np.float32)
    start = 0
    for block in contents.blocks():
        cosines = block @ query
        if not contents.is_normalized:
            lengths = np.linalg.norm(block, axis=1)
            cosines /= np.where(lengths > 0, lengths, 1)
        if start <= row < start + len(block):
            cosines[row - start] = -np.inf
        top = np.argpartition(-cosines, min(count, len(block) - 1))[:count]
        best_rows, best = np.append(best_rows, top + start), np.append(best, cosines[top])
        order = np.argsort(-best, kind="stable")[:count]
        best_rows, best = best_rows[order], best[order]
        start += len(block)
    is_other = np.isfinite(best)
    return Nearest(best_rows[is_other], np.clip(1 - best[is_other], 0, 2))
