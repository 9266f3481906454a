"""Near duplicates: MinHash over word 5-grams finds candidates, and exact Jaccard similarity decides.

In scripts without spaces between words, the 5-grams are of characters (see `utils.words`).
"""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from data_pipeline.utils.words import split_words

SHINGLE_WORDS = 5
"""Words of a shingle."""

_PERMUTATIONS = 128
_SEED = 1
_RECALL = 0.99
_MIX = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str) -> set[str]:
    """Set of all sequences of 5 words of a text in lower case; a shorter text is one sequence."""
    return set(_shingles(text))


def _shingles(text: str) -> list[str]:
    words = split_words(text.lower())
    if len(words) <= SHINGLE_WORDS:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[start:] for start in range(SHINGLE_WORDS)), strict=False)))


def jaccard(left: set[str], right: set[str]) -> float:
    """Jaccard similarity of two sets, 0 to 1."""
    return len(left & right) / len(left | right)


def bucket_keys(texts: Sequence[str], threshold: float) -> NDArray[np.uint64]:
    """Return the buckets of each text, shape (N, number of bands).

    Of two near duplicates, 99 % or more share a bucket. No key is the largest number of 64 bits.

    Args:
        texts: texts.
        threshold: minimum Jaccard similarity of near duplicates, above 0, up to 1.
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


def _rows_per_band(threshold: float) -> int:
    """Maximum number of rows of a band with which 99 % of the pairs at the threshold are found."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1
