"""Words of a batch of texts as numbers, for the statistics of the quality presets.

Distinct pieces of text and distinct words are remembered with their properties, so that a text costs one look-up for
each of its pieces; everything else is arithmetic on arrays of a whole batch. Shapes: D texts, T words of all texts.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.preprocess.quality.pieces import EnglishTokenizer, readable
from data_pipeline.preprocess.quality.punctuation import PUNCTUATION
from data_pipeline.types import IntArray

_MAX_PIECES = 400_000  # remembered; about 150 MB
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Words of which a text in English has at least two (Gopher, table A1)."""


class PieceKinds(dict[str, str]):
    """Kinds of the tokens of pieces: E a mark that ends sentences, P other punctuation, W a word.

    A `?` is before those of a piece whose tokens may depend on its neighbours.
    """

    def __init__(self, table: "WordTable") -> None:
        super().__init__()
        self._table = table

    def __missing__(self, piece: str) -> str:
        self[piece] = kinds = self._table.kinds_of(piece)
        return kinds


class WordTable(dict[str, int]):
    """Pieces and words that were seen: maps each piece to its number, and makes one for a new piece.

    Args:
        tokenizer: tokenizer of the pieces.
    """

    def __init__(self, tokenizer: EnglishTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._word_numbers: dict[str, int] = {}
        self._forget()

    def _forget(self) -> None:
        self.clear()
        self._word_numbers.clear()
        self._words: list[str] = []
        self._word_kinds: list[str] = []
        self.kinds = PieceKinds(self)
        self._piece_words: list[int] = []
        self._piece_ends: list[int] = []
        self._piece_words_array = self._piece_ends_array = np.zeros(0, np.int32)
        self._special_pieces: set[int] = set()
        self._properties = WordProperties.of_words([])

    def __missing__(self, piece: str) -> int:
        tokens, is_special = self.tokenizer.tokenize(piece)
        number = self[piece] = len(self._piece_ends)
        self._piece_words += self._number_words(tokens)
        self._piece_ends.append(len(self._piece_words))
        if is_special:
            self._special_pieces.add(number)
        return number

    def _number_words(self, tokens: Sequence[str]) -> list[int]:
        known, words = self._word_numbers, self._words
        numbers = []
        for token in tokens:
            number = known.get(token)
            if number is None:
                number = known[token] = len(words)
                words.append(token)
            numbers.append(number)
        return numbers

    def kinds_of(self, piece: str) -> str:
        """Kinds of the tokens of a piece; see `PieceKinds`."""
        number = self[piece]
        mark = "?" if number in self._special_pieces else ""
        return mark + "".join(self._kind(self._words[word]) for word in self._words_of_piece(number))

    def _kind(self, word: str) -> str:
        if word in self.tokenizer.sentence_ends:
            return "E"
        return "P" if all(unicodedata.category(char)[0] == "P" for char in word) else "W"

    def read(self, texts: Sequence[str]) -> "Words":
        """Tokenize texts."""
        if len(self) > _MAX_PIECES:
            self._forget()
        with self.tokenizer.memory_zone():
            pieces: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
            piece_counts: list[int] = []
            joined: list[str] = []
            for text in texts:
                found = readable(text).split()
                piece_counts.append(len(found))
                pieces.append(np.fromiter(map(self.__getitem__, found), np.int32, len(found)))
                joined.append("".join(found))
            pieces_P = np.concatenate(pieces)
            numbers, counts = self._expand(pieces_P)
            edges = np.concatenate([[0], np.cumsum(piece_counts, dtype=np.int64)])
            bounds = np.concatenate([[0], np.cumsum(counts)])[edges]
            uncertain = self._uncertain_texts(pieces_P, edges)
            exact = [np.array(self._numbers_by_line(readable(texts[row])), np.int32) for row in uncertain]
        for row, words in zip(reversed(uncertain), reversed(exact), strict=True):
            start, stop = bounds[row : row + 2].tolist()
            numbers = np.concatenate([numbers[:start], words, numbers[stop:]])
            bounds[row + 1 :] += len(words) - (stop - start)
        new = WordProperties.of_words(self._words[len(self._properties.lengths) :])
        self._properties = self._properties.extended(new)
        return Words(self._words, self._properties, numbers, bounds, joined)

    def _expand(self, pieces_P: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Words of pieces, one after the other, and the number of words of each piece."""
        self._piece_ends_array = ends = _extended(self._piece_ends_array, self._piece_ends)
        self._piece_words_array = words = _extended(self._piece_words_array, self._piece_words)
        sizes = np.diff(ends, prepend=np.int32(0))
        counts = sizes[pieces_P]
        # All that lies between the end of a piece here and there is added to the positions of its words.
        shift = ends[pieces_P] - np.cumsum(counts, dtype=np.int32)
        total = int(counts.sum())
        index = np.repeat(shift, counts) + np.arange(total, dtype=np.int32)
        return words[index], counts

    def _uncertain_texts(self, pieces_P: NDArray[np.int32], edges: IntArray) -> list[int]:
        """Texts in which a neighbour may change how a piece with a special sequence is tokenized."""
        if not self._special_pieces:
            return []
        special = np.zeros(len(self), np.bool_)
        special[list(self._special_pieces)] = True
        positions = np.flatnonzero(special[pieces_P]).tolist()
        neighbours = ((position, pieces_P[max(0, position - 1) : position + 2].tolist()) for position in positions)
        uncertain = [position for position, pieces in neighbours if sum(map(self._may_join, pieces)) > 1]
        return np.unique(np.searchsorted(edges, uncertain, side="right") - 1).tolist()

    def is_uncertain(self, pieces: Sequence[str]) -> bool:
        """Whether a piece of a text may be tokenized in another way because of a neighbour."""
        numbers = np.fromiter(map(self.__getitem__, pieces), np.int32, len(pieces))
        return bool(self._uncertain_texts(numbers, np.array([0, len(pieces)])))

    def _may_join(self, number: int) -> bool:
        words = self._words_of_piece(number)
        borders = (self._words[words[0]], self._words[words[-1]])
        return number in self._special_pieces or any(map(self.tokenizer.may_join, borders))

    def _numbers_by_line(self, text: str) -> list[int]:
        """Words of a text, of which spaCy reads whole lines where pieces may depend on each other.

        The end of a line is a token of its own, which no special case has.
        """
        numbers: list[int] = []
        waiting: list[int] = []
        for line in text.split("\n"):
            pieces = list(map(self.__getitem__, line.split()))
            if self._special_pieces.isdisjoint(pieces):
                waiting += pieces
            else:
                numbers += self._expand(np.array(waiting, np.int32))[0].tolist()
                numbers += self._number_words(self.tokenizer.words(line))
                waiting = []
        return numbers + self._expand(np.array(waiting, np.int32))[0].tolist()

    def _words_of_piece(self, number: int) -> list[int]:
        return self._piece_words[self._piece_ends[number - 1] if number else 0 : self._piece_ends[number]]


def _extended(array: NDArray[np.int32], values: list[int]) -> NDArray[np.int32]:
    """Array of all values, of which it has the first ones."""
    return array if len(array) == len(values) else np.concatenate([array, np.array(values[len(array) :], np.int32)])


@dataclass(frozen=True)
class WordProperties:
    """Properties of V different words."""

    lengths: NDArray[np.int32]
    """Length in characters, shape (V,)."""
    bytes: NDArray[np.int32]
    """Length in UTF-8, shape (V,)."""
    has_text: NDArray[np.bool_]
    """Whether a word has a character that is no punctuation, shape (V,)."""
    has_letter: NDArray[np.bool_]
    """Whether a word has a letter, shape (V,)."""
    stop_words: NDArray[np.uint8]
    """A bit for each stop word, shape (V,)."""
    hashes: NDArray[np.uint64]
    """Hash of the characters, shape (V,)."""

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "WordProperties":
        """Compute the properties of words."""
        lengths = np.array([len(word) for word in words], np.int32)
        return cls(
            lengths,
            np.array([len(word.encode("utf-8", "surrogatepass")) for word in words], np.int32),
            np.array([not PUNCTUATION.issuperset(word) for word in words], np.bool_),
            np.array([word.isalpha() or any(map(str.isalpha, word)) for word in words], np.bool_),
            np.array([1 << STOP_WORDS.index(word) if word in STOP_WORDS else 0 for word in words], np.uint8),
            _hashes(words, lengths),
        )

    def extended(self, other: "WordProperties") -> "WordProperties":
        """Properties of these words and of others behind them."""
        if not len(other.lengths):
            return self
        return WordProperties(
            *(np.concatenate([getattr(part, field.name) for part in (self, other)]) for field in fields(self))
        )


BASE = 0x9E3779B97F4A7C15
"""Base of the hashes of words, odd."""


def powers(base: int, count: int) -> NDArray[np.uint64]:
    """Powers of a base from 0 on, modulo 2^64, shape (count,)."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def _hashes(words: Sequence[str], lengths: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Polynomial hash of each word: the sum of its characters times the powers of `BASE`, modulo 2^64."""
    if not words:
        return np.zeros(0, np.uint64)
    chars = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    starts = np.cumsum(lengths) - lengths
    position = np.arange(len(chars)) - np.repeat(starts, lengths)
    return np.add.reduceat((chars + np.uint64(1)) * powers(BASE, int(lengths.max()))[position], starts)


@dataclass(frozen=True)
class Words:
    """Words of a batch of texts."""

    vocabulary: Sequence[str]
    """Different words; others than those of these texts may be among them."""
    properties: WordProperties
    """Properties of the words of the vocabulary."""
    numbers: NDArray[np.int32]
    """Words of all texts, as positions in the vocabulary, shape (T,)."""
    bounds: IntArray
    """First word of each text, and the number of all words, shape (D + 1,)."""
    joined_texts: Sequence[str]
    """Words of each text without white space between them."""

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def of_text(self, text: int) -> list[str]:
        """Words of one text."""
        numbers = self.numbers[self.bounds[text] : self.bounds[text + 1]].tolist()
        return [self.vocabulary[number] for number in numbers]

    def select(self, texts: IntArray) -> "Words":
        """Words of some of the texts, in their order."""
        counts = self.word_counts[texts]
        bounds = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.bounds[texts] - bounds[:-1], counts) + np.arange(bounds[-1])
        return Words(
            self.vocabulary, self.properties, self.numbers[index], bounds, [self.joined_texts[text] for text in texts]
        )

    @cached_property
    def word_counts(self) -> IntArray:
        """Number of words of each text, shape (D,)."""
        return np.diff(self.bounds)

    @cached_property
    def word_lengths(self) -> NDArray[np.int32]:
        """Length of each word in characters, shape (T,)."""
        return self.properties.lengths[self.numbers]

    def sum_by_text(self, values_T: NDArray[Any]) -> IntArray:
        """Sum of a value of the words of each text, shape (D,)."""
        return np.diff(np.concatenate([[0], np.cumsum(values_T, dtype=np.int64)])[self.bounds])
