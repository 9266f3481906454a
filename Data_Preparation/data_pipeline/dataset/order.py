"""The order of an epoch, computed where it is needed instead of stored.

A shuffled order is a permutation that can be asked for any part of itself: position p of the epoch
holds row order(p). So nothing is kept in memory, going on in the middle of an epoch costs nothing,
and any number of processes agree on it by (seed, epoch) alone.

The permutation is a Feistel network over the smallest power of two that holds all rows; positions
that it sends beyond the last row are sent on until they are rows (Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002).
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import IntArray

Shuffle = Literal[False, "full", "block"]
_Words = NDArray[np.uint64]

_ROUNDS = 6
_LEAST_BITS = 10  # with fewer there are too few round functions to choose from
_SERIAL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def permuted(positions: IntArray, rows: int, key: tuple[int, ...]) -> IntArray:
    """Rows at some positions of a permutation of 0 .. rows - 1.

    Args:
        positions: shape (N,), each from 0 to below `rows`.
        rows: length of the permutation, up to 2^62.
        key: non-negative numbers; each key has its own permutation.

    Returns:
        Shape (N,).
    """
    text = repr(tuple(int(part) for part in key)).encode()
    keys = np.frombuffer(hashlib.shake_256(text).digest(8 * _ROUNDS), "<u8").astype(np.uint64)
    if rows <= 1 << _LEAST_BITS:  # few: those of all that are rows, without the long way through all others
        everything = _feistel(np.arange(1 << _LEAST_BITS, dtype=np.uint64), _LEAST_BITS, keys)
        return everything[everything < rows].astype(np.int64)[positions]
    bits = int(rows - 1).bit_length()
    values = _feistel(positions.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(values >= rows)
    while len(outside):
        moved = _feistel(values[outside], bits, keys)
        values[outside] = moved
        outside = outside[moved >= rows]
    return values.astype(np.int64)


@dataclass(frozen=True)
class Order:
    """Which row is where in an epoch.

    Args:
        rows: of the data set.
        shuffle: `full`, every order is equally likely in principle; `block`, runs of `block_rows`
            neighbouring rows are shuffled, and the rows of `window_blocks` such runs are mixed; False,
            as they are.
        seed: 0 or more.
        block_rows: neighbouring rows that are read at once.
        window_blocks: runs that are mixed.
    """

    rows: int
    shuffle: Shuffle = "full"
    seed: int = 0
    block_rows: int = 256
    window_blocks: int = 64

    @property
    def window_rows(self) -> int:
        """Rows that are mixed with each other; only these need to be in memory."""
        return self.block_rows * self.window_blocks

    def rows_at(self, positions: IntArray, epoch: int) -> IntArray:
        """Rows at some positions of an epoch; positions of shape (N,), from 0 to below `rows`."""
        if not self.shuffle or self.rows < 2:
            return positions
        if self.shuffle == "full":
            return permuted(positions, self.rows, (self.seed, epoch))
        return self._in_blocks(positions, epoch)

    def windows(self) -> int:
        """How many windows an epoch has."""
        return max(1, self.rows // self.block_rows // self.window_blocks)

    def window_of(self, position: int) -> int:
        """The window of a position; the last one takes what is left over."""
        return min(position // self.window_rows, self.windows() - 1)

    def window_starts(self, window: int, epoch: int) -> IntArray:
        """First rows of the runs of a window, in ascending order; a last, shorter run included."""
        blocks, first = self.rows // self.block_rows, window * self.window_blocks
        is_last = window == self.windows() - 1
        last = blocks if is_last else first + self.window_blocks
        found = permuted(np.arange(first, last), blocks, (self.seed, epoch)) if blocks else np.zeros(0, np.int64)
        if is_last and self.rows % self.block_rows:
            found = np.append(found, blocks)
        return np.sort(found * self.block_rows)

    def _in_blocks(self, positions: IntArray, epoch: int) -> IntArray:
        found = np.empty(len(positions), np.int64)
        blocks = self.rows // self.block_rows
        places = np.minimum(positions // self.window_rows, self.windows() - 1)
        for window in np.unique(places).tolist():
            here = places == window
            start = window * self.window_rows
            size = (self.rows if window == self.windows() - 1 else start + self.window_rows) - start
            within = permuted(positions[here] - start, size, (self.seed, epoch, window))
            block, row = np.divmod(within, self.block_rows)
            block += window * self.window_blocks
            # Rows after the last whole block stay with the last window.
            whole = block < blocks
            if whole.any():
                block[whole] = permuted(block[whole], blocks, (self.seed, epoch))
            found[here] = block * self.block_rows + row
        return found

    def to_json(self) -> dict[str, Any]:
        """What decides the order, for a checkpoint."""
        found: dict[str, Any] = {"rows": int(self.rows), "shuffle": self.shuffle}
        if self.shuffle:
            found["seed"] = int(self.seed)
        if self.shuffle == "block":
            found |= {"block_rows": self.block_rows, "window_blocks": self.window_blocks}
        return found


def _feistel(values: _Words, bits: int, keys: _Words) -> _Words:
    """One pass of the network over `bits` bits; the halves may differ by one bit."""
    low = bits // 2
    high = bits - low
    left, right = values >> np.uint64(low), values & np.uint64((1 << low) - 1)
    for key in keys:
        # The halves change places, and so do their widths.
        left, right = right, left ^ (_mixed(right ^ key) >> np.uint64(64 - high))
        low, high = high, low
    return (left << np.uint64(low)) | right


def _mixed(words: _Words) -> _Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    words = words + _SERIAL[0]
    words = (words ^ (words >> np.uint64(30))) * _SERIAL[1]
    words = (words ^ (words >> np.uint64(27))) * _SERIAL[2]
    return words ^ (words >> np.uint64(31))
