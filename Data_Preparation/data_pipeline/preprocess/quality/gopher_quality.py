"""Quality rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1) with datatrove's decisions."""

import numpy as np

from data_pipeline.preprocess.quality.batch import Reasons, TextBatch
from data_pipeline.types import IntArray

_WORDS = (50, 100_000)
_WORD_LENGTH = (3, 10)
_MAX_SYMBOLS_PER_WORD = 0.1
_MAX_BULLET_LINES = 0.9
_MAX_ELLIPSIS_LINES = 0.3
_MIN_WORDS_WITH_LETTERS = 0.8
_MIN_STOP_WORDS = 2

_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")


def gopher_quality(batch: TextBatch) -> Reasons:
    """Reasons to drop texts by their number and length of words, symbols, bullets, ellipses and stop words."""
    words = batch.words
    if not len(words):
        return []
    properties = words.properties
    has_text_T = properties.has_text[words.numbers]
    counts = words.sum_by_text(has_text_T)
    # Every threshold is compared as datatrove does it: a share in double precision.
    mean_length = words.sum_by_text(words.word_lengths * has_text_T) / np.maximum(counts, 1)
    letters = words.sum_by_text(properties.has_letter[words.numbers]) / np.maximum(words.word_counts, 1)
    by_words = np.select(
        [
            counts < _WORDS[0],
            counts > _WORDS[1],
            mean_length < _WORD_LENGTH[0],
            mean_length > _WORD_LENGTH[1],
        ],
        ["short_doc", "long_doc", "short_words", "long_words"],
        "",
    ).tolist()
    few_letters = (letters < _MIN_WORDS_WITH_LETTERS).tolist()
    few_stop_words = (_distinct_stop_words(batch) < _MIN_STOP_WORDS).tolist()
    return [
        by_words[row]
        or _symbols_reason(text, total)
        or ("too_few_letters" if few_letters[row] else "")
        or ("too_few_stop_words" if few_stop_words[row] else "")
        or None
        for row, (text, total) in enumerate(zip(batch.texts, words.word_counts.tolist(), strict=True))
    ]


def _distinct_stop_words(batch: TextBatch) -> IntArray:
    """Number of different stop words in each text, shape (D,)."""
    words = batch.words
    bits_T = words.properties.stop_words[words.numbers]
    has_words = words.word_counts > 0
    bits = np.zeros(len(words), np.uint8)
    if has_words.any():
        bits[has_words] = np.bitwise_or.reduceat(bits_T, words.bounds[:-1][has_words])
    return np.unpackbits(bits[:, None], axis=1).sum(axis=1, dtype=np.int64)


def _symbols_reason(text: str, words: int) -> str:
    if text.count("#") / words > _MAX_SYMBOLS_PER_WORD:
        return "too_many_hashes"
    if sum(map(text.count, _ELLIPSES)) / words > _MAX_SYMBOLS_PER_WORD:
        return "too_many_ellipses"
    if not any(mark in text for mark in (*_BULLETS, *_ELLIPSES)):
        return ""
    lines = text.splitlines()
    if sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines) > _MAX_BULLET_LINES:
        return "too_many_bullets"
    if sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines) > _MAX_ELLIPSIS_LINES:
        return "too_many_ellipsis_lines"
    return ""
