"""Cutting of long texts at the ends of paragraphs, sentences or words, into spans of their characters.

A text is tokenized once. Each chunk takes as many tokens as fit, and ends at the last end of a paragraph in its second
half; else at the last end of a sentence or line in its last three quarters; else at the last space; else, in languages
without spaces, between two tokens. Nothing but white space is lost between two chunks.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.types import IntArray
from data_pipeline.utils import batched

_PARAGRAPH_END = re.compile(r"\n\s*\n\s*")
# Western marks need white space behind them (3.14, example.org); those of Chinese, Japanese and Indic scripts do not.
_SENTENCE_END = re.compile(r"[.!?…؟]+[\"'”’»)\]]*\s+|[。！？．｡।]+[」』”’）〕]*\s*|\n\s*")
_WORD_END = re.compile(r"\s+")
_BATCH_TEXTS = 256  # tokenized in one call, which keeps all cores busy


class Span(NamedTuple):
    """Chunk of a text."""

    start: int
    """First character."""
    end: int
    """Character behind the last one."""


class NaturalChunker:
    """Cuts texts into chunks.

    Args:
        counter: counts tokens.
        max_tokens: maximum number of tokens of a chunk, without special tokens, at least 1.
        overlap: number of tokens that a chunk repeats from the one before it, about; less than `max_tokens`. The
            repeated part begins with a sentence or word.
    """

    def __init__(self, counter: TokenCounter, max_tokens: int, overlap: int = 0) -> None:
        self._counter, self._max_tokens, self._overlap = counter, max_tokens, overlap

    def cut(self, texts: Sequence[str]) -> list[list[Span]]:
        """Cut texts into chunks without white space at their ends; a text of white space has none."""
        chunks: list[list[Span]] = []
        for batch in batched(texts, _BATCH_TEXTS):
            tokens = self._counter.spans(batch)
            found = [
                self._cut(text, starts, ends, self._max_tokens)
                for text, (starts, ends) in zip(batch, tokens, strict=True)
            ]
            chunks += self._shortened(batch, tokens, found)
        return chunks

    def _shortened(
        self, texts: Sequence[str], tokens: list[tuple[IntArray, IntArray]], chunks: list[list[Span]]
    ) -> list[list[Span]]:
        """Cut texts again of which a chunk has too many tokens: a part of a text may be tokenized otherwise."""
        parts = [text[span.start : span.end] for text, spans in zip(texts, chunks, strict=True) for span in spans]
        counts = iter(self._counter.count(parts).tolist())
        longest = [max((next(counts) for _ in spans), default=0) for spans in chunks]
        for row, count in enumerate(longest):
            limit = self._max_tokens
            while count > self._max_tokens and limit > 1:
                limit = max(1, limit - (count - self._max_tokens))
                chunks[row] = self._cut(texts[row], *tokens[row], limit)
                count = int(self._counter.count([texts[row][start:end] for start, end in chunks[row]]).max())
        return chunks

    def _cut(self, text: str, starts: IntArray, ends: IntArray, limit: int) -> list[Span]:
        spans: list[Span] = []
        boundaries = _Boundaries(text)
        stop = len(text.rstrip())
        count = int(np.searchsorted(starts, stop))
        overlap = min(self._overlap, limit // 2)

        def token_at(position: int) -> int:
            return int(np.searchsorted(ends, position, side="right"))

        start = cut = _skip_space(text, 0)
        while (first := token_at(start)) + limit < count:
            # A token may stand for a part of a character; the cut is before the whole character.
            full = max(int(starts[first + limit]), cut + 1)
            half, quarter = (int(starts[first + limit // part]) for part in (2, 4))
            cut = _skip_space(text, boundaries.last(cut + 1, full, half, quarter))
            spans.append(_stripped(text, start, cut))
            again = cut
            if overlap:
                again = _skip_space(text, boundaries.first(int(starts[max(0, token_at(cut) - overlap)]), cut))
            # The next chunk must reach beyond this one, also where a character has several tokens.
            reaches_on = starts[min(token_at(again) + limit, count - 1)] > cut
            start = again if start < again and reaches_on else cut
        spans.append(_stripped(text, start, stop))
        return [span for span in spans if span.end > span.start]


class _Boundaries:
    """Positions in a text at which a new paragraph, sentence or word begins."""

    def __init__(self, text: str) -> None:
        self._kinds = [_ends(pattern, text) for pattern in (_PARAGRAPH_END, _SENTENCE_END, _WORD_END)]

    def last(self, first: int, full: int, half: int, quarter: int) -> int:
        """Return the best position from `first` to `full` to end a chunk at."""
        for positions, earliest in zip(self._kinds, (half, quarter, first), strict=True):
            index = int(np.searchsorted(positions, full, side="right")) - 1
            if index >= 0 and positions[index] >= max(earliest, first):
                return int(positions[index])
        return full

    def first(self, start: int, stop: int) -> int:
        """Return the first beginning of a sentence, else of a word, from `start` on and before `stop`; else `start`."""
        for positions in self._kinds[1:]:
            index = int(np.searchsorted(positions, start, side="left"))
            if index < len(positions) and positions[index] < stop:
                return int(positions[index])
        return start


def _ends(pattern: re.Pattern[str], text: str) -> IntArray:
    return np.array([match.end() for match in pattern.finditer(text)], np.int64)


def _skip_space(text: str, position: int) -> int:
    space = _WORD_END.match(text, position)
    return space.end() if space else position


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return Span(start, max(start, start + len(part.strip())))


def rows_of_spans(chunks: Sequence[Sequence[Span]]) -> tuple[IntArray, IntArray, IntArray]:
    """Flatten chunks of N texts: rows of the texts, starts and ends, each of shape (number of chunks,)."""
    rows = np.repeat(np.arange(len(chunks)), [len(spans) for spans in chunks])
    flat = np.array(list(chain.from_iterable(chunks)), np.int64).reshape(-1, 2)
    return rows, flat[:, 0], flat[:, 1]
