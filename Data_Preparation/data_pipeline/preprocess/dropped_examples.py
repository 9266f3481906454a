"""Examples of dropped rows: for each reason the ten rows whose ids have the smallest hashes.

So the examples are a random sample of the rows, whatever order these have, and those of all rows are found among those
of their parts (bottom-k sketch; Cohen & Kaplan, Summarizing Data Using Bottom-k Sketches, PODC 2007).
"""

from bisect import insort
from collections.abc import Callable
from hashlib import blake2b
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa

from data_pipeline.store.dropped import EXAMPLES_SCHEMA
from data_pipeline.utils import encodable

EXAMPLES_PER_REASON = 10
EXAMPLE_CHARACTERS = 2_000
_REASONS = 1_000  # a function of the user may give each row a reason of its own

Text = str | None | Callable[[], str]
"""Text of a row, or a function that reads it; None if there is no text."""


class _Example(NamedTuple):
    text_id: str
    document_id: str
    stage: str
    reason: str
    duplicate_of: str | None
    text: str | None


_Key = tuple[int, str, str, str, bool, str, bool, str]


class DropExamples:
    """Examples of the rows of a ledger; 10 texts of at most 2,000 characters in memory for each reason.

    Of more than 1,000 reasons, those that come first in the alphabet have examples.
    """

    def __init__(self) -> None:
        self._examples: dict[str, list[tuple[_Key, _Example]]] = {}

    def add(
        self, text_id: str, document_id: str, stage: str, reason: str, duplicate_of: str | None, text: Text
    ) -> None:
        """Keep a row if it is one of the examples; only then is its text read."""
        examples = self._of(reason)
        if examples is None:
            return
        digest = int.from_bytes(blake2b(text_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if len(examples) == EXAMPLES_PER_REASON and digest > examples[-1][0][0]:
            return
        text = text() if callable(text) else text
        text = None if text is None else encodable(text[:EXAMPLE_CHARACTERS])
        # All values count, so that rows of one id have an order too.
        others = (duplicate_of is None, duplicate_of or "", text is None, text or "")
        key = (digest, text_id, document_id, stage, *others)
        example = _Example(text_id, document_id, stage, reason, duplicate_of, text)
        insort(examples, (key, example), key=itemgetter(0))
        del examples[EXAMPLES_PER_REASON:]

    def merge(self, examples: pa.Table) -> None:
        """Add the examples of another part of the rows."""
        for row in examples.to_pylist():
            self.add(**row)

    def table(self) -> pa.Table:
        """Return the examples, by reason, those of one reason by their hashes."""
        rows = [example for reason in sorted(self._examples) for _, example in self._examples[reason]]
        return pa.Table.from_pylist([row._asdict() for row in rows], EXAMPLES_SCHEMA)

    def _of(self, reason: str) -> list[tuple[_Key, _Example]] | None:
        """Return the examples of a reason; None if it has none, since there are too many reasons."""
        if reason not in self._examples:
            if len(self._examples) >= _REASONS:
                last = max(self._examples)
                if reason > last:
                    return None
                del self._examples[last]
            self._examples[reason] = []
        return self._examples[reason]
