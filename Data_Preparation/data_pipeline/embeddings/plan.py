"""Plans which texts are computed together: each distinct text once, packed by its number of tokens."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.embeddings.base import Runtime
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.types import IntArray


@dataclass(frozen=True)
class Plan:
    """The distinct texts among tokenized texts, longest first; texts of equal length are in input order."""

    tokens: Tokens
    order: IntArray
    """First row of each group of identical texts, shape (distinct texts,)."""
    _members: IntArray
    """All rows, grouped by distinct text."""
    _groups: IntArray
    """Start in `_members` of the rows of each distinct text, in the order of `order`, and their end."""

    def packs(self, runtime: Runtime, batch_tokens: int, batch_size: int | None) -> Iterator["Pack"]:
        """Divide the order into packs.

        Args:
            runtime: says whether padding counts.
            batch_tokens: maximum number of tokens in a pack; a longer text is a pack of its own.
            batch_size: maximum number of texts in a pack; None for no limit.
        """
        lengths = self.tokens.lengths[self.order]
        ends = np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            if runtime.padded:
                count = batch_tokens // max(1, int(lengths[start]))
            else:
                previous_end = int(ends[start - 1]) if start else 0
                count = int(np.searchsorted(ends, previous_end + batch_tokens, side="right")) - start
            count = max(1, min(count, batch_size or count, len(lengths) - start))
            yield Pack(self.order[start : start + count], start, int(lengths[start]))
            start += count

    def rows_of(self, pack: "Pack") -> tuple[IntArray, IntArray]:
        """All rows that get a vector of a pack.

        Returns:
            Rows, and the position of the vector of each in the pack; both of shape (N,).
        """
        bounds = self._groups[pack.start : pack.start + len(pack.rows) + 1]
        return self._members[bounds[0] : bounds[-1]], np.repeat(np.arange(len(pack.rows)), np.diff(bounds))

    def summary(self, runtime: Runtime, batch_tokens: int, batch_size: int | None) -> "Summary":
        """Summarize the plan for the log."""
        lengths = self.tokens.lengths[self.order]
        packs = list(self.packs(runtime, batch_tokens, batch_size))
        computed = sum(runtime.computed_tokens(lengths[pack.start : pack.start + len(pack.rows)]) for pack in packs)
        tokens = int(lengths.sum())
        return Summary(
            texts=len(self.tokens),
            repeated=len(self.tokens) - len(self.order),
            truncated=int(self.tokens.truncated.sum()),
            tokens=tokens,
            packs=len(packs),
            padding_share=1 - tokens / computed if computed else 0.0,
            flops=float(runtime.cost.flops(lengths).sum()),
        )


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts that are computed together."""

    rows: IntArray
    """Rows of the texts, longest text first."""
    start: int
    """Position of the first text in the plan's order."""
    longest: int
    """Tokens of the longest text."""

    def halves(self, lengths: IntArray) -> tuple["Pack", "Pack"]:
        """Divide the pack into two of about equally many tokens.

        Args:
            lengths: tokens of each of its texts.
        """
        ends = np.cumsum(lengths)
        cut = min(max(1, int(np.searchsorted(ends, ends[-1] / 2, side="right"))), len(self.rows) - 1)
        return (
            Pack(self.rows[:cut], self.start, self.longest),
            Pack(self.rows[cut:], self.start + cut, int(lengths[cut])),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and costs of a plan."""

    texts: int
    repeated: int
    """Texts with the same tokens as an earlier text, whose vector they share."""
    truncated: int
    tokens: int
    """Tokens of the distinct texts."""
    packs: int
    padding_share: float
    """Share of padding and filler in the computed tokens, 0 to 1."""
    flops: float
    """Floating-point operations of the whole plan; 0 where the embedder does not tell."""

    def line(self) -> str:
        """The summary as a line for the log."""
        parts = [f"{self.texts:,} texts", f"{self.tokens:,} tokens"]
        parts += [f"{self.repeated:,} repeated texts computed once"] if self.repeated else []
        parts += [f"{self.truncated:,} cut to the maximum length"] if self.truncated else []
        parts += [f"{self.packs:,} packs", f"{self.padding_share:.2%} padding"]
        parts += [f"{self.flops / 1e12:,.3g} TFLOP"] if self.flops else []
        return ", ".join(parts)


def make_plan(tokens: Tokens) -> Plan:
    """Group identical texts and sort them by length; needs 100 bytes of memory for each row."""
    digests = np.empty(len(tokens), dtype="V16")
    for row in range(len(tokens)):
        digests[row] = hashlib.blake2b(tokens.row(row).tobytes(), digest_size=16).digest()
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    # Among texts of equal length, the first in the input comes first.
    by_length = np.lexsort((first, -tokens.lengths[first]))
    position_of_group = np.empty(len(first), dtype=np.int64)
    position_of_group[by_length] = np.arange(len(first))
    positions = position_of_group[group]
    starts = np.zeros(len(first) + 1, dtype=np.int64)
    np.cumsum(np.bincount(positions, minlength=len(first)), out=starts[1:])
    return Plan(tokens, first[by_length].astype(np.int64), np.argsort(positions, kind="stable"), starts)
