"""How much is selected, and how it is shared among strata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.types import IntArray

_FIRST_GUESS = 1.2  # of the rows that a budget of tokens would hold at their mean length


@dataclass(frozen=True)
class Budget:
    """Rows, a fraction of them, or tokens: exactly one.

    Raises:
        SelectionError: none or several are given, or one is out of range.
    """

    rows: int | None = None
    fraction: float | None = None
    """Above 0, at most 1; of the rows, rounded to the nearest, one at least."""
    tokens: int | None = None
    """As many rows of the ranking, from its first, as together have no more tokens."""

    def __post_init__(self) -> None:
        given = [name for name in ("rows", "fraction", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SelectionError(
                f"a budget is rows, a fraction or tokens, exactly one of them; found {' and '.join(given) or 'none'}"
            )
        for name in ("rows", "tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SelectionError(f"a budget must be of 1 {name[:-1]} at least, found {value}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SelectionError(f"a fraction must be above 0 and at most 1, found {self.fraction}")

    @property
    def label(self) -> str:
        """For names: p10 (per cent), n1000 (rows), t5000 (tokens)."""
        if self.fraction is not None:
            return f"p{self.fraction * 100:.10g}"
        return f"n{self.rows}" if self.rows is not None else f"t{self.tokens}"

    def rows_of(self, total: int) -> int:
        """Rows out of `total`, for a budget that is not of tokens.

        Raises:
            SelectionError: there are not so many.
        """
        if not total:
            raise SelectionError("there are no rows to select from")
        rows = self.rows if self.rows is not None else max(1, int((self.fraction or 0) * total + 0.5))
        if rows > total:
            raise SelectionError(f"the budget is {rows:,} rows, and there are {total:,}; ask for fewer")
        return rows


def within_tokens(rank: Callable[[int], IntArray], token_counts: IntArray, tokens: int) -> int:
    """How many rows of a ranking, from its first, have no more than `tokens` tokens together.

    Args:
        rank: number of rows -> that many, of which fewer would be a prefix.
        token_counts: shape (N,).
        tokens: the budget.

    Raises:
        SelectionError: the first row alone has more.
    """
    total = len(token_counts)
    guess = max(1, int(_FIRST_GUESS * tokens / max(1.0, float(token_counts.mean()))))
    while True:
        guess = min(guess, total)
        sums = np.cumsum(token_counts[rank(guess)])
        kept = int(np.searchsorted(sums, tokens, side="right"))
        if kept < guess or guess == total:
            break
        guess *= 2
    if not kept:
        raise SelectionError(f"the budget is {tokens:,} tokens, and the first row of the ranking has {sums[0]:,}")
    return kept


def quotas(sizes: Sequence[int], rows: int, shares: Literal["proportional", "equal"] = "proportional") -> list[int]:
    """Rows of each stratum, by largest remainders; ties go to the stratum that comes first.

    Args:
        sizes: of the strata.
        rows: all together, at most the sum of the sizes.
        shares: proportional to the sizes, or equal, as far as the strata reach.

    Raises:
        SelectionError: there are not so many rows.
    """
    if rows > sum(sizes):
        raise SelectionError(f"the budget is {rows:,} rows, and the strata have {sum(sizes):,}; ask for fewer")
    if shares == "proportional":
        return _largest_remainders([size * rows / max(1, sum(sizes)) for size in sizes], rows)
    found = [0] * len(sizes)
    waiting = list(range(len(sizes)))
    while waiting:
        left = rows - sum(found)
        share = left / len(waiting)
        full = [place for place in waiting if sizes[place] <= share]
        if not full:
            for place, quota in zip(waiting, _largest_remainders([share] * len(waiting), left), strict=True):
                found[place] = quota
            break
        for place in full:
            found[place] = sizes[place]
        waiting = [place for place in waiting if place not in full]
    return found


def _largest_remainders(exact: Sequence[float], total: int) -> list[int]:
    found = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda place: found[place] - exact[place])
    for place in order[: total - sum(found)]:
        found[place] += 1
    return found


def interleaved(counts: Sequence[int]) -> IntArray:
    """An order of strata in which each is spread evenly: every prefix has about its share of each.

    Returns:
        Shape (sum of counts,): the stratum at each place.
    """
    members = np.repeat(np.arange(len(counts)), counts)
    places: NDArray[np.float64] = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
    return members[np.argsort(places, kind="stable")].astype(np.int64)
