"""Quality filters: functions that return a reason to drop a text, or None; each is named by its reason.

To add one, write the function, add it to the tuple of its kind, and add its threshold to
`PreprocessConfig` and a row to the table in `tests/preprocess/test_filters.py`.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from data_pipeline.config import PreprocessConfig

TextFilter = Callable[[str, PreprocessConfig], str | None]
CountFilter = Callable[[int, PreprocessConfig], str | None]
Value = TypeVar("Value", str, int)

_ASCII = bytes(range(128))
_LETTERS = bytes(c for c in range(256) if c > 127 or chr(c).isalpha())

_ASCII_SPACE = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_ASCII_DIGITS = b"0123456789"
_ASCII_CONTROL = bytes(c for c in (*range(9), *range(14, 28), 127))


def too_many_unknowns(text: str, config: PreprocessConfig) -> str | None:
    """Drop a text if more than `max_unknown_share` of its words are `<unk>`; takes the text before cleaning."""
    words = text.count(" ") + 1
    return "too_many_unknowns" if text.count("<unk>") > config.max_unknown_share * words else None


def too_short(text: str, config: PreprocessConfig) -> str | None:
    """Drop a text of fewer than `min_chars` characters, and an empty text."""
    return "too_short" if len(text) < config.min_chars or not text else None


def mostly_punctuation(text: str, config: PreprocessConfig) -> str | None:
    """Drop a text if punctuation and symbols exceed `max_punctuation_share` of its non-space characters."""
    size, punctuation, _ = _composition(text)
    return "mostly_punctuation" if punctuation > config.max_punctuation_share * size else None


def mostly_digits(text: str, config: PreprocessConfig) -> str | None:
    """Drop a text if digits exceed `max_digit_share` of its non-space characters."""
    size, _, digits = _composition(text)
    return "mostly_digits" if digits > config.max_digit_share * size else None


def too_few_tokens(count: int, config: PreprocessConfig) -> str | None:
    """Drop a text of fewer than `min_tokens` tokens."""
    return "too_few_tokens" if count < config.min_tokens else None


def too_many_tokens(count: int, config: PreprocessConfig) -> str | None:
    """Drop a text of more than `max_tokens` tokens."""
    return "too_many_tokens" if count > config.max_tokens else None


RAW_FILTERS: tuple[TextFilter, ...] = (too_many_unknowns,)
TEXT_FILTERS: tuple[TextFilter, ...] = (too_short, mostly_punctuation, mostly_digits)
COUNT_FILTERS: tuple[CountFilter, ...] = (too_few_tokens, too_many_tokens)


def quality_reason(raw: str, text: str, config: PreprocessConfig) -> str | None:
    """First reason to drop a paragraph by its text; None to keep it.

    Args:
        raw: the text before cleaning.
        text: the cleaned text.
        config: the thresholds.
    """
    return _first_reason(RAW_FILTERS, raw, config) or _first_reason(TEXT_FILTERS, text, config)


def count_reason(count: int, config: PreprocessConfig) -> str | None:
    """First reason to drop a paragraph by its number of tokens; None to keep it."""
    return _first_reason(COUNT_FILTERS, count, config)


def _first_reason(
    filters: Sequence[Callable[[Value, PreprocessConfig], str | None]], value: Value, config: PreprocessConfig
) -> str | None:
    return next((reason for filter_ in filters if (reason := filter_(value, config))), None)


@lru_cache(maxsize=1)  # two filters use the composition of the same text
def _composition(text: str) -> tuple[int, int, int]:
    """Number of characters other than white space, and of punctuation marks and digits among them."""
    encoded = text.encode()
    # Deleting bytes is far faster than iterating over characters.
    without_letters = encoded.translate(None, _LETTERS)
    without_spaces = without_letters.translate(None, _ASCII_SPACE)
    without_digits = without_spaces.translate(None, _ASCII_DIGITS)
    spaces = len(without_letters) - len(without_spaces)
    digits = len(without_spaces) - len(without_digits)
    punctuation = len(without_digits.translate(None, _ASCII_CONTROL))
    if not text.isascii():
        for char in encoded.translate(None, _ASCII).decode():
            spaces += char.isspace()
            digits += char.isdecimal()
            punctuation += unicodedata.category(char)[0] in "PS"
    return len(text) - spaces, punctuation, digits
