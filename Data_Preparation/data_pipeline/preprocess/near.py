"""Near duplicates: MinHash over word 5-grams finds candidates, and exact Jaccard similarity decides.

In scripts without spaces between words, the 5-grams are of characters (see `utils.words`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashLSH

from data_pipeline.utils.words import split_words

_SHINGLE_WORDS = 5
_PERMUTATIONS = 128
_SEED = 1
_RECALL = 0.99
_MIX = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str) -> set[str]:
    """Set of all sequences of 5 words of a text in lower case; a shorter text is one sequence."""
    words = split_words(text.lower())
    if len(words) <= _SHINGLE_WORDS:
        return {" ".join(words)}
    return set(map(" ".join, zip(*(words[start:] for start in range(_SHINGLE_WORDS)), strict=False)))


def jaccard(left: set[str], right: set[str]) -> float:
    """Jaccard similarity of two sets, 0 to 1."""
    return len(left & right) / len(left | right)


def bucket_keys(texts: Sequence[str], threshold: float) -> NDArray[np.uint64]:
    """Return the buckets of each text, shape (N, number of bands).

    Of two near duplicates, 99 % or more share a bucket. No key is the largest number of 64 bits.

    Args:
        texts: texts.
        threshold: see `NearIndex`.
    """
    rows = _rows_per_band(threshold)
    bands = _PERMUTATIONS // rows
    if not texts:
        return np.zeros((0, bands), np.uint64)
    sketches = RMinHash.digest_matrix_from_token_sets([list(shingles(text)) for text in texts], _PERMUTATIONS, _SEED)
    digests = np.array(sketches.to_rows(), np.uint64).reshape(len(texts), bands, rows)
    keys = np.tile(np.arange(1, bands + 1, dtype=np.uint64), (len(texts), 1))
    for position in range(rows):
        keys = (keys ^ digests[:, :, position]) * _MIX
        keys ^= keys >> np.uint64(32)
    return np.minimum(keys, np.uint64((1 << 64) - 2))


class NearIndex:
    """Index of texts that finds near duplicates.

    It needs about 3.4 kB of memory for each text (measured on 975,000); the texts themselves are not stored.

    Args:
        threshold: minimum Jaccard similarity of the 5-word shingles of near duplicates, above 0, up to 1.
        text_of: returns the text that was added with a key.
    """

    def __init__(self, threshold: float, text_of: Callable[[int], str]) -> None:
        self._threshold, self._text_of = threshold, text_of
        self._lsh = RMinHashLSH(threshold, _PERMUTATIONS, _PERMUTATIONS // _rows_per_band(threshold))

    def add(self, key: int, text: str) -> None:
        """Add a text."""
        self._lsh.insert(key, _sketch(shingles(text)))

    def matches(self, text: str) -> list[int]:
        """Keys of all near duplicates of a text."""
        own = shingles(text)
        return [key for key in self._lsh.query(_sketch(own)) if self._similarity(own, key) >= self._threshold]

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Key of the most similar near duplicate of a text, the lowest of equals, and their similarity."""
        own = shingles(text)
        return self._find_nearest(own, _sketch(own))

    def _find_nearest(self, own: set[str], sketch: RMinHash) -> tuple[int, float] | None:
        scored = [(self._similarity(own, key), -key) for key in self._lsh.query(sketch)]
        similarity, negative_key = max(scored, default=(0.0, 0))
        return (-negative_key, similarity) if similarity >= self._threshold else None

    def _similarity(self, own: set[str], key: int) -> float:
        return jaccard(own, shingles(self._text_of(key)))


def _sketch(tokens: set[str]) -> RMinHash:
    sketch = RMinHash(_PERMUTATIONS, _SEED)
    sketch.update(list(tokens))
    return sketch


def _rows_per_band(threshold: float) -> int:
    """Maximum number of rows of a band with which 99 % of the pairs at the threshold are found."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1
