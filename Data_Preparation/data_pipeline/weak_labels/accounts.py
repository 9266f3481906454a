"""Accounts of a run: every input is in an output, or in a count with its reason.

The account of a step has the numbers of inputs and of outcomes. Their sums are compared when the account is made: a
difference is an error of this package, and no report is written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from data_pipeline.errors import StoreError

Counts: TypeAlias = Mapping[str, "int | Mapping[str, int]"]
"""Counts by name; a mapping holds counts by reason."""


@dataclass(frozen=True)
class Account:
    """Inputs of a step and their outcomes.

    Raises:
        StoreError: the sums of inputs and outcomes differ.
    """

    name: str
    """Name of the step."""
    inputs: Mapping[str, int]
    """Counts of the inputs."""
    outcomes: Counts
    """Counts of the outcomes."""

    def __post_init__(self) -> None:
        if sum(self.inputs.values()) != total(self.outcomes):
            raise StoreError(
                f"the account of {self.name} does not add up: the inputs are {describe(self.inputs)}, the outcomes "
                f"{describe(self.outcomes)}. This is an error of this package; no report was written. Please report it."
            )

    def to_json(self) -> dict[str, int | dict[str, int]]:
        """Inputs and outcomes, for report.json."""
        outcomes = {name: count if isinstance(count, int) else dict(count) for name, count in self.outcomes.items()}
        return {**self.inputs, **outcomes}


def total(counts: Counts) -> int:
    """Add up all counts."""
    return sum(count if isinstance(count, int) else sum(count.values()) for count in counts.values())


def describe(counts: Counts) -> str:
    """Write counts in words: `2 with candidates, 3 without candidates (2 no words, 1 no match)`; zeros are left out."""
    words = []
    for name, count in counts.items():
        number = total({name: count})
        if not number:
            continue
        reasons = "" if isinstance(count, int) else f" ({describe(count)})"
        words.append(f"{number:,} {name.replace('_', ' ')}{reasons}")
    return ", ".join(words) or "none"
