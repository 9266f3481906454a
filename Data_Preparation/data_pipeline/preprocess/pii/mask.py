"""Masking and counting of personal data."""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from data_pipeline.preprocess.pii.presidio import presidio_finder
from data_pipeline.preprocess.pii.spans import Finder, pattern_finder

# A line without these has no personal data of any kind: an at sign, two colons, or four digits.
_MAY_HAVE_ANY = r"@|:[0-9A-Fa-f]{0,4}:|[0-9](?:[^0-9]{0,3}[0-9]){3}"
FINDERS = {"patterns": pattern_finder, "presidio": presidio_finder}
"""Finders by the names that `filters.pii_engine` takes."""


class PersonalData:
    """Finds personal data, and counts it by kind.

    Args:
        finder: finds the personal data in a line.
    """

    def __init__(self, finder: Finder) -> None:
        self._find = finder
        self.counts: Counter[str] = Counter()

    def mask(self, lines: pl.Series, counts: bool = True) -> pl.Series:
        """Replace the personal data in lines by markers such as `<email>`, and count it."""
        rows = lines.str.contains(_MAY_HAVE_ANY).arg_true()
        if not len(rows):
            return lines
        masked = [self._masked(line, counts) for line in lines.gather(rows).to_list()]
        return lines.clone().scatter(rows, pl.Series(masked, dtype=pl.String))

    def mask_text(self, text: str) -> str:
        """Replace the personal data in the lines of a text, without counting it."""
        return "\n".join(self._masked(line, counts=False) for line in text.split("\n"))

    def _masked(self, line: str, counts: bool) -> str:
        parts: list[str] = []
        end = 0
        for span in self._find(line):
            parts += [line[end : span.start], f"<{span.kind}>"]
            end = span.end
            self.counts[span.kind] += counts
        return "".join([*parts, line[end:]])

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """Reason `has_pii` for each text that has personal data."""
        reasons: list[str | None] = []
        for text in texts:
            kinds = [span.kind for line in text.split("\n") for span in self._find(line)]
            self.counts.update(kinds)
            reasons.append("has_pii" if kinds else None)
        return reasons
