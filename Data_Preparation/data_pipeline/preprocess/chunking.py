"""Chunking of documents into overlapping windows of tokens, given as spans of the document's characters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from data_pipeline.utils import batched

_BATCH_DOCUMENTS = 256  # tokenized in one call, which keeps all cores busy


class Chunk(NamedTuple):
    """One window of a document."""

    number: int
    """Position among the windows of its document, from 0."""
    start: int
    """Start of its text in the document, in characters."""
    end: int
    """End of its text in the document, in characters, exclusive."""
    tokens: int
    """Number of its tokens, without special tokens."""


class Chunker:
    """Cuts texts into windows of tokens.

    Each window starts `stride_tokens` after the previous one. The last window is the first that reaches
    the end of the text, so it always contains text that no other window has.

    The windows are cut here and not by the tokenizer's own `overflowing` encodings: those give the same
    windows, but copy every token of an overlap (1.5 times the time with a stride of a quarter window).

    Args:
        tokenizer: tokenizes the texts; its truncation and padding are ignored.
        window_tokens: number of tokens of a window, without special tokens.
        stride_tokens: number of tokens from the start of a window to that of the next, 1 to `window_tokens`.

    Raises:
        ValueError: `stride_tokens` is out of range.
    """

    def __init__(self, tokenizer: Tokenizer, window_tokens: int, stride_tokens: int) -> None:
        if not 1 <= stride_tokens <= window_tokens:
            raise ValueError(f"stride_tokens must be from 1 to window_tokens ({window_tokens}), got {stride_tokens}")
        # A copy, because most tokenizers have truncation set, and the caller may still use it.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._window, self._stride = window_tokens, stride_tokens

    def chunk(self, text: str) -> list[Chunk]:
        """Windows of one text; a text without tokens has one empty window."""
        return next(iter(self.chunk_all([text])))

    def chunk_all(self, texts: Iterable[str]) -> Iterator[list[Chunk]]:
        """Windows of each text, in order."""
        for batch in batched(texts, _BATCH_DOCUMENTS):
            encodings = self._tokenizer.encode_batch(batch, add_special_tokens=False)
            for text, encoding in zip(batch, encodings, strict=True):
                yield self._cut(text, encoding.offsets)

    def _cut(self, text: str, offsets: Sequence[tuple[int, int]]) -> list[Chunk]:
        # Tokens that stand for no character must not make a window of their own.
        offsets = [(start, end) for start, end in offsets if end > start]
        chunks: list[Chunk] = []
        for first in range(0, len(offsets), self._stride):
            window = offsets[first : first + self._window]
            start, end = _strip_span(text, window[0][0], max(end for _, end in window))
            # The last tokens may be white space, or belong to a character that the previous window has too.
            if end > (chunks[-1].end if chunks else 0):
                chunks.append(Chunk(len(chunks), start, end, len(window)))
            if first + self._window >= len(offsets):
                break
        return chunks or [Chunk(0, 0, 0, 0)]


def _strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without white space at its ends; the tokens of some tokenizers include the space before a word."""
    span = text[start:end]
    stripped = span.strip()
    start += len(span) - len(span.lstrip()) if stripped else 0
    return start, start + len(stripped)
