"""The order of an epoch, computed where it is needed instead of stored.

A shuffled order is a permutation that can be asked for any part of itself: position p of the epoch
holds row order(p). So nothing is kept in memory, going on in the middle of an epoch costs nothing,
and any number of processes agree on it by (seed, epoch) alone.

The permutation is a Feistel network over the smallest power of two that holds all rows; positions
that it sends beyond the last row are sent on until they are rows (Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002). Of few rows all of it is computed, and what is beyond left out.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import IntArray

Shuffle = Literal[False, "full", "block"]
_Words = NDArray[np.uint32]

_ROUNDS = 6
_LEAST_BITS = 10  # with fewer there are too few round functions to choose from


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
    keys = np.frombuffer(hashlib.shake_256(text).digest(4 * _ROUNDS), "<u4").astype(np.uint32)
    if rows <= 1 << _LEAST_BITS:
        everything = _feistel(np.arange(1 << _LEAST_BITS), _LEAST_BITS, keys)
        return everything[everything < rows][positions]
    bits = int(rows - 1).bit_length()
    values = _feistel(positions, bits, keys)
    outside = np.flatnonzero(values >= rows)
    while len(outside):
        moved = _feistel(values[outside], bits, keys)
        values[outside] = moved
        outside = outside[moved >= rows]
    return values


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


def _feistel(values: IntArray, bits: int, keys: _Words) -> IntArray:
    """One pass of the network over `bits` bits, at most 62; the halves may differ by one bit."""
    low = bits // 2
    high = bits - low
    left, right = (values >> low).astype(np.uint32), (values & ((1 << low) - 1)).astype(np.uint32)
    for key in keys:
        # The halves change places, and so do their widths.
        left, right = right, left ^ (_mixed(right ^ key) >> np.uint32(32 - high))
        low, high = high, low
    return (left.astype(np.int64) << low) | right


def _mixed(words: _Words) -> _Words:
    """The finaliser of MurmurHash3 (Appleby, 2011), in place: every bit depends on every bit."""
    words ^= words >> np.uint32(16)
    words *= np.uint32(0x85EBCA6B)
    words ^= words >> np.uint32(13)
    words *= np.uint32(0xC2B2AE35)
    words ^= words >> np.uint32(16)
    return words
