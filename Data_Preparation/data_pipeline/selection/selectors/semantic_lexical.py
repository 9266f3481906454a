"""Texts far from each other in meaning, and rich in words.

Farthest-first traversal (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985), each distance
weighted by the row's lexical diversity: MTLD (McCarthy and Jarvis, 2010) or MATTR (Covington and McFall, 2010).

A row's distance to the chosen ones only shrinks, so what is known of it bounds it from above. That makes it enough to
compute distances among the most promising rows, and to bring all others up to date when the best of those could be
less than one of them.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import in_order, rank_shares
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray
from data_pipeline.utils import progress_bar

_CANDIDATES = 1024
_BLOCK_ROWS = 8192
_SAME = 1e-6  # squared distance, by the squared lengths, up to which rounding in float32 tells no rows apart

Vectors = NDArray[Any] | Tensor


class SemanticLexicalConfig(SelectorConfig):
    """How much the words count beside the meaning."""

    score: str = "mtld"
    """Column of the lexical diversity: mtld or mattr. Only the order of its values counts."""
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Distances are multiplied by (the share of rows that are less diverse) ** alpha; 0: meaning alone."""

    @property
    def needs(self) -> frozenset[Need]:
        """Embeddings and the lexical diversity."""
        return frozenset({"embeddings", f"score:{self.score}"})


def semantic_lexical(features: Features, rows: int, rng: np.random.Generator, config: SemanticLexicalConfig) -> Ranking:
    """Each time the row with the largest product of Euclidean distance to the chosen ones and lexical weight.

    The first is the most diverse one, at random among equals. When all others are copies of chosen ones, the most
    diverse come first. Costs one pass over the vectors for every few hundred rows: 10 s of a CPU for 6,735 rows of
    67,349 x 384.

    Raises:
        SelectionError: embeddings or score are missing, or not finite.
    """
    weights = rank_shares(features.score(config.score)) ** config.alpha
    by_weight = in_order(-weights, rng)
    chosen, values = _farthest_first(features.vectors(), weights.astype(np.float32), int(by_weight[0]), rows)
    copies = by_weight[~np.isin(by_weight, chosen)][: rows - len(chosen)]
    return Ranking(np.concatenate([chosen, copies]), np.concatenate([values, np.zeros(len(copies))]))


def _farthest_first(
    vectors: Vectors, weights: NDArray[np.float32], first: int, rows: int
) -> tuple[IntArray, NDArray[np.float64]]:
    """Rows in the order they are chosen, and their products; the first one's is its weight.

    They are fewer than wanted where all others are copies of them.
    """
    chosen, values = [first], [float(weights[first])]
    nearest = np.full(len(weights), np.inf, np.float32)
    new = [first]
    with progress_bar(rows, "farthest first", "rows") as bar:
        while len(chosen) < rows:
            _bring_up_to_date(nearest, vectors, np.array(new))
            new, gains = _best(nearest, vectors, weights, rows - len(chosen))
            if not new:
                break
            chosen += new
            values += gains
            bar.update(len(new))
    return np.array(chosen[:rows], np.int64), np.array(values[:rows])


def _best(
    nearest: NDArray[np.float32], vectors: Vectors, weights: NDArray[np.float32], most: int
) -> tuple[list[int], list[float]]:
    """The next rows and their products, as far as those that are most promising now decide it."""
    products = nearest * weights
    count = min(_CANDIDATES, len(products) - 1)
    order = np.argpartition(-products, count)
    candidates, bound = np.sort(order[:count]), products[order[count]]
    among = _rows(vectors, candidates)
    between = _distances(among, among).cpu().numpy()
    mine, weight = nearest[candidates], weights[candidates]
    found, gains = list[int](), list[float]()
    while len(found) < most:
        current = mine * weight
        best = int(current.argmax())
        if current[best] <= 0 or (found and current[best] <= bound):
            break
        found.append(int(candidates[best]))
        gains.append(float(current[best]))
        mine = np.minimum(mine, between[best])
        mine[best] = 0  # whatever rounding leaves of it
    return found, gains


def _bring_up_to_date(nearest: NDArray[np.float32], vectors: Vectors, new: IntArray) -> None:
    """Take newly chosen rows into the distances to the nearest chosen one."""
    targets = _rows(vectors, new)
    for start in range(0, len(nearest), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        found = _distances(_rows(vectors, block), targets).amin(dim=1).cpu().numpy()
        np.minimum(nearest[block], found, out=nearest[block])
    nearest[new] = 0


def _rows(vectors: Vectors, rows: IntArray | slice) -> Tensor:
    """Some rows as float32, where the vectors are."""
    if isinstance(vectors, Tensor):
        where = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(vectors.device)
        return vectors[where].float()
    return torch.from_numpy(np.array(vectors[rows], np.float32))


def _distances(some: Tensor, others: Tensor) -> Tensor:
    """Euclidean, each to each; 0 where rounding leaves no more of them."""
    squares = some.square().sum(dim=1)[:, None] + others.square().sum(dim=1)
    squared = torch.addmm(squares, some, others.T, alpha=-2)
    return torch.where(squared > _SAME * squares, squared, 0).sqrt()
