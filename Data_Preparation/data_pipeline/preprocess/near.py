"""Near duplicates: MinHash over word 5-grams finds candidates, and exact Jaccard similarity decides.

In scripts without spaces between words, the 5-grams are of characters (see `utils.words`).
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from data_pipeline.utils.words import split_words

_SHINGLE_WORDS = 5
_PERMUTATIONS = 128
_SEED = 1
_RECALL = 0.99
_BATCH_TEXTS = 8192
_PREFIX_BITS = 24
_PREFIX_SHIFT = np.uint64(64 - _PREFIX_BITS)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str) -> set[str]:
    """Set of all sequences of 5 words of a text in lower case; a shorter text is one sequence."""
    return set(_shingles(text))


def _shingles(text: str) -> list[str]:
    words = split_words(text.lower())
    if len(words) <= _SHINGLE_WORDS:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[start:] for start in range(_SHINGLE_WORDS)), strict=False)))


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
    # A MinHash does not change if tokens repeat.
    sketches = RMinHash.digest_matrix_from_token_sets([_shingles(text) for text in texts], _PERMUTATIONS, _SEED)
    values = b"".join([array("I", row).tobytes() for row in sketches.to_rows()])
    digests = np.frombuffer(values, np.uint32).astype(np.uint64).reshape(len(texts), bands, rows)
    keys = np.tile(np.arange(1, bands + 1, dtype=np.uint64), (len(texts), 1))
    for position in range(rows):
        keys = (keys ^ digests[:, :, position]) * _MIX
        keys ^= keys >> np.uint64(32)
    return np.minimum(keys, np.uint64((1 << 64) - 2))


class NearIndex:
    """Index of texts that finds near duplicates; about 400 bytes for each text, beside the text, and 16 MB.

    Args:
        threshold: minimum Jaccard similarity of the 5-word shingles of near duplicates, above 0, up to 1.
        texts: the texts.
    """

    def __init__(self, threshold: float, texts: Sequence[str]) -> None:
        self._threshold, self._texts = threshold, texts
        starts = range(0, max(1, len(texts)), _BATCH_TEXTS)
        keys = np.concatenate([bucket_keys(texts[start : start + _BATCH_TEXTS], threshold) for start in starts])
        order = np.argsort(keys.ravel(), kind="stable")
        self._keys, self._owners = keys.ravel()[order], order // keys.shape[1]
        self._has_prefix = np.zeros(1 << _PREFIX_BITS, np.bool_)  # most keys of other texts have a prefix of their own
        self._has_prefix[self._keys >> _PREFIX_SHIFT] = True

    def matches(self, texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
        """Yield all pairs of a text and one of the index that are near duplicates: positions, and similarity."""
        keys = bucket_keys(texts, self._threshold)
        positions, bands = np.nonzero(self._has_prefix[keys >> _PREFIX_SHIFT])
        first, last = (np.searchsorted(self._keys, keys[positions, bands], side) for side in ("left", "right"))
        is_shared = first < last
        spans = zip(positions[is_shared].tolist(), first[is_shared].tolist(), last[is_shared].tolist(), strict=True)
        for position, group in groupby(spans, key=itemgetter(0)):
            candidates = np.unique(np.concatenate([self._owners[start:end] for _, start, end in group]))
            own = shingles(texts[position])
            for candidate in candidates.tolist():
                similarity = jaccard(own, shingles(self._texts[candidate]))
                if similarity >= self._threshold:
                    yield position, candidate, similarity

    def nearest(self, texts: Sequence[str]) -> dict[int, tuple[int, float]]:
        """Find the most similar near duplicate in the index of each text that has one, the first of equals.

        Returns:
            Position in the index, and similarity, by the position of the text.
        """
        best: dict[int, tuple[int, float]] = {}
        for position, candidate, similarity in self.matches(texts):
            if position not in best or similarity > best[position][1]:
                best[position] = (candidate, similarity)
        return best


def _rows_per_band(threshold: float) -> int:
    """Maximum number of rows of a band with which 99 % of the pairs at the threshold are found."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1
