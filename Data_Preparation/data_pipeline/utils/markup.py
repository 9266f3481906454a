"""Headings of WikiText and Markdown."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_HEADING = re.compile(r"(=(?: =)*) (?!= )(\S.*?)(?<! =) (=(?: =)*)")


def parse_heading(line: str) -> tuple[int, str] | None:
    """Parse a line as a heading; returns its level and title, or None.

    A line is only a heading if its neighbors are blank, which the caller checks.
    """
    match = _HEADING.fullmatch(line.strip())
    if match is None or len(match[1]) != len(match[3]):
        return None
    return match[1].count("="), match[2]


class Heading(NamedTuple):
    """Heading of a Markdown text."""

    first: int
    """Position of its first line."""
    stop: int
    """Position behind its last line; a heading that is underlined has two."""
    level: int
    """Level, 1 to 6."""
    title: str
    """Its text, with the marks of emphasis and links."""


def markdown_headings(lines: Sequence[str]) -> list[Heading]:
    """Find the headings of a Markdown text by the rules of CommonMark, so not in code, lists and quotations."""
    text = "\n".join(lines)
    if "#" not in text and "\n---" not in text and "\n===" not in text:
        return []
    tokens = _parser().parse(text)
    headings = []
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map is not None and inline.content:
            headings.append(Heading(token.map[0], token.map[1], int(token.tag[1:]), inline.content.strip()))
    return headings


def front_matter_lines(lines: Sequence[str]) -> int:
    """Number of lines of the YAML block between `---` at the beginning of a Markdown file; 0 if there is none."""
    if not lines or lines[0].rstrip() != "---":
        return 0
    return next((n + 1 for n, line in enumerate(lines[1:], start=1) if line.rstrip() in {"---", "..."}), 0)


@cache
def _parser() -> "MarkdownIt":
    # Imported here because only Markdown needs it. Without its rules of text inside a line, it is three times as fast.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.disable([rule for rule in parser.get_active_rules()["inline"] if rule != "text"])
    return parser
