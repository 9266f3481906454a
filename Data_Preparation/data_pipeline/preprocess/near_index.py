"""Near duplicates of texts that are in memory, among any number of other texts: all of them are found.

A near duplicate of a text with n shingles has t n of them or more (t: threshold), so of any n - t n / 2 it has t n / 2
or more (prefix filter of Chaudhuri, Ganti & Kaushik, A Primitive Operator for Similarity Joins in Data Cleaning, ICDE
2006). Of each text those shingles are looked up that the fewest others have, and what has enough of them is compared.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, pairwise
from operator import itemgetter

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.preprocess.near import SHINGLE_WORDS, jaccard, shingles
from data_pipeline.preprocess.staging import hashes_of
from data_pipeline.types import IntArray
from data_pipeline.utils.words import split_words

_BATCH_TEXTS = 4096
_PREFIX_BITS = 24
_PREFIX_SHIFT = np.uint64(64 - _PREFIX_BITS)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ROUNDING = 1e-9
_PART_HITS = 4_000_000  # counted at a time, which takes 40 bytes for each


class NearIndex:
    """Index of texts that finds near duplicates; 12 bytes for half of the shingles, beside the texts, and 16 MB.

    Args:
        threshold: minimum Jaccard similarity of the 5-word shingles of near duplicates, above 0, up to 1.
        texts: the texts.
    """

    def __init__(self, threshold: float, texts: Sequence[str]) -> None:
        self._threshold, self._texts = threshold, texts
        keys, owners = _distinct(texts)
        _, group, sharers = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.lexsort((keys, sharers[group], owners))
        keys, owners = keys[order], owners[order]
        sizes = np.bincount(owners, minlength=len(texts))
        common = np.ceil(threshold * sizes - _ROUNDING).astype(np.int64)
        self._shared = -(-common // 2)
        looked_up = sizes - common + self._shared
        starts = np.cumsum(sizes) - sizes
        is_looked_up = np.arange(len(keys)) - starts[owners] < looked_up[owners]
        keys, owners = keys[is_looked_up], owners[is_looked_up]
        order = np.argsort(keys, kind="stable")
        self._keys, self._owners = keys[order], owners[order].astype(np.int32)
        self._has_prefix = np.zeros(1 << _PREFIX_BITS, np.bool_)  # most shingles of other texts have another prefix
        self._has_prefix[self._keys >> _PREFIX_SHIFT] = True

    def matches(self, texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
        """Yield all pairs of a text and one of the index that are near duplicates: positions, and similarity."""
        for found, candidates in self._candidates(*shingle_hashes(texts)):
            compared = zip(found.tolist(), candidates.tolist(), strict=True)
            for position, group in groupby(compared, key=itemgetter(0)):
                own = shingles(texts[position])
                for _, candidate in group:
                    similarity = jaccard(own, shingles(self._texts[candidate]))
                    if similarity >= self._threshold:
                        yield position, candidate, similarity

    def _candidates(self, keys: NDArray[np.uint64], positions: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Texts, and those of the index that have enough shingles in common with them, in order, in parts."""
        is_possible = self._has_prefix[keys >> _PREFIX_SHIFT]
        keys, positions = keys[is_possible], positions[is_possible]
        order = np.argsort(keys)  # since a search in order is several times as fast
        first, last = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
        first[order], last[order] = (np.searchsorted(self._keys, keys[order], side) for side in ("left", "right"))
        is_shared = first < last
        positions, first, counts = positions[is_shared], first[is_shared], (last - first)[is_shared]
        of_texts = np.unique(positions, return_index=True)[1] if len(positions) else positions
        hits = np.add.reduceat(counts, of_texts) if len(positions) else counts
        part = np.cumsum(hits) // _PART_HITS
        bounds = [*of_texts[np.flatnonzero(np.diff(part, prepend=-1))].tolist(), len(positions)]
        for start, end in pairwise(bounds):
            yield self._shared_enough(positions[start:end], first[start:end], counts[start:end])

    def _shared_enough(self, positions: IntArray, first: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
        owners = self._owners[np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)]
        pairs, shared = np.unique(np.repeat(positions, counts) * len(self._texts) + owners, return_counts=True)
        found, candidates = np.divmod(pairs, len(self._texts))
        has_enough = shared >= self._shared[candidates]
        return found[has_enough], candidates[has_enough]

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


def shingle_hashes(texts: Sequence[str]) -> tuple[NDArray[np.uint64], IntArray]:
    """Compute hashes of the shingles of texts (see `near.shingles`), with repeats.

    Returns:
        Hashes, equal for equal shingles within one process, and the position of the text of each, shape (N,).
    """
    words = [split_words(text.lower()) or [""] for text in texts]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    own = hashes_of(pl.Series(list(chain.from_iterable(words)), dtype=pl.String))
    own = np.concatenate([own, np.zeros(SHINGLE_WORDS, np.uint64)])
    shingle_counts = np.maximum(1, counts - SHINGLE_WORDS + 1)
    positions = np.repeat(np.arange(len(words)), shingle_counts)
    starts = np.cumsum(counts) - counts
    at = np.arange(len(positions)) - np.repeat(np.cumsum(shingle_counts) - shingle_counts - starts, shingle_counts)
    lengths = np.repeat(np.minimum(counts, SHINGLE_WORDS), shingle_counts)
    hashes = own[at]
    for word in range(1, SHINGLE_WORDS):
        hashes = np.where(word < lengths, (hashes * _MIX) ^ own[at + word], hashes)
    hashes = (hashes ^ (hashes >> np.uint64(32))) * _MIX
    return hashes, positions


def _distinct(texts: Sequence[str]) -> tuple[NDArray[np.uint64], IntArray]:
    """Hashes of the different shingles of each text, and the position of the text of each, in order of the texts."""
    all_keys, all_owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _BATCH_TEXTS):
        keys, owners = shingle_hashes(texts[start : start + _BATCH_TEXTS])
        order = np.lexsort((keys, owners))
        keys, owners = keys[order], owners[order]
        is_first = np.ones(len(keys), np.bool_)
        is_first[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
        all_keys.append(keys[is_first])
        all_owners.append(owners[is_first] + start)
    return np.concatenate(all_keys), np.concatenate(all_owners)
