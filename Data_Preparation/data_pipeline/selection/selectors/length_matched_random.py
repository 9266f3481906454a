"""Random rows of the same lengths as another selection: a control for gains that come from length alone.

A matched control in the sense of Cochran, "Matching in Analytical Studies" (1953).
"""

from bisect import bisect_left

import numpy as np

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ordering import ascending_order
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray


class LengthMatchedRandomConfig(SelectorConfig):
    """Settings of `length_matched_random`."""

    like: str
    """Name of the existing selection whose lengths are matched."""

    @property
    def needs(self) -> frozenset[Need]:
        """Token counts and the existing selection."""
        return frozenset({"token_counts", f"subset:{self.like}"})


def length_matched_random(
    features: Features, rows: int, rng: np.random.Generator, config: LengthMatchedRandomConfig
) -> Ranking:
    """Draw a random row with as many tokens for each row of the existing selection, in its order.

    When no row of that length is left, a row of the nearest length is drawn. Rows of the existing selection may be
    drawn too.

    Raises:
        SelectionError: The existing selection has fewer rows than the budget.
    """
    like, counts = features.subset(config.like), features.need_token_counts()
    if rows > len(like):
        raise SelectionError(
            f"budget of {rows} rows exceeds the selection {config.like!r}, which has {len(like)} rows to match. Ask "
            "for fewer rows, or make that selection larger"
        )
    pool = _RowsByLength(counts, rng)
    chosen = np.array([pool.draw(count) for count in counts[like[:rows]].tolist()], np.int64)
    return Ranking(chosen, counts[chosen].astype(np.float64))


class _RowsByLength:
    """Rows that have not been drawn yet, by length."""

    def __init__(self, counts: IntArray, rng: np.random.Generator) -> None:
        order = ascending_order(counts.astype(np.float64), rng)
        lengths, starts = np.unique(counts[order], return_index=True)
        self._lengths = lengths.tolist()
        parts = np.split(order, starts[1:])
        self._rows = {length: part.tolist() for length, part in zip(self._lengths, parts, strict=True)}
        self._rng = rng

    def draw(self, length: int) -> int:
        """Remove and return a random row of the nearest length."""
        index = self._nearest(length)
        rows = self._rows[self._lengths[index]]
        row: int = rows.pop()
        if not rows:
            del self._lengths[index]
        return row

    def _nearest(self, length: int) -> int:
        above = bisect_left(self._lengths, length)
        if above == 0:
            return 0
        if above == len(self._lengths):
            return above - 1
        further = (self._lengths[above] - length) - (length - self._lengths[above - 1])
        if further == 0:
            return above - int(self._rng.integers(2))
        return above - (further > 0)
