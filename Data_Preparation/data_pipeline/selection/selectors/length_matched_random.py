"""Random rows as long as those of another selection: what that one has to beat by more than its lengths.

A matched control in the sense of Cochran, "Matching in Analytical Studies" (1953).
"""

from bisect import bisect_left

import numpy as np

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import in_order
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray


class LengthMatchedRandomConfig(SelectorConfig):
    """What it resembles."""

    like: str
    """Name of an earlier selection."""

    @property
    def needs(self) -> frozenset[Need]:
        """Token counts, and the earlier selection."""
        return frozenset({"token_counts", f"subset:{self.like}"})


def length_matched_random(
    features: Features, rows: int, rng: np.random.Generator, config: LengthMatchedRandomConfig
) -> Ranking:
    """A random row for each of the earlier selection's, in its order, with as many tokens.

    Where no row of that length is left, it is of the nearest one. Rows of the earlier selection may be drawn too.

    Raises:
        SelectionError: the earlier selection has fewer rows than are wanted.
    """
    like, counts = features.subset(config.like), features.need_token_counts()
    if rows > len(like):
        raise SelectionError(
            f"{rows} rows are wanted, and the selection {config.like!r} has {len(like)} to be matched; ask for fewer, "
            "or select more there first"
        )
    waiting = _Lengths(counts, rng)
    chosen = np.array([waiting.draw(count) for count in counts[like[:rows]].tolist()], np.int64)
    return Ranking(chosen, counts[chosen].astype(np.float64))


class _Lengths:
    """Rows that were not drawn yet, by length."""

    def __init__(self, counts: IntArray, rng: np.random.Generator) -> None:
        order = in_order(counts.astype(np.float64), rng)
        found, starts = np.unique(counts[order], return_index=True)
        self._lengths = found.tolist()
        parts = np.split(order, starts[1:])
        self._rows = {length: part.tolist() for length, part in zip(self._lengths, parts, strict=True)}
        self._rng = rng

    def draw(self, wanted: int) -> int:
        """A random row of the nearest length."""
        place = self._nearest(wanted)
        rows = self._rows[self._lengths[place]]
        row: int = rows.pop()
        if not rows:
            del self._lengths[place]
        return row

    def _nearest(self, wanted: int) -> int:
        above = bisect_left(self._lengths, wanted)
        if above == 0:
            return 0
        if above == len(self._lengths):
            return above - 1
        further = (self._lengths[above] - wanted) - (wanted - self._lengths[above - 1])
        if further == 0:
            return above - int(self._rng.integers(2))
        return above - (further > 0)
