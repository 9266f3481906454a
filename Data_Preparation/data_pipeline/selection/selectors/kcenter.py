"""k-center: every next row is the one farthest from all rows chosen so far.

Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; as a core-set: Sener & Savarese,
"Active learning for convolutional neural networks: a core-set approach", ICLR 2018.

The picks are those of the plain greedy algorithm, which compares every row with every pick as soon as it is made.
Here rows are compared with many picks at once. A distance that is out of date can only be too large, so as long as the
farthest of some candidates is farther than every other row *was*, it is the next pick; and rows that are near a pick
already need no second look until the farthest are as near. Candidates are measured in float64, the other rows in
float32, and a lead that float32 cannot vouch for is not trusted.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import Vectors, VectorSelectorConfig, open_vectors, squared
from data_pipeline.types import IntArray

_CANDIDATES = 1024
_SOON = 0.95  # of the largest squared distance: rows from here on are brought up to date
_SAMPLE = 1024

# Shares of a row's squared distance from the middle of the data.
_SAME = 1e-12  # a row as near as this to another is its copy
_FLOAT32 = 1e-6  # what squared distances of float32 may be off by
_FLOAT64 = 1e-13  # leads as small as this are ties


class KCenterConfig(VectorSelectorConfig):
    """How distance is measured, and what becomes of outliers."""

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """cosine: 1 - cosine, of rows scaled to length 1."""
    drop_isolated: float = Field(0.0, ge=0, lt=1)
    """Share of the rows, the most isolated, that comes after all others; k-center is drawn to outliers."""


def kcenter(features: Features, rows: int, rng: np.random.Generator, config: KCenterConfig) -> Ranking:
    """A random row, then always the one farthest from those chosen; of equally far ones the lowest row.

    A row whose distance to a chosen one is less than a millionth of that to the middle of the data counts as its copy;
    where only copies are left they come in order. The values are distances at the time of the choice, the first
    infinite. Isolated is what is far from its nearest row in a random sample (Sugiyama & Borgwardt, 2013).

    Costs `rows` x N x D multiplications at most, in matrix products; less where most rows are near others.

    Raises:
        SelectionError: there are no embeddings, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=config.metric == "cosine")
    isolated = _isolated(vectors, round(config.drop_isolated * len(vectors)), rng)
    others = np.delete(np.arange(len(vectors)), isolated)
    greedy = _Greedy(vectors, int(rng.choice(others)))
    greedy.choose_among(others, rows)
    greedy.choose_among(isolated, rows)
    distances = np.array(greedy.values)
    values = distances / 2 if config.metric == "cosine" else np.sqrt(distances)
    return Ranking(np.array(greedy.picks[:rows]), values[:rows])


def _isolated(vectors: Vectors, count: int, rng: np.random.Generator) -> IntArray:
    if not count:
        return np.empty(0, np.int64)
    rows = np.sort(rng.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
    sample, distances = vectors.rows(rows), np.empty(len(vectors), np.float32)
    for place, block in vectors.blocks():
        found = torch.cdist(block, sample)
        mine = np.flatnonzero((rows >= place.start) & (rows < place.stop))
        found[rows[mine] - place.start, mine] = torch.inf  # a row is no neighbour of its own
        distances[place] = found.amin(dim=1).cpu().numpy()
    return np.sort(np.argsort(-distances, kind="stable")[:count])


@dataclass(frozen=True)
class _Others:
    """The rows that are no candidates."""

    largest: float
    """The squared distance of the farthest."""
    row: int
    """Its row."""
    limit: float
    """What no squared distance of theirs can exceed, whatever float32 has done to it."""


class _Greedy:
    """Picks so far, and every row's squared distance to the nearest of them as of the last update."""

    def __init__(self, vectors: Vectors, first: int) -> None:
        self.picks = [first]
        self.values = [np.inf]
        self._vectors = vectors
        self._origin = _middle(vectors)
        self._norms = np.empty(len(vectors), np.float32)
        for place, block in vectors.blocks():
            self._norms[place] = squared(block - self._origin).cpu().numpy()
        self._squared = np.full(len(vectors), np.inf, np.float32)
        self._nearest = np.zeros(len(vectors), np.int64)
        self._compared = np.zeros(len(vectors), np.int64)
        """With how many of the picks each row was compared."""

    def choose_among(self, rows: IntArray, wanted: int) -> None:
        """Add picks until there are so many, or all of these rows are chosen."""
        closed = np.ones(len(self._vectors), bool)
        closed[rows] = False
        closed[self.picks] = True
        while len(self.picks) < wanted and not closed.all():
            distances, level = self._up_to_date(closed)
            if not distances.max():
                copies = np.flatnonzero(~closed)[: wanted - len(self.picks)]
                self.picks += copies.tolist()
                self.values += [0.0] * len(copies)
                return
            before = len(self.picks)
            self._choose(distances, level, wanted)
            closed[self.picks[before:]] = True

    def _choose(self, squared_distances: NDArray[np.float32], level: float, wanted: int) -> None:
        """Add picks, at least one, for as long as it is sure which row is the farthest.

        Args:
            squared_distances: of all rows; those above `level` are up to date.
            level: candidates are above it.
            wanted: picks in all.
        """
        candidates = _farthest(squared_distances, level, _CANDIDATES)
        others = self._others(squared_distances, candidates)
        vectors = self._exact(candidates)
        norms = squared(vectors).numpy()
        products = (vectors @ vectors.T).numpy()
        distances = squared(vectors - self._exact(self._nearest[candidates])).numpy()
        for number in range(min(wanted - len(self.picks), len(candidates))):
            place = int(distances.argmax())
            farthest = float(distances[place])
            place = int(np.argmax(distances >= farthest - _FLOAT64 * norms[place]))
            ties = farthest == others.largest and candidates[place] < others.row
            if number and farthest <= others.limit and not ties:
                break
            self.picks.append(int(candidates[place]))
            self.values.append(farthest)
            found = _without_copies(norms + (norms[place] - 2 * products[place]), norms)
            np.minimum(distances, found, out=distances)
            distances[place] = -np.inf

    def _others(self, distances: NDArray[np.float32], candidates: IntArray) -> _Others:
        others = distances.copy()
        others[candidates] = -np.inf
        row = int(others.argmax())
        return _Others(float(others[row]), row, float((others + _FLOAT32 * self._norms).max()))

    def _exact(self, rows: IntArray) -> torch.Tensor:
        return self._vectors.rows(rows).cpu().double() - self._origin.cpu().double()

    def _up_to_date(self, closed: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
        """Squared distances, shape (N,), and a level: those above it, the largest among them, are up to date."""
        while True:
            distances = np.where(closed, -np.float32(np.inf), self._squared)
            late = self._compared < len(self.picks)
            level = float(distances[late].max(initial=-np.inf))
            soon = _SOON * float(distances.max())
            if level < soon or level < 0:
                return distances, level
            least = min(soon, _largest(distances, _CANDIDATES))
            rows = np.flatnonzero(late & (distances >= least))
            for compared in np.unique(self._compared[rows]).tolist():
                self._compare(rows[self._compared[rows] == compared], np.array(self.picks[compared:]))

    def _compare(self, rows: IntArray, picks: IntArray) -> None:
        """Compare rows with picks that are new to them."""
        centers = self._vectors.rows(picks) - self._origin
        norms = squared(centers)
        for some, block in self._vectors.blocks_of(rows):
            moved = block.sub_(self._origin)
            found, which = torch.addmm(norms, moved, centers.T, alpha=-2).min(dim=1)
            distances, nearest = found.cpu().numpy() + self._norms[some], which.cpu().numpy()
            # Of large numbers that nearly cancel, little is left that is right.
            close = np.flatnonzero((distances < self._squared[some]) & (distances < 1e-3 * self._norms[some]))
            places, columns = (torch.from_numpy(part).to(moved.device) for part in (close, nearest[close]))
            distances[close] = squared(moved[places] - centers[columns]).cpu().numpy()
            nearer = np.flatnonzero(distances < self._squared[some])
            self._squared[some[nearer]] = _without_copies(distances[nearer], self._norms[some[nearer]])
            self._nearest[some[nearer]] = picks[nearest[nearer]]
        self._compared[rows] = len(self.picks)


def _middle(vectors: Vectors) -> torch.Tensor:
    """The median of some rows: distances are the same from wherever one looks, but from here numbers are small.

    Medians are numbers of the data, so that where the differences of these are exact, they stay so.
    """
    some = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))
    return vectors.rows(some).median(dim=0).values


def _without_copies(distances: NDArray[Any], norms: NDArray[Any]) -> NDArray[Any]:
    return np.where(distances <= _SAME * norms, 0, distances)


def _largest(distances: NDArray[np.float32], count: int) -> float:
    """What so many rows have at least; the least there is where there are no more rows."""
    return max(0.0, float(np.partition(distances, -count)[-count])) if len(distances) > count else 0.0


def _farthest(distances: NDArray[np.float32], level: float, most: int) -> IntArray:
    """The rows of the largest distances above a level, of equal ones the lower rows; in order of rows."""
    inside = distances > level
    if inside.sum() > most:
        limit = _largest(distances, most)
        inside = distances > limit
        inside[np.flatnonzero(distances == limit)[: most - inside.sum()]] = True
    return np.flatnonzero(inside)
