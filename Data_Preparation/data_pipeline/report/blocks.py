"""Parts that pages are made of: facts, tables, figures, texts and pairs of texts.

Sections put these together, and templates turn them to HTML. All strings are plain text, which the template escapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Verdict = Literal["good", "check", "bad", "note"]
"""Judgement of a fact: as it should be, worth a look, wrong, or no judgement."""


@dataclass(frozen=True)
class Fact:
    """Named value with a judgement."""

    name: str
    value: str
    verdict: Verdict = "note"
    word: str = ""
    """Reason for the judgement, and what to do about it."""


@dataclass(frozen=True)
class Facts:
    """List of facts."""

    facts: Sequence[Fact]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Table:
    """Table of strings; columns of numbers are aligned to the right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    """Indices of the columns of numbers."""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Figure:
    """Plotly figure."""

    caption: str
    alt: str
    """What it shows, in words, for readers who cannot see it."""
    spec: Mapping[str, Any]
    """`data` and `layout`, as JSON values."""
    height_px: int = 320
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class FigureGrid:
    """Small figures side by side."""

    figures: Sequence[Figure]
    kind: str = field(default="grid", init=False)


@dataclass(frozen=True)
class Text:
    """Text to read, with its id and a remark."""

    text: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Texts:
    """Texts to read."""

    caption: str
    texts: Sequence[Text]
    kind: str = field(default="texts", init=False)


Part: TypeAlias = tuple[str, bool]
"""Piece of a text, and whether it differs from the other text."""


@dataclass(frozen=True)
class Pair:
    """Two similar texts side by side."""

    left_title: str
    left: Sequence[Part]
    right_title: str
    right: Sequence[Part]
    note: str = ""


@dataclass(frozen=True)
class Pairs:
    """Pairs of similar texts."""

    caption: str
    pairs: Sequence[Pair]
    kind: str = field(default="pairs", init=False)


@dataclass(frozen=True)
class Note:
    """Paragraph of text."""

    text: str
    verdict: Verdict = "note"
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Map:
    """Map of the vectors; its data are packed in `values`, as JSON values."""

    caption: str
    values: Mapping[str, Any]
    kind: str = field(default="map", init=False)


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown on demand."""

    summary: str
    blocks: "Sequence[Block]"
    kind: str = field(default="fold", init=False)


Block: TypeAlias = Facts | Table | Figure | FigureGrid | Texts | Pairs | Note | Map | Fold


@dataclass(frozen=True)
class Section:
    """Section of a page."""

    id: str
    """Name in links, of lower-case letters and hyphens."""
    title: str
    blocks: Sequence[Block]
    lead: str = ""
    """What the section is about, in a sentence."""
