"""Measures of the health of vectors: spread, effective dimension, and what fewer dimensions or bits lose."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.report.neighbors import Neighbors, nearest_of
from data_pipeline.store.quantization import calibrate
from data_pipeline.types import Float32Array, IntArray

NEIGHBORS = 10
"""Number of neighbours that are compared."""
_QUERIES = 1000
_PAIRS = 100_000
_ROWS_OF_SPECTRUM = 4096
_CUTS = (1024, 512, 256, 128, 64)


def random_cosines(vectors_ND: Float32Array, rng: np.random.Generator, pairs: int = _PAIRS) -> Float32Array:
    """Compute the cosines of random pairs of different rows, shape (pairs,); empty for fewer than two rows.

    Their mean is the anisotropy of the vectors (Ethayarajh, "How contextual are contextualized word representations?",
    2019): 0 for directions that are spread evenly, 1 if all are the same.

    Args:
        vectors_ND: vectors, shape (N, D).
        rng: draws the pairs.
        pairs: number of pairs.
    """
    rows = len(vectors_ND)
    if rows < 2:
        return np.zeros(0, np.float32)
    left = rng.integers(0, rows, pairs)
    right = (left + rng.integers(1, rows, pairs)) % rows
    cosines = np.empty(pairs, np.float32)
    for start in range(0, pairs, 8192):
        block = slice(start, start + 8192)
        one, other = vectors_ND[left[block]], vectors_ND[right[block]]
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines[block] = np.einsum("nd,nd->n", one, other) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return cosines.clip(-1, 1)


def effective_dimension(vectors_ND: Float32Array, rng: np.random.Generator) -> float:
    """Compute the participation ratio of the variances along principal components: (sum v)² / sum v².

    It is D for vectors that are spread evenly over all directions, and 1 for vectors on a line.

    Args:
        vectors_ND: vectors, shape (N, D); of many, 4,096 are drawn.
        rng: draws the rows.
    """
    rows = np.sort(rng.choice(len(vectors_ND), min(len(vectors_ND), _ROWS_OF_SPECTRUM), replace=False))
    centered = torch.from_numpy(vectors_ND[rows]) - torch.from_numpy(vectors_ND[rows]).mean(0)
    # The Gram matrix has the eigenvalues of the covariance; whichever is smaller is computed.
    products = centered @ centered.T if len(centered) < centered.shape[1] else centered.T @ centered
    squares = float(products.square().sum())
    return float(products.trace()) ** 2 / squares if squares > 0 else 0.0


def neighbor_agreement(one: Neighbors, other: Neighbors) -> float:
    """Compute the mean share of neighbours that two searches have in common, 0 to 1; NaN without rows."""
    if not one.rows.size:
        return float("nan")
    shared = (one.rows[:, :, None] == other.rows[:, None, :]).any(axis=2)
    return float(shared.mean())


def agreement_of_cuts(vectors_ND: Float32Array, queries: IntArray, whole: Neighbors) -> dict[int, float]:
    """Compute how many nearest neighbours stay with fewer leading dimensions, by their number (Matryoshka models).

    Args:
        vectors_ND: vectors, shape (N, D).
        queries: rows whose neighbours are compared.
        whole: their neighbours by all dimensions.
    """
    dim = vectors_ND.shape[1]
    cuts = [cut for cut in _CUTS if cut < dim]
    return {cut: neighbor_agreement(whole, nearest_of(vectors_ND[:, :cut], queries, NEIGHBORS)) for cut in cuts}


def agreement_of_codings(vectors_ND: Float32Array, queries: IntArray, whole: Neighbors) -> Mapping[str, float]:
    """Compute how many nearest neighbours stay when vectors are stored as int8, or as one bit a dimension.

    Args:
        vectors_ND: vectors, shape (N, D).
        queries: rows whose neighbours are compared.
        whole: their neighbours by the vectors as they are.
    """
    coded = {"int8": vectors_ND, "ubinary": vectors_ND[:, : vectors_ND.shape[1] // 8 * 8]}
    agreement = {}
    for precision, vectors in coded.items():
        if vectors.size:
            coding = calibrate(precision, vectors)
            decoded: NDArray[np.float32] = coding.decode(coding.encode(vectors))
            agreement[precision] = neighbor_agreement(whole, nearest_of(decoded, queries, NEIGHBORS))
    return agreement


def draw_queries(rows: int, rng: np.random.Generator) -> IntArray:
    """Draw the rows whose neighbours are compared: 1,000, or all of fewer."""
    return np.sort(rng.choice(rows, min(rows, _QUERIES), replace=False))


def isolated_rows(neighbors: Neighbors, count: int) -> IntArray:
    """Return the rows that are farthest from their nearest neighbour, the farthest first."""
    if not neighbors.cosines.size:
        return np.zeros(0, np.int64)
    return np.argsort(neighbors.cosines[:, 0], kind="stable")[:count]


def dense_rows(neighbors: Neighbors, count: int) -> IntArray:
    """Return the rows whose neighbours are nearest on average, the densest first, none a neighbour of another."""
    chosen: list[int] = []
    taken: set[int] = set()
    density = neighbors.cosines.mean(axis=1) if neighbors.cosines.size else np.zeros(0)
    for row in np.argsort(-density, kind="stable").tolist():
        around = set(neighbors.rows[row].tolist())
        if row in taken or around & set(chosen):
            continue
        chosen.append(row)
        taken |= around
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)
