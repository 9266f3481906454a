"""Differences of two texts, word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from data_pipeline.report.blocks import Part

_WORDS = 300
_WORD = re.compile(r"\S{1,200}\s?")  # a text may be one word of a megabyte


def marked_differences(left: str, right: str, words: int = _WORDS) -> tuple[list[Part], list[Part]]:
    """Cut two texts into parts, and mark those that differ.

    Args:
        left: one text.
        right: the other one.
        words: number of words of each that are compared; the rest is left out, as an ellipsis says.

    Returns:
        The parts of each text, in order.
    """
    (one, more_left), (other, more_right) = _first_words(left, words), _first_words(right, words)
    lefts: list[Part] = []
    rights: list[Part] = []
    matcher = SequenceMatcher(None, [word.strip() for word in one], [word.strip() for word in other], autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        differs = tag != "equal"
        lefts += [("".join(one[start:end]), differs)] if end > start else []
        rights += [("".join(other[other_start:other_end]), differs)] if other_end > other_start else []
    ellipsis: Sequence[Part] = [("…", False)]
    return [*lefts, *(ellipsis if more_left else [])], [*rights, *(ellipsis if more_right else [])]


def _first_words(text: str, words: int) -> tuple[list[str], bool]:
    found: list[str] = []
    for match in _WORD.finditer(text):
        if len(found) == words:
            return found, True
        found.append(match[0])
    return found, False
