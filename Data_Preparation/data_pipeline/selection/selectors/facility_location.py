"""Facility location: rows such that every row has a similar one among them.

The greedy algorithm over sums of the largest similarities: Wei, Iyer & Bilmes, "Submodularity in data subset
selection and active learning", ICML 2015; many rows in parts: Mirzasoleiman, Badanidiyuru & Karbasi, "Fast
constrained submodular maximization", 2016, and Mirzasoleiman et al., "Distributed submodular maximization", 2013;
gains that wait to be computed anew: Minoux, "Accelerated greedy algorithms", 1978.
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
_TIE = 1e-6  # gains that differ by no more, float32 cannot tell apart


class FacilityLocationConfig(VectorSelectorConfig):
    """How many rows are looked at together."""

    dense_rows: int = Field(8192, ge=1)
    """Of no more rows than this, every similarity is held in memory (4 bytes each) and counts. More rows are cut
    into clusters of at most this size, and rows of different ones count as unlike."""


def facility_location(
    features: Features, rows: int, rng: np.random.Generator, config: FacilityLocationConfig
) -> Ranking:
    """Always the row that adds most to the sum, over all rows, of the cosine to the most similar chosen one.

    Cosines below 0 count as 0. The values are what each row added.

    Raises:
        SelectionError: there are no embeddings, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=True)
    picks, gains = np.empty(0, np.int64), np.empty(0)
    for part in bounded_parts(vectors, config.dense_rows, rng):
        # Gains of a part only fall: below the last one that is wanted so far, it has nothing more to give.
        floor = gains[-1] if len(gains) == rows else 0.0
        places, added = _greedy(vectors.rows(part), rows, floor)
        picks, gains = np.concatenate([picks, part[places]]), np.concatenate([gains, added])
        best = np.argsort(-gains, kind="stable")[:rows]
        picks, gains = picks[best], gains[best]
    return Ranking(picks, gains)


def _greedy(vectors: torch.Tensor, rows: int, floor: float) -> tuple[IntArray, NDArray[np.float64]]:
    """The first rows by gain, and their gains, as long as these are no less than `floor`."""
    similar = (vectors @ vectors.T).clamp_(min=0)
    covered = torch.zeros(len(vectors), device=vectors.device)
    # A gain that is out of date can only be too large.
    bounds = similar.sum(dim=1).cpu().double().numpy()
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < min(rows, len(vectors)):
        pick = _best(similar, covered, bounds)
        if bounds[pick] < floor:
            break
        picks.append(pick)
        gains.append(min(bounds[pick], gains[-1]) if gains else bounds[pick])  # float32 may say a little more
        covered = torch.maximum(covered, similar[pick])
        bounds[pick] = -np.inf
    return np.array(picks, np.int64), np.array(gains)


def _best(similar: torch.Tensor, covered: torch.Tensor, bounds: NDArray[np.float64]) -> int:
    """The row with the largest gain, of equal ones the lowest; bounds of the rows tried become their gains."""
    fresh = np.zeros(len(bounds), bool)
    while True:
        largest = bounds.max()
        tie = _TIE * max(largest, 1.0)
        first = int(np.argmax(bounds >= largest - tie))
        if fresh[first] or largest <= tie:  # what adds nothing needs no look
            return first
        stale = np.where(fresh, -np.inf, bounds)
        tried = np.append(np.argpartition(-stale, min(_BATCH, len(stale)) - 1)[:_BATCH], first)
        tried = tried[stale[tried] > -np.inf]
        gains = (similar[torch.from_numpy(tried).to(similar.device)] - covered).clamp_(min=0).sum(dim=1)
        bounds[tried] = gains.cpu().numpy()
        fresh[tried] = True
