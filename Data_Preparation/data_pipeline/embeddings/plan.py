"""What will be computed, and together with what: each distinct text once, packed by exact length."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.embeddings.base import Runtime
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.types import IntArray


@dataclass(frozen=True)
class Plan:
    """The distinct texts of some tokens, longest first, ties in input order."""

    tokens: Tokens
    order: IntArray
    """One row of every group of identical texts, shape (distinct texts,)."""
    _members: IntArray
    _groups: IntArray
    """Where the rows of each distinct text begin in `_members`, by the text's place in `order`."""

    def packs(self, runtime: Runtime, batch_tokens: int, batch_size: int | None) -> Iterator["Pack"]:
        """Cut the order into packs.

        Args:
            runtime: says whether padding counts.
            batch_tokens: most tokens in a pack; a longer text goes alone.
            batch_size: most texts in a pack, where that is limited.
        """
        lengths = self.tokens.lengths[self.order]
        ends = np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            if runtime.padded:
                count = batch_tokens // max(1, int(lengths[start]))
            else:
                before = int(ends[start - 1]) if start else 0
                count = int(np.searchsorted(ends, before + batch_tokens, side="right")) - start
            count = max(1, min(count, batch_size or count, len(lengths) - start))
            yield Pack(self.order[start : start + count], start, int(lengths[start]))
            start += count

    def rows_of(self, pack: "Pack") -> tuple[IntArray, IntArray]:
        """All rows that get a vector of this pack.

        Returns:
            Row numbers, and for each of them the place in the pack of its vector.
        """
        bounds = self._groups[pack.start : pack.start + len(pack.rows) + 1]
        return self._members[bounds[0] : bounds[-1]], np.repeat(np.arange(len(pack.rows)), np.diff(bounds))

    def summary(self, runtime: Runtime, batch_tokens: int, batch_size: int | None) -> "Summary":
        """Numbers of the plan, for people."""
        lengths = self.tokens.lengths[self.order]
        packs, computed = 0, 0
        for pack in self.packs(runtime, batch_tokens, batch_size):
            packs += 1
            some = lengths[pack.start : pack.start + len(pack.rows)]
            computed += runtime.computed_tokens(some)
        tokens = int(lengths.sum())
        return Summary(
            texts=len(self.tokens),
            repeated=len(self.tokens) - len(self.order),
            truncated=int(self.tokens.truncated.sum()),
            tokens=tokens,
            packs=packs,
            padding_share=1 - tokens / computed if computed else 0.0,
            flops=float(runtime.cost.flops(lengths).sum()),
        )


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts that are computed together."""

    rows: IntArray
    """Longest first."""
    start: int
    """Place of the first one in the plan's order."""
    longest: int
    """In tokens."""

    def halves(self, lengths: IntArray) -> tuple["Pack", "Pack"]:
        """Two packs of about as many tokens each."""
        ends = np.cumsum(lengths)
        cut = min(max(1, int(np.searchsorted(ends, ends[-1] / 2, side="right"))), len(self.rows) - 1)
        return (
            Pack(self.rows[:cut], self.start, self.longest),
            Pack(self.rows[cut:], self.start + cut, int(lengths[cut])),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers of a plan."""

    texts: int
    repeated: int
    """Texts whose tokens are those of an earlier one; they get its vector."""
    truncated: int
    tokens: int
    """Of the distinct texts."""
    packs: int
    padding_share: float
    """Of the computed tokens, 0 to 1: filler and padding."""
    flops: float
    """Floating-point operations of the whole plan; 0 where the embedder does not know."""

    def line(self) -> str:
        """For the log."""
        parts = [f"{self.texts:,} texts", f"{self.tokens:,} tokens"]
        parts += [f"{self.repeated:,} repeated texts computed once"] if self.repeated else []
        parts += [f"{self.truncated:,} cut to the maximum length"] if self.truncated else []
        parts += [f"{self.packs:,} packs", f"{self.padding_share:.2%} padding"]
        parts += [f"{self.flops / 1e12:,.3g} TFLOP"] if self.flops else []
        return ", ".join(parts)


def make_plan(tokens: Tokens) -> Plan:
    """Find identical texts and sort by length; 100 bytes of memory a row while it does."""
    digests = np.empty(len(tokens), dtype="V16")
    for row in range(len(tokens)):
        digests[row] = hashlib.blake2b(tokens.row(row).tobytes(), digest_size=16).digest()
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    # Distinct texts, longest first; among equals the one that came first in the input.
    by_length = np.lexsort((first, -tokens.lengths[first]))
    place_of_group = np.empty(len(first), dtype=np.int64)
    place_of_group[by_length] = np.arange(len(first))
    places = place_of_group[group]
    starts = np.zeros(len(first) + 1, dtype=np.int64)
    np.cumsum(np.bincount(places, minlength=len(first)), out=starts[1:])
    return Plan(tokens, first[by_length].astype(np.int64), np.argsort(places, kind="stable"), starts)
