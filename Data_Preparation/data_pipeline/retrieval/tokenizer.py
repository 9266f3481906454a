"""Text -> the tokens of BM25: words without their endings, and pairs of characters where words have no spaces.

Every character is looked at a constant number of times, whatever the text: no pattern here can backtrack,
and runs of combining marks, which normalisation would sort in quadratic time, are cut first.
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
_WORD_CHARACTERS = 255  # of one token, at most (Lucene's limit); the rest is no word of any language
_MARKS = 30  # one after the other, at most (Unicode's Stream-Safe Text Format, UAX 15)
# Scripts without spaces between words, and Korean, whose words have endings that pairs of characters see through (as
# in Lucene's CJKAnalyzer).
_PAIRED_BLOCKS = (
    *UNSPACED_BLOCKS,
    (0x1100, 0x11FF),  # Hangul
    (0x3130, 0x318F),
    (0xAC00, 0xD7FF),
)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
# Invisible inside of words: soft hyphen, zero-width space and (non-)joiners, word joiner, byte-order mark.
_INVISIBLE = dict.fromkeys([0xAD, *range(0x200B, 0x200E), 0x2060, 0xFEFF])
_LISTS = {
    "english": "EN", "porter": "EN", "german": "GERMAN", "dutch": "DUTCH", "dutch_porter": "DUTCH", "french": "FRENCH",
    "spanish": "SPANISH", "portuguese": "PORTUGUESE", "italian": "ITALIAN", "russian": "RUSSIAN", "swedish": "SWEDISH",
    "norwegian": "NORWEGIAN", "danish": "DANISH", "turkish": "TURKISH",
}  # fmt: skip
_ELIDED = "d ll m re s t ve"  # what an apostrophe leaves of English words


class Tokeniser:
    """Turns texts into tokens; the same for passages and queries.

    Unicode NFKC and case folding; words of letters, digits and marks; in Korean and in scripts without spaces between
    words (Chinese, Japanese, Thai, see `words`) every two neighbouring characters; then the language's stop words and
    endings go. Not for several threads at once.

    Args:
        language: a name of the Snowball stemmers (https://snowballstem.org), or `none`.
        stop_words: leave out the language's most common words, where a list of them is known.

    Raises:
        ConfigError: there is no such language.
        MissingExtra: the extra weak-labels is not installed.
    """

    def __init__(self, language: str = "english", stop_words: bool = True) -> None:
        self._stemmer = _stemmer(language)
        self._stop_words = _stop_words(language) if stop_words else frozenset()
        self._tokens: dict[str, str | None] = {}
        self.settings: Mapping[str, Any] = {
            "format": _FORMAT,
            "language": language,
            "stop_words": sha256_of_json(sorted(self._stop_words)) if self._stop_words else None,
            "stemmer": None if self._stemmer is None else require("Stemmer", "weak-labels", "stemming").version(),
            "unicode": unicodedata.unidata_version,
        }
        """Everything that decides what tokens a text has, as JSON values."""

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, in order, repeated ones too."""
        known = self._tokens
        found = []
        for word in words(text):
            token = known[word] if word in known else self._token(word)
            if token is not None:
                found.append(token)
        return found

    def _token(self, word: str) -> str | None:
        """A word's token; None for a stop word."""
        token = None if word in self._stop_words else word if self._stemmer is None else self._stemmer.stemWord(word)
        if len(self._tokens) >= 1 << 20:  # a corpus of noise has no end of words
            self._tokens.clear()
        self._tokens[word] = token
        return token


def words(text: str) -> list[str]:
    """Normalised words of a text, and pairs of characters where words have no spaces between them.

    A run of one such character is a token of its own.
    """
    if text.isascii():
        return [word[:_WORD_CHARACTERS] for word in _ASCII_WORDS.findall(text.lower())]
    text = _long_runs_of_marks().sub(r"\1", text.translate(_INVISIBLE))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found: list[str] = []
    for match in _words().finditer(text):
        run = match.group()
        if match.lastgroup == "word":
            found.append(run[:_WORD_CHARACTERS])
        elif len(run) == 1:
            found.append(run)
        else:
            found.extend(first + second for first, second in pairwise(run))
    return found


@cache
def _words() -> re.Pattern[str]:
    """Runs of paired characters, or of all others that words are made of."""
    paired = {point for first, last in _PAIRED_BLOCKS for point in range(first, last + 1) if _is_of_words(point)}
    # Python's \w knows no marks, without which words of Indic scripts and of Hebrew fall apart.
    marks = [point for point in _marks() if point not in paired]
    paired_class, marks_class = _class(sorted(paired)), _class(marks)
    return re.compile(rf"(?P<paired>[{paired_class}]+)|(?P<word>(?:[^\W_{paired_class}]|[{marks_class}])+)")


@cache
def _long_runs_of_marks() -> re.Pattern[str]:
    marks = f"[{_class(_marks())}]"
    return re.compile(f"({marks}{{{_MARKS}}}){marks}+")


@cache
def _marks() -> list[int]:
    return [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)).startswith("M")]


def _is_of_words(point: int) -> bool:
    return unicodedata.category(chr(point))[0] in "LMN"


def _class(points: Iterable[int]) -> str:
    """Sorted code points as the inside of a character class."""
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
            f"there is no stemmer for the language {language!r}; there are {', '.join(module.algorithms())}, and none "
            "(neither stemming nor stop words)"
        )
    return module.Stemmer(language)


def _stop_words(language: str) -> frozenset[str]:
    if language not in _LISTS:
        return frozenset()
    module = require("bm25s.stopwords", "weak-labels", "BM25")
    listed = " ".join(getattr(module, f"STOPWORDS_{_LISTS[language]}"))
    return frozenset(words(f"{listed} {_ELIDED}" if _LISTS[language] == "EN" else listed))
