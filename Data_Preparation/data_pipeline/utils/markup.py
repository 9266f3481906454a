"""Headings of WikiText, which both the article splitter and the paragraph cutter parse."""

import re

_HEADING = re.compile(r"(=(?: =)*) (?!= )(\S.*?)(?<! =) (=(?: =)*)")


def parse_heading(line: str) -> tuple[int, str] | None:
    """Parse a line as a heading; returns its level and title, or None.

    A line is only a heading if its neighbors are blank, which the caller checks.
    """
    match = _HEADING.fullmatch(line.strip())
    if match is None or len(match[1]) != len(match[3]):
        return None
    return match[1].count("="), match[2]
