"""Size of a subset, and its division among strata."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.types import IntArray

_FIRST_GUESS = 1.2  # relative to the rows that a token budget would hold at their mean length


@dataclass(frozen=True)
class Budget:
    """Size of a subset in rows, as a fraction of the rows, or in tokens: exactly one of them.

    Raises:
        SelectionError: None or several are given, or a value is out of range.
    """

    rows: int | None = None
    """Number of rows, at least 1."""
    fraction: float | None = None
    """Fraction of the rows, above 0 and at most 1; rounded to the nearest number of rows, at least one."""
    tokens: int | None = None
    """Number of tokens, at least 1; the subset is the longest prefix of the ranking that has no more tokens."""

    def __post_init__(self) -> None:
        names = [name for name in ("rows", "fraction", "tokens") if getattr(self, name) is not None]
        if len(names) != 1:
            raise SelectionError(
                f"budget: expected exactly one of rows, fraction and tokens, found {' and '.join(names) or 'none'}"
            )
        for name in ("rows", "tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SelectionError(f"budget: {name} must be at least 1, found {value}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise SelectionError(f"budget: fraction must be above 0 and at most 1, found {self.fraction}")

    @property
    def label(self) -> str:
        """Short name: p10 (per cent), n1000 (rows), t5000 (tokens)."""
        if self.fraction is not None:
            return f"p{self.fraction * 100:.10g}"
        return f"n{self.rows}" if self.rows is not None else f"t{self.tokens}"

    def rows_of(self, total: int) -> int:
        """Number of rows out of `total`, for a budget that is not in tokens.

        Raises:
            SelectionError: The budget exceeds the rows.
        """
        if not total:
            raise SelectionError("no rows to select from")
        rows = self.rows if self.rows is not None else max(1, int((self.fraction or 0) * total + 0.5))
        if rows > total:
            raise SelectionError(f"the budget is {rows:,} rows, and there are only {total:,}. Ask for fewer rows")
        return rows


def rows_within_tokens(rank: Callable[[int], IntArray], token_counts: IntArray, tokens: int) -> int:
    """Number of rows in the longest prefix of a ranking that has at most `tokens` tokens.

    Args:
        rank: Number of rows -> the first rows of the ranking.
        token_counts: Shape (N,), tokens of each row.
        tokens: Budget in tokens.

    Raises:
        SelectionError: The first row alone has more tokens.
    """
    total = len(token_counts)
    guess = max(1, int(_FIRST_GUESS * tokens / max(1.0, float(token_counts.mean()))))
    while True:
        guess = min(guess, total)
        sums = np.cumsum(token_counts[rank(guess)])
        rows = int(np.searchsorted(sums, tokens, side="right"))
        if rows < guess or guess == total:
            break
        guess *= 2
    if not rows:
        raise SelectionError(
            f"the budget is {tokens:,} tokens, and the first row of the ranking has {sums[0]:,}. Ask for more tokens"
        )
    return rows


def quotas(sizes: Sequence[int], rows: int, shares: Literal["proportional", "equal"] = "proportional") -> list[int]:
    """Number of rows of each stratum, by largest remainders; ties go to the first stratum.

    Args:
        sizes: Number of rows in each stratum.
        rows: Budget in rows, at most the sum of the sizes.
        shares: Shares of the strata: proportional to their sizes, or equal as far as their rows suffice.

    Raises:
        SelectionError: The budget exceeds the rows of the strata.
    """
    if rows > sum(sizes):
        raise SelectionError(f"the budget is {rows:,} rows, and the strata have {sum(sizes):,}. Ask for fewer rows")
    if shares == "proportional":
        return _largest_remainders([size * rows / max(1, sum(sizes)) for size in sizes], rows)
    result = [0] * len(sizes)
    open_strata = list(range(len(sizes)))
    while open_strata:
        remaining = rows - sum(result)
        share = remaining / len(open_strata)
        exhausted = [stratum for stratum in open_strata if sizes[stratum] <= share]
        if not exhausted:
            rounded = _largest_remainders([share] * len(open_strata), remaining)
            for stratum, quota in zip(open_strata, rounded, strict=True):
                result[stratum] = quota
            break
        for stratum in exhausted:
            result[stratum] = sizes[stratum]
        open_strata = [stratum for stratum in open_strata if stratum not in exhausted]
    return result


def _largest_remainders(exact: Sequence[float], total: int) -> list[int]:
    rounded = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda index: rounded[index] - exact[index])
    for index in order[: total - sum(rounded)]:
        rounded[index] += 1
    return rounded


def interleaved(counts: Sequence[int]) -> IntArray:
    """An order in which each stratum is spread evenly: every prefix has about the share of each.

    Args:
        counts: Number of rows of each stratum.

    Returns:
        Shape (sum of counts,), the stratum at each position.
    """
    members = np.repeat(np.arange(len(counts)), counts)
    positions: NDArray[np.float64] = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
    return members[np.argsort(positions, kind="stable")].astype(np.int64)
