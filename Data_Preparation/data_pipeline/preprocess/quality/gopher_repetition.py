"""Repetition rules of Gopher (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1) with datatrove's decisions.

Most texts repeat little. Upper bounds of what they repeat are computed for a whole batch with arrays, and only texts
whose bound exceeds a limit are counted one by one. Bounds may be too high, so that no decision depends on a hash.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from data_pipeline.preprocess.quality.batch import Reasons, TextBatch
from data_pipeline.preprocess.quality.words import BASE, Words, powers
from data_pipeline.types import IntArray

_MAX_LINES = 0.3
_MAX_LINE_CHARS = 0.2
_MAX_TOP = {2: 0.2, 3: 0.18, 4: 0.16}
_MAX_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}

_PARAGRAPH_ENDS = re.compile(r"\n{2,}")
_SELECTION_BITS = 18
_INVERSE_BASE = pow(BASE, -1, 2**64)


def gopher_repetition(batch: TextBatch) -> Reasons:
    """Reasons to drop texts that repeat lines, paragraphs or sequences of 2 to 10 words."""
    reasons: Reasons = [_lines_reason(text) for text in batch.texts]
    rows = [row for row, reason in enumerate(reasons) if reason is None]
    if not rows:
        return reasons
    part = batch if len(rows) == len(reasons) else batch.select(rows)
    words = part.words
    sizes = np.array([len(text) for text in part.texts], np.float64)
    suspects, most = _suspect_sizes(words, sizes)
    for index, row in enumerate(rows):
        if not suspects[index]:
            continue
        if most[index] <= 1 and suspects[index][0] in _MAX_TOP:  # then the bound is the exact length
            reasons[row] = f"top_{suspects[index][0]}_gram"
        else:
            reasons[row] = words_reason(words.of_text(index), len(part.texts[index]), suspects[index])
    return reasons


def _lines_reason(text: str) -> str | None:
    if not text:
        return "empty"
    if "\n" not in text:
        return None
    for name, parts in (("paragraph", _paragraphs(text.strip())), ("line", _lines(text))):
        repeats, chars = count_repeats(parts)
        if repeats / len(parts) > _MAX_LINES:
            return f"duplicate_{name}s"
        if chars / len(text) > _MAX_LINE_CHARS:
            return f"duplicate_{name}_chars"
    return None


def _paragraphs(text: str) -> list[str]:
    return _PARAGRAPH_ENDS.split(text) if "\n\n\n" in text else text.split("\n\n")


def _lines(text: str) -> list[str]:
    """Lines that are not empty, and one empty line for all line ends at the start, and at the end, of the text."""
    lines = [line for line in text.split("\n") if line]
    return [*([""] if text.startswith("\n") else []), *lines, *([""] if text.endswith("\n") else [])]


def count_repeats(parts: Sequence[str]) -> tuple[int, int]:
    """Number of parts that repeat an earlier one, and the number of their characters."""
    seen: set[str] = set()
    repeats = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(repeats), sum(map(len, repeats))


def words_reason(words: Sequence[str], chars: int, sizes: Sequence[int]) -> str | None:
    """Reason to drop a text by its words, counted exactly.

    Args:
        words: words of the text.
        chars: length of the text in characters.
        sizes: numbers of words of the sequences to count, 2 to 10, ascending.
    """
    starts = [0, *accumulate(map(len, words))]
    text = "".join(words)
    for n in sizes:
        if n in _MAX_TOP:
            grams = list(zip(*(words[start:] for start in range(n)), strict=False))
            # The first of the most frequent ones; it counts also if every one occurs once.
            gram, count = Counter(grams).most_common(1)[0]
            if (sum(map(len, gram)) + n - 1) * count / chars > _MAX_TOP[n]:
                return f"top_{n}_gram"
        elif _repeated_chars(text, starts, n) / chars > _MAX_REPEATED[n]:
            return f"duplicate_{n}_grams"
    return None


def _repeated_chars(text: str, starts: Sequence[int], n: int) -> int:
    """Characters of sequences of n words that repeat an earlier one, without overlaps, from the left.

    Sequences are compared without the spaces between their words, as datatrove does.
    """
    seen: set[str] = set()
    chars = first = 0
    while first + n < len(starts):
        gram = text[starts[first] : starts[first + n]]
        if gram in seen:
            chars += len(gram)
            first += n
        else:
            seen.add(gram)
            first += 1
    return chars


def _suspect_sizes(words: Words, chars_D: NDArray[np.float64]) -> tuple[list[list[int]], list[int]]:
    """Numbers n of words for which the bound of a text exceeds its limit, and how often its pairs occur at most."""
    text_T = np.repeat(np.arange(len(words), dtype=np.int32), words.word_counts)
    ends = np.concatenate([[0], np.cumsum(words.word_lengths, dtype=np.int64)])
    suspects: list[list[int]] = [[] for _ in range(len(words))]

    def add(n: int, bound_D: IntArray, limit: float) -> None:
        for row in np.flatnonzero(bound_D / chars_D > limit).tolist():
            suspects[row].append(n)

    most = _most_frequent_pair(words, text_T)
    for n, limit in _MAX_TOP.items():
        first = _starts_of_sequences(text_T, n)
        # A longer sequence is no more frequent than the pairs in it.
        add(
            n, _longest_relevant(words, first, ends[first + n] - ends[first] + n - 1, text_T[first], most) * most, limit
        )
    keys = _SequenceKeys(words, text_T, ends)
    possible = _possible_repeats(words, text_T)
    for n, limit in _MAX_REPEATED.items():
        add(n, _repeated_chars_bound(words, text_T, keys, possible, n), limit)
    return suspects, most.tolist()


def _longest_relevant(
    words: Words, first: IntArray, sizes: IntArray, text: NDArray[np.int32], most: IntArray
) -> IntArray:
    """Length of the longest sequence of each text, or of the first one where no pair occurs twice, shape (D,)."""
    longest = np.zeros(len(words), np.int64)
    if len(first):
        starts = np.flatnonzero(np.diff(text, prepend=-1))
        longest[text[starts]] = np.where(most[text[starts]] > 1, np.maximum.reduceat(sizes, starts), sizes[starts])
    return longest


def _starts_of_sequences(text_T: NDArray[np.int32], n: int) -> IntArray:
    """First words of all sequences of n words that are in one text."""
    return np.flatnonzero(text_T[: max(0, len(text_T) - n + 1)] == text_T[n - 1 :])


def _most_frequent_pair(words: Words, text_T: NDArray[np.int32]) -> IntArray:
    """Occurrences of the most frequent pair of words of each text, shape (D,)."""
    most = np.zeros(len(words), np.int64)
    first = _starts_of_sequences(text_T, 2)
    if not len(first):
        return most
    numbers = words.numbers.astype(np.uint64)
    shift = np.uint64(len(words.vocabulary).bit_length())
    pairs = (text_T[first].astype(np.uint64) << shift | numbers[first]) << shift | numbers[first + 1]
    pairs.sort()
    runs = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    counts = np.diff(runs, append=len(pairs))
    text = (pairs[runs] >> shift >> shift).astype(np.int64)
    starts = np.flatnonzero(np.diff(text, prepend=-1))
    most[text[starts]] = np.maximum.reduceat(counts, starts)
    return most


class _SequenceKeys:
    """Hashes of the characters of sequences of words, by sums of powers of `BASE` modulo 2^64.

    Args:
        words: words of D texts.
        text_T: text of each word.
        ends: characters before each word and after all of them, shape (T + 1,).
    """

    def __init__(self, words: Words, text_T: NDArray[np.int32], ends: IntArray) -> None:
        position = ends[:-1] - ends[words.bounds[text_T]]
        longest = int(position.max(initial=0)) + 1
        self._inverse = powers(_INVERSE_BASE, longest)[position]
        sums = np.cumsum(words.properties.hashes[words.numbers] * powers(BASE, longest)[position], dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), sums])
        self._text_key = _text_keys(text_T)

    def of_sequences(self, first: IntArray, n: int) -> NDArray[np.uint64]:
        """Keys of sequences of n words, equal where text and characters are equal."""
        return (self._sums[first + n] - self._sums[first]) * self._inverse[first] + self._text_key[first]


def _text_keys(text_T: NDArray[np.int32]) -> NDArray[np.uint64]:
    return text_T.astype(np.uint64) * np.uint64(0xD1342543DE82EF95)


def _possible_repeats(words: Words, text_T: NDArray[np.int32]) -> IntArray:
    """Words from which a sequence of 5 or more words may repeat another one of the same text, ascending.

    Sequences of the same characters have the same first 16 bytes, or are shorter.
    """
    bytes_T = words.properties.bytes[words.numbers]
    ends = np.cumsum(bytes_T, dtype=np.int64)
    starts = ends - bytes_T
    content = "".join(words.joined_texts).encode("utf-8", "surrogatepass") + bytes(16)
    # The 8 bytes from every position on, without a copy.
    eight = np.ndarray((len(content) - 7,), "<u8", content, strides=(1,))
    keys = (eight[starts] * np.uint64(BASE) ^ eight[starts + 8]) * np.uint64(BASE) + _text_keys(text_T)
    first = _starts_of_sequences(text_T, min(_MAX_REPEATED))
    is_short = ends[first + min(_MAX_REPEATED) - 1] - starts[first] < 16
    keys = keys[first]
    return first[_is_repeated(keys) | is_short]


def _is_repeated(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each key occurs twice; a few that occur once are among them."""
    ordered = np.sort(keys)
    shift = np.uint64(64 - _SELECTION_BITS)
    selected = np.zeros(1 << _SELECTION_BITS, np.bool_)
    selected[ordered[1:][ordered[1:] == ordered[:-1]] >> shift] = True
    return selected[keys >> shift]


def _repeated_chars_bound(
    words: Words, text_T: NDArray[np.int32], keys: _SequenceKeys, first: IntArray, n: int
) -> IntArray:
    """Characters of each text in sequences of n words that repeat an earlier one, shape (D,).

    Args:
        words: words of D texts.
        text_T: text of each word.
        keys: keys of sequences.
        first: words at which such sequences may start, ascending.
        n: number of words of a sequence.
    """
    first = first[first + n <= len(text_T)]
    first = first[text_T[first] == text_T[first + n - 1]]
    values = keys.of_sequences(first, n)
    is_repeated = _is_repeated(values)
    first, values = first[is_repeated], values[is_repeated]
    order = np.argsort(values, kind="stable")
    later = first[order[1:][values[order[1:]] == values[order[:-1]]]]
    bound = np.zeros(len(words), np.int64)
    if len(later):
        # Words that at least one of the sequences covers.
        change = np.bincount(later, minlength=len(text_T) + 1) - np.bincount(later + n, minlength=len(text_T) + 1)
        covered = np.flatnonzero(np.cumsum(change)[:-1])
        np.add.at(bound, text_T[covered], words.word_lengths[covered])
    return bound
