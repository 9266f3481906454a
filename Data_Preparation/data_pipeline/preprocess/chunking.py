"""Documents -> overlapping windows of tokens, cut out of the document's own characters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from data_pipeline.utils import batched

_DOCUMENTS = 256  # tokenised at a time: enough for all cores


class Chunk(NamedTuple):
    """One window of a document."""

    number: int
    """0 for the document's first."""
    start: int
    """Of its text in the document, in characters."""
    end: int
    tokens: int
    """Of its own; the tokenizer's, special ones aside."""


class Chunker:
    """Cuts texts into windows of tokens.

    A window begins `stride_tokens` after the one before. The last one is the first that reaches the text's
    end, so it always holds something that no other window does.

    Args:
        tokenizer: counts the tokens; its truncation and padding are not used.
        window_tokens: of one window, special tokens aside.
        stride_tokens: from the beginning of one window to that of the next, 1 to `window_tokens`.
    """

    def __init__(self, tokenizer: Tokenizer, window_tokens: int, stride_tokens: int) -> None:
        if not 1 <= stride_tokens <= window_tokens:
            raise ValueError(f"stride_tokens must be from 1 to window_tokens ({window_tokens}), got {stride_tokens}")
        # A copy: most tokenizers come with a length at which they cut, and others go on using them.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._window, self._stride = window_tokens, stride_tokens

    def chunk(self, text: str) -> list[Chunk]:
        """The windows of one text; a text without tokens is one empty window."""
        return next(iter(self.chunk_all([text])))

    def chunk_all(self, texts: Iterable[str]) -> Iterator[list[Chunk]]:
        """The windows of many texts, one list each, in order."""
        for some in batched(texts, _DOCUMENTS):
            for text, encoding in zip(some, self._tokenizer.encode_batch(some, add_special_tokens=False), strict=True):
                yield self._windows(text, encoding.offsets)

    def _windows(self, text: str, offsets: Sequence[tuple[int, int]]) -> list[Chunk]:
        # Some tokens stand for no character: they are no reason for a window.
        offsets = [(start, end) for start, end in offsets if end > start]
        found: list[Chunk] = []
        for first in range(0, len(offsets), self._stride):
            some = offsets[first : first + self._window]
            start, end = _without_space(text, some[0][0], max(end for _, end in some))
            # Its last tokens may be of white space, or of a character that the window before has too.
            if end > (found[-1].end if found else 0):
                found.append(Chunk(len(found), start, end, len(some)))
            if first + self._window >= len(offsets):
                break
        return found or [Chunk(0, 0, 0, 0)]


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a span that begins and ends with something: some tokens bring the space before them along."""
    inside = text[start:end]
    stripped = inside.strip()
    start += len(inside) - len(inside.lstrip()) if stripped else 0
    return start, start + len(stripped)
