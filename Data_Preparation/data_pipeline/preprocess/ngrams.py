"""N-grams that rows have in common with evaluation items: found by 64-bit hashes, confirmed by their words.

The usual test of contamination (Brown et al., "Language models are few-shot learners", 2020, appendix C: 13-grams, 8 to
13 words for sets of short items), with the share of words in common n-grams as the overlap (Touvron et al., "Llama 2",
2023, appendix A.6).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.clean import UNUSUAL
from data_pipeline.types import IntArray
from data_pipeline.utils.words import UNSPACED_BLOCKS

_UNSPACED = "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in UNSPACED_BLOCKS) + "]"
_SEPARATORS = r"[^\p{L}\p{M}\p{N} ]+"
_ASCII = bytes(
    byte if byte > 127 else ord(chr(byte).lower()) if chr(byte).isalnum() else ord(" ") for byte in range(256)
)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)
_TABLE_BITS = (16, 27)  # limits of the size of the table that most n-grams are looked up in


@dataclass(frozen=True)
class Words:
    """Normalized words of N texts, one after the other."""

    words: pl.Series
    """All words, W in number."""
    starts: IntArray
    """Shape (N + 1,), number of the first word of each text; the last is W."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> IntArray:
        """Number of words of each text, shape (N,)."""
        return np.diff(self.starts)


def words_of(texts: pa.LargeStringArray) -> Words:
    """Split texts into normalized words.

    Texts are normalized to NFC and lower case; everything but letters, marks and digits separates words, so that
    `1,000` is two words. In scripts without spaces, every character is a word (see `utils.words`).
    """
    series = pl.Series("text", pl.from_arrow(texts))
    is_unusual = series.str.len_bytes() != series.str.len_chars()
    if is_unusual.any():
        # Normalization is slow, and few texts need it.
        series = _change(series, series.str.contains(UNUSUAL), lambda texts: texts.str.normalize("NFC"))
    spaced = _without_ascii_separators(series)
    if is_unusual.any():
        spaced = _change(spaced, is_unusual, lambda texts: texts.str.to_lowercase().str.replace_all(_SEPARATORS, " "))
        spaced = _change(spaced, spaced.str.contains(_UNSPACED), lambda texts: texts.str.replace_all(_UNSPACED, " $0 "))
    lists = spaced.str.split(" ")
    words = lists.explode()
    is_word = words.str.len_bytes() > 0
    ends = np.concatenate([[0], np.cumsum(lists.list.len().to_numpy(), dtype=np.int64)])
    starts = np.concatenate([[0], np.cumsum(is_word.to_numpy(), dtype=np.int64)])[ends]
    return Words(words.filter(is_word), starts)


def _change(texts: pl.Series, mask: pl.Series, function: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Apply a function to some of the texts."""
    if not mask.any():
        return texts
    order = np.argsort(mask.to_numpy(), kind="stable")
    target = np.empty(len(order), np.int64)
    target[order] = np.arange(len(order))
    return pl.concat([texts.filter(~mask), function(texts.filter(mask))]).gather(target)


def _without_ascii_separators(texts: pl.Series) -> pl.Series:
    """Replace all ASCII characters but letters and digits by spaces, and capitals by small letters."""
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    # On the bytes of all texts at once, which is many times faster than a regular expression.
    _, offsets, data = array.buffers()
    spaced = pa.py_buffer(data.to_pybytes().translate(_ASCII) if data else b"")
    return pl.Series(
        "text", pl.from_arrow(pa.LargeStringArray.from_buffers(len(array), offsets, spaced, offset=array.offset))
    )


def word_hashes(words: pl.Series) -> NDArray[np.uint64]:
    """64-bit hashes of words, shape (W,), equal for equal words within one process."""
    return words.hash().to_numpy()


class Windows:
    """Hashes of the n-grams of all lengths of a sequence of words, each in a few operations."""

    def __init__(self, words: Words) -> None:
        hashes = word_hashes(words.words)
        self._ends = np.repeat(words.starts[1:], words.counts)  # of the text of each word
        self._powers = _powers(_INVERSE, len(hashes))
        with np.errstate(over="ignore"):
            weighted = hashes * _powers(_BASE, len(hashes))
            self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weighted, dtype=np.uint64)])

    def hashes(self, length: int) -> NDArray[np.uint64]:
        """Return the hash of the n-gram that begins at each word, also of those that end in another text."""
        count = max(0, len(self._ends) - length + 1)
        return (self._sums[length:] - self._sums[:count]) * self._powers[:count]

    def inside(self, first: IntArray, length: int) -> IntArray:
        """Return those of the given first words whose n-gram ends in the same text."""
        return first[first + length <= self._ends[first]]


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        factors = np.full(count, base, np.uint64)
        factors[:1] = 1
        return np.cumprod(factors, dtype=np.uint64)


@dataclass(frozen=True)
class NgramMatches:
    """Rows of a batch that have n-grams in common with items."""

    rows: IntArray
    """Shape (M,), number of each matching row in the batch, ascending."""
    items: IntArray
    """Shape (M,), item with most of the n-grams of the row, the first of equals."""
    shared: IntArray
    """Shape (M,), number of places of the row at which an n-gram of that item begins."""
    covered: list[NDArray[np.bool_]]
    """Mask of the words of each row that are in a common n-gram of any item."""


class NgramIndex:
    """Index of the n-grams of evaluation items.

    It takes about 92 bytes for every word of the items, the words themselves included, and 167 while it is built.

    Args:
        texts: texts of the items.
        items: item of each text, ascending; an item may have several texts.
        length: words of an n-gram.
        min_words: minimum words of a text; shorter ones are left out. A text of fewer words than an n-gram matches as a
            whole.
    """

    def __init__(self, texts: Sequence[str], items: Sequence[int], length: int, min_words: int) -> None:
        self._words = words_of(pa.array(texts, pa.large_string()))
        counts = self._words.counts
        self.too_short = int((counts < min_words).sum())
        """Number of texts that are left out because they have too few words."""
        item_of_word = np.repeat(np.asarray(items, np.int64), counts)
        windows = Windows(self._words)
        self._parts: list[_Part] = []
        for size in sorted({length, *np.unique(counts[(counts >= min_words) & (counts < length)]).tolist()}):
            is_whole = counts == size
            hashes = windows.hashes(size)
            every = windows.inside(np.arange(len(hashes)), size)
            first = every if size == length else self._words.starts[:-1][is_whole]
            if len(first):
                self._parts.append(_Part(self._words.words, size, first, hashes[first], item_of_word[first]))

    def __bool__(self) -> bool:
        return bool(self._parts)

    def find(self, texts: pa.LargeStringArray) -> NgramMatches:
        """Find the rows of a batch of texts that have an n-gram in common with an item."""
        words = words_of(texts)
        windows = Windows(words)
        change = np.zeros(len(words.words) + 1, np.int32)
        first_words, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part in self._parts:
            position, item = part.find(words.words, windows)
            np.add.at(change, position, 1)
            np.add.at(change, position + part.length, -1)
            first_words.append(position)
            items.append(item)
        position, item = np.concatenate(first_words), np.concatenate(items)
        rows = np.searchsorted(words.starts, position, side="right") - 1
        pairs, shared = np.unique(np.stack([rows, item]), axis=1, return_counts=True)
        order = np.lexsort([pairs[1], -shared, pairs[0]])
        matching, best = np.unique(pairs[0][order], return_index=True)
        covered = np.cumsum(change[:-1]) > 0
        masks = [covered[words.starts[row] : words.starts[row + 1]] for row in matching.tolist()]
        return NgramMatches(matching, pairs[1][order][best], shared[order][best], masks)


class _Part:
    """N-grams of one length, sorted by hash."""

    def __init__(
        self, words: pl.Series, length: int, first: IntArray, hashes: NDArray[np.uint64], items: IntArray
    ) -> None:
        self.length = length
        self._words = words
        order = np.argsort(hashes, kind="stable")
        keep = ~self._repeats(first[order], hashes[order])
        order = order[keep]
        self._first, self._hashes, self._items = first[order], hashes[order], items[order]
        low, high = _TABLE_BITS
        bits = min(max(low, len(order).bit_length() + 4), high)
        self._shift = np.uint64(64 - bits)
        # Most n-grams of a corpus are in no item: one byte tells so, without a search.
        self._table = np.zeros(2**bits, np.bool_)
        self._table[self._hashes >> self._shift] = True

    def find(self, words: pl.Series, windows: Windows) -> tuple[IntArray, IntArray]:
        """Return the first words of the n-grams of a batch that the items have, and the first item with each."""
        all_hashes = windows.hashes(self.length)
        first = windows.inside(np.flatnonzero(self._table[all_hashes >> self._shift]), self.length)
        hashes = all_hashes[first]
        entry = np.searchsorted(self._hashes, hashes)
        first_words, items = [first[:0]], [first[:0]]
        while len(first):
            inside = entry < len(self._hashes)
            inside[inside] = self._hashes[entry[inside]] == hashes[inside]
            first, hashes, entry = first[inside], hashes[inside], entry[inside]
            same = _same_words(words, first, self._words, self._first[entry], self.length)
            first_words.append(first[same])
            items.append(self._items[entry[same]])
            # Different n-grams may have one hash.
            first, hashes, entry = first[~same], hashes[~same], entry[~same] + 1
        return np.concatenate(first_words), np.concatenate(items)

    def _repeats(self, first: IntArray, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Mask of the n-grams that repeat the first n-gram with their hash; sorted by hash."""
        is_new = np.ones(len(hashes), np.bool_)
        is_new[1:] = hashes[1:] != hashes[:-1]
        leader = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]
        later = np.flatnonzero(~is_new)
        repeats = np.zeros(len(hashes), np.bool_)
        repeats[later] = _same_words(self._words, first[later], self._words, first[leader[later]], self.length)
        return repeats


def _same_words(
    left: pl.Series, left_first: IntArray, right: pl.Series, right_first: IntArray, length: int
) -> NDArray[np.bool_]:
    """Whether n-grams, given by their first words, have the same words, shape (K,)."""
    same = np.ones(len(left_first), np.bool_)
    for offset in range(length):
        same &= (left.gather(left_first + offset) == right.gather(right_first + offset)).to_numpy()
    return same
