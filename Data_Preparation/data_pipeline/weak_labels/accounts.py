"""Accounts of a run: everything that came in is in an output, or in a count with its reason.

Each stage's account has the number that came in and the numbers that it became. They are checked when the account is
made: a sum that is off is an error of this package, and no report is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from data_pipeline.errors import StoreError

Parts: TypeAlias = Mapping[str, "int | Mapping[str, int]"]
"""Counts by name; a mapping has counts by reason."""


@dataclass(frozen=True)
class Account:
    """What came into a stage, and what it became.

    Raises:
        StoreError: the two sides have different sums.
    """

    name: str
    """Names the stage."""
    came_in: Mapping[str, int]
    """Counts of what came in."""
    became: Parts
    """Counts of what it became."""

    def __post_init__(self) -> None:
        if sum(self.came_in.values()) != total(self.became):
            raise StoreError(
                f"the account of {self.name} does not add up: {describe(self.came_in)} came in, and became "
                f"{describe(self.became)}. This is an error of this package; no report was written. Please report it."
            )

    def to_json(self) -> dict[str, int | dict[str, int]]:
        """Both sides, for report.json."""
        became = {name: count if isinstance(count, int) else dict(count) for name, count in self.became.items()}
        return {**self.came_in, **became}


def total(parts: Parts) -> int:
    """The sum of all counts."""
    return sum(part if isinstance(part, int) else sum(part.values()) for part in parts.values())


def describe(parts: Parts) -> str:
    """Counts in words: `2 with candidates, 3 without candidates (2 no words, 1 no match)`; zeros are left out."""
    words = []
    for name, part in parts.items():
        count = part if isinstance(part, int) else sum(part.values())
        if not count:
            continue
        reasons = "" if isinstance(part, int) else f" ({describe(part)})"
        words.append(f"{count:,} {name.replace('_', ' ')}{reasons}")
    return ", ".join(words) or "none"
