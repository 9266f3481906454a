"""Metrics of a text itself: words, their length and diversity, and readability.

Words are runs of letters and digits in lower case, including parts joined by apostrophes and hyphens; in scripts
without spaces between words, single characters. Sentences, syllables and Flesch's formula are those of textstat.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.utils import progress_bar, refuse_single_text, require
from data_pipeline.utils.words import is_unspaced, split_words

_WORD = re.compile(r"[^\W_]+(?:['’‑-][^\W_]+)*")
_MTLD_THRESHOLD = 0.72
_MATTR_WINDOW = 25


def mtld(words: Sequence[str]) -> float:
    """Measure of textual lexical diversity (McCarthy and Jarvis, 2010), for texts of 100 words or more.

    The mean length of runs until their ratio of distinct words falls below 0.72, read forwards and backwards; the rest
    at the end counts as a fraction of a run. A text that repeats no word, whose diversity would be infinite, gets the
    value it would have if the next word were a repetition: no text of its length gets more.

    Args:
        words: At least one word.
    """
    return (_mtld_forwards(words) + _mtld_forwards(words[::-1])) / 2


def _mtld_forwards(words: Sequence[str]) -> float:
    runs, seen, length = 0.0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length < _MTLD_THRESHOLD:
            runs, seen, length = runs + 1, set[str](), 0
    if length:
        runs += (1 - len(seen) / length) / (1 - _MTLD_THRESHOLD)
    smallest_part = min(1.0, 1 / (len(words) + 1) / (1 - _MTLD_THRESHOLD))
    return len(words) / (runs or smallest_part)


def mattr(words: Sequence[str]) -> float:
    """Moving-average type-token ratio: the mean over all windows of 25 words (Covington and McFall, 2010), 0 to 1.

    A shorter text is one window.

    Args:
        words: At least one word.
    """
    window = min(_MATTR_WINDOW, len(words))
    inside = Counter(words[:window])
    distinct = len(inside)
    total = distinct
    for leaving, coming in zip(words, words[window:], strict=False):
        inside[leaving] -= 1
        distinct -= inside[leaving] == 0
        distinct += inside[coming] == 0
        inside[coming] += 1
        total += distinct
    return total / window / (len(words) - window + 1)


_BY_WORDS: dict[str, Callable[[list[str]], float]] = {
    "token_count": len,
    "type_token_ratio": lambda words: len(set(words)) / len(words),
    "avg_word_len": lambda words: sum(map(len, words)) / len(words),
    "mtld": mtld,
    "mattr": mattr,
}
_BY_TEXTSTAT = ("flesch_reading_ease", "syllable_count", "sentence_count")

METRICS = ("char_count", *_BY_WORDS, *_BY_TEXTSTAT)
"""Names of the columns."""


def text_metrics(texts: Sequence[str], columns: Sequence[str] = METRICS) -> dict[str, NDArray[np.float64]]:
    """Metrics of English texts.

    `token_count` words, `char_count` characters, `type_token_ratio` distinct words divided by words, `avg_word_len` in
    characters, `flesch_reading_ease` (Flesch, 1948; from about 100, easy, to about 0, hard), `syllable_count`,
    `sentence_count` (at least 1; sentences of up to two words are not counted), `mtld` and `mattr` (see there). A text
    without words has 0 in all columns but `char_count`.

    Args:
        texts: Texts of any length; the metrics of one do not depend on the others.
        columns: Metrics to compute.

    Raises:
        SelectionError: A metric is unknown.
        MissingExtraError: textstat is needed and not installed.
    """
    refuse_single_text(texts, "texts")
    if unknown := [name for name in columns if name not in METRICS]:
        raise SelectionError(f"unknown text metric {unknown[0]!r}; expected one of {', '.join(METRICS)}")
    textstat = None
    if set(columns) & set(_BY_TEXTSTAT):
        textstat = require("textstat", "selection", "readability")
    values = {name: np.zeros(len(texts)) for name in columns}
    with progress_bar(len(texts), "text metrics", "texts") as bar:
        for row, text in enumerate(texts):
            words = _words(text.lower())
            for name in columns:
                values[name][row] = _metric(name, text, words, textstat)
            bar.update()
    return values


def _words(text: str) -> list[str]:
    words = _WORD.findall(text)
    return [part for word in words for part in split_words(word)] if is_unspaced(text) else words


def _metric(name: str, text: str, words: list[str], textstat: Any) -> float:
    if name == "char_count":
        return len(text)
    if not words:
        return 0.0
    if name in _BY_WORDS:
        return _BY_WORDS[name](words)
    return float(getattr(textstat, name)(text))
