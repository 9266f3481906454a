"""The form of a WikiText heading, which both the article splitter and the paragraph cutter need."""

import re

_HEADING = re.compile(r"(=(?: =)*) (?!= )(\S.*?)(?<! =) (=(?: =)*)")


def parse_heading(line: str) -> tuple[int, str] | None:
    """Level and title of a line that has the form of a heading; None if it has not.

    Whether it is one depends on its neighbours as well: both must be blank.
    """
    match = _HEADING.fullmatch(line.strip())
    if match is None or len(match[1]) != len(match[3]):
        return None
    return match[1].count("="), match[2]
