"""Facility location: rows such that every row is similar to one of them.

The greedy algorithm over sums of the largest similarities: Wei, Iyer & Bilmes, "Submodularity in data subset
selection and active learning", ICML 2015; many rows, divided into parts: Mirzasoleiman, Badanidiyuru & Karbasi, "Fast
constrained submodular maximization", 2016, and Mirzasoleiman et al., "Distributed submodular maximization", 2013;
lazy evaluation of gains: Minoux, "Accelerated greedy algorithms", 1978.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.clusters import bounded_parts
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray

_BATCH = 16
_TIE = 1e-6  # largest difference of gains that float32 cannot tell from a tie


class FacilityLocationConfig(VectorSelectorConfig):
    """Settings of `facility_location`."""

    dense_rows: int = Field(8192, ge=1)
    """Number of rows up to which all similarities are held in memory (4 bytes each). More rows are divided into
    clusters of at most this size, and similarities between clusters count as 0."""


def facility_location(
    features: Features, rows: int, rng: np.random.Generator, config: FacilityLocationConfig
) -> Ranking:
    """Rank rows greedily by gain: what a row adds to the sum, over all rows, of the cosine to the nearest chosen row.

    Cosines below 0 count as 0. Values are the gains.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=True)
    chosen, gains = np.empty(0, np.int64), np.empty(0)
    for part in bounded_parts(vectors, config.dense_rows, rng):
        # Gains within a part only fall: below the lowest one of the ranking so far, the part cannot contribute.
        floor = gains[-1] if len(gains) == rows else 0.0
        picks, part_gains = _choose_greedily(vectors.rows(part), rows, floor)
        chosen, gains = np.concatenate([chosen, part[picks]]), np.concatenate([gains, part_gains])
        best = np.argsort(-gains, kind="stable")[:rows]
        chosen, gains = chosen[best], gains[best]
    return Ranking(chosen, gains)


def _choose_greedily(vectors: torch.Tensor, rows: int, floor: float) -> tuple[IntArray, NDArray[np.float64]]:
    """Rows in order of gain, and their gains, until the gain is below `floor`."""
    similar = (vectors @ vectors.T).clamp_(min=0)
    covered = torch.zeros(len(vectors), device=vectors.device)
    # A gain that has not been updated can only be too large: it is an upper bound.
    bounds = similar.sum(dim=1).cpu().double().numpy()
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < min(rows, len(vectors)):
        pick = _row_of_largest_gain(similar, covered, bounds)
        if bounds[pick] < floor:
            break
        picks.append(pick)
        gains.append(min(bounds[pick], gains[-1]) if gains else bounds[pick])  # rounding may exceed it
        covered = torch.maximum(covered, similar[pick])
        bounds[pick] = -np.inf
    return np.array(picks, np.int64), np.array(gains)


def _row_of_largest_gain(similar: torch.Tensor, covered: torch.Tensor, bounds: NDArray[np.float64]) -> int:
    """The lowest row with the largest gain; bounds of the rows that are evaluated become their gains."""
    fresh = np.zeros(len(bounds), bool)
    while True:
        largest = bounds.max()
        tie = _TIE * max(largest, 1.0)
        first = int(np.argmax(bounds >= largest - tie))
        if fresh[first] or largest <= tie:  # no row adds anything: gains need not be evaluated
            return first
        stale = np.where(fresh, -np.inf, bounds)
        evaluated = np.append(np.argpartition(-stale, min(_BATCH, len(stale)) - 1)[:_BATCH], first)
        evaluated = evaluated[stale[evaluated] > -np.inf]
        gains = (similar[torch.from_numpy(evaluated).to(similar.device)] - covered).clamp_(min=0).sum(dim=1)
        bounds[evaluated] = gains.cpu().numpy()
        fresh[evaluated] = True
