"""Tokens of BM25: stemmed words, and pairs of characters in scripts without spaces between words.

The time is linear in the length of any text: no pattern here can backtrack, and long runs of combining marks, which
Unicode normalization would sort in quadratic time, are cut first.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from data_pipeline.errors import ConfigError
from data_pipeline.utils import require, sha256_of_json
from data_pipeline.utils.words import UNSPACED_BLOCKS

_FORMAT = 2
_MAX_WORD_CHARS = 255  # of a token; Lucene's limit, beyond which nothing is a word of any language
_MAX_MARKS = 30  # in a row; Unicode's Stream-Safe Text Format, UAX 15
# Scripts without spaces between words, and Korean, where pairs of characters match words with different endings (as in
# Lucene's CJKAnalyzer).
_PAIRED_BLOCKS = (
    *UNSPACED_BLOCKS,
    (0x1100, 0x11FF),  # Hangul
    (0x3130, 0x318F),
    (0xAC00, 0xD7FF),
)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
# Invisible characters inside words: soft hyphen, zero-width space and (non-)joiners, word joiner, byte-order mark.
_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x200E), 0x2060, 0xFEFF])
_STOP_WORD_LISTS = {
    "english": "EN", "porter": "EN", "german": "GERMAN", "dutch": "DUTCH", "dutch_porter": "DUTCH", "french": "FRENCH",
    "spanish": "SPANISH", "portuguese": "PORTUGUESE", "italian": "ITALIAN", "russian": "RUSSIAN", "swedish": "SWEDISH",
    "norwegian": "NORWEGIAN", "danish": "DANISH", "turkish": "TURKISH",
}  # fmt: skip
_CONTRACTION_PARTS = "d ll m re s t ve"  # parts of English words after an apostrophe


class Bm25Tokenizer:
    """Splits passages and queries into tokens.

    Texts are normalized (Unicode NFKC) and case-folded, then split into words of letters, digits and marks; Korean and
    scripts without spaces between words (Chinese, Japanese, Thai; see `words`) into pairs of neighbouring characters.
    Stop words of the language are removed, and the others are stemmed. Not safe for use by several threads at once.

    Args:
        language: name of a Snowball stemmer (https://snowballstem.org), or `none`.
        stop_words: remove the most common words of the language, if there is a list of them.

    Raises:
        ConfigError: the language is unknown.
        MissingExtraError: the extra weak-labels is not installed.
    """

    def __init__(self, language: str = "english", stop_words: bool = True) -> None:
        self._stemmer = _stemmer(language)
        self._stop_words = _stop_words(language) if stop_words else frozenset()
        self._token_cache: dict[str, str | None] = {}
        self.settings: Mapping[str, Any] = {
            "format": _FORMAT,
            "language": language,
            "stop_words": sha256_of_json(sorted(self._stop_words)) if self._stop_words else None,
            "stemmer": None if self._stemmer is None else require("Stemmer", "weak-labels", "stemming").version(),
            "unicode": unicodedata.unidata_version,
        }
        """Everything that decides which tokens a text has; plain JSON."""

    def tokens(self, text: str) -> list[str]:
        """Split a text into its tokens, in order, including repeated ones."""
        cached = self._token_cache
        tokens = []
        for word in words(text):
            token = cached[word] if word in cached else self._to_token(word)
            if token is not None:
                tokens.append(token)
        return tokens

    def _to_token(self, word: str) -> str | None:
        """Stem a word; None for a stop word."""
        token = None if word in self._stop_words else word if self._stemmer is None else self._stemmer.stemWord(word)
        if len(self._token_cache) >= 1 << 20:  # a noisy corpus has any number of words
            self._token_cache.clear()
        self._token_cache[word] = token
        return token


def words(text: str) -> list[str]:
    """Split a text into normalized words, and into pairs of characters in scripts without spaces between words.

    A single character of such a script is a token of its own.
    """
    if text.isascii():
        return [word[:_MAX_WORD_CHARS] for word in _ASCII_WORDS.findall(text.lower())]
    text = _long_mark_runs_pattern().sub(r"\1", text.translate(_INVISIBLE))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    result: list[str] = []
    for match in _words_pattern().finditer(text):
        run = match.group()
        if match.lastgroup == "word":
            result.append(run[:_MAX_WORD_CHARS])
        elif len(run) == 1:
            result.append(run)
        else:
            result.extend(first + second for first, second in pairwise(run))
    return result


@cache
def _words_pattern() -> re.Pattern[str]:
    """Compile the pattern of runs of paired characters, or of all other word characters."""
    paired = {point for first, last in _PAIRED_BLOCKS for point in range(first, last + 1) if _is_word_character(point)}
    # Python's \w lacks marks, without which words of Indic scripts and of Hebrew would be split.
    marks = [point for point in _mark_points() if point not in paired]
    paired_class, marks_class = _character_class(sorted(paired)), _character_class(marks)
    return re.compile(rf"(?P<paired>[{paired_class}]+)|(?P<word>(?:[^\W_{paired_class}]|[{marks_class}])+)")


@cache
def _long_mark_runs_pattern() -> re.Pattern[str]:
    marks = f"[{_character_class(_mark_points())}]"
    return re.compile(f"({marks}{{{_MAX_MARKS}}}){marks}+")


@cache
def _mark_points() -> list[int]:
    return [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)).startswith("M")]


def _is_word_character(point: int) -> bool:
    return unicodedata.category(chr(point))[0] in "LMN"


def _character_class(points: Iterable[int]) -> str:
    """Write sorted code points as the inside of a character class."""
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _stemmer(language: str) -> Any:
    if language == "none":
        return None
    module = require("Stemmer", "weak-labels", "stemming")
    if language not in module.algorithms():
        raise ConfigError(
            f"there is no stemmer for the language {language!r}; expected one of {', '.join(module.algorithms())}, or "
            "none (neither stemming nor stop words)"
        )
    return module.Stemmer(language)


def _stop_words(language: str) -> frozenset[str]:
    if language not in _STOP_WORD_LISTS:
        return frozenset()
    module = require("bm25s.stopwords", "weak-labels", "BM25")
    word_list = " ".join(getattr(module, f"STOPWORDS_{_STOP_WORD_LISTS[language]}"))
    return frozenset(words(f"{word_list} {_CONTRACTION_PARTS}" if _STOP_WORD_LISTS[language] == "EN" else word_list))
