"""Order of the rows in an epoch, computed on demand instead of stored.

A shuffled order is a permutation that can be evaluated at any position: position p of the epoch
holds row order(p). So nothing is kept in memory, resuming in the middle of an epoch costs nothing,
and any number of processes agree on the order by (seed, epoch) alone.

The permutation is a Feistel network over the smallest power of two that holds all rows; values
beyond the last row are permuted again until they are rows (cycle walking; Black and Rogaway, "Ciphers
with arbitrary finite domains", 2002). For few rows the whole permutation is computed, and values beyond
the last row are left out.
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
_MIN_BITS = 10  # with fewer bits there are too few distinct round functions


def permute(positions: IntArray, rows: int, key: tuple[int, ...]) -> IntArray:
    """Rows at the given positions of a permutation of 0 .. rows - 1.

    Args:
        positions: positions from 0 to below `rows`, shape (N,).
        rows: length of the permutation, up to 2^62.
        key: non-negative integers; each key has its own permutation.

    Returns:
        Rows, shape (N,).
    """
    text = repr(tuple(int(part) for part in key)).encode()
    keys = np.frombuffer(hashlib.shake_256(text).digest(4 * _ROUNDS), "<u4").astype(np.uint32)
    if rows <= 1 << _MIN_BITS:
        values = _feistel(np.arange(1 << _MIN_BITS), _MIN_BITS, keys)
        return values[values < rows][positions]
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
    """Order of the rows in every epoch.

    Args:
        rows: number of rows of the dataset.
        shuffle: `full` for a random order of all rows; `block` to shuffle blocks of `block_rows`
            neighbouring rows and mix the rows of `window_blocks` blocks with each other; False for
            the order of the dataset.
        seed: seed of the order, 0 or more.
        block_rows: number of neighbouring rows that are read at once.
        window_blocks: number of blocks that are mixed.
    """

    rows: int
    shuffle: Shuffle = "full"
    seed: int = 0
    block_rows: int = 256
    window_blocks: int = 64

    @property
    def window_rows(self) -> int:
        """Number of rows that are mixed with each other; only these need to be in memory."""
        return self.block_rows * self.window_blocks

    def rows_at(self, positions: IntArray, epoch: int) -> IntArray:
        """Rows at the given positions of an epoch, shape (N,); positions are from 0 to below `rows`."""
        if not self.shuffle or self.rows < 2:
            return positions
        if self.shuffle == "full":
            return permute(positions, self.rows, (self.seed, epoch))
        return self._in_blocks(positions, epoch)

    def windows(self) -> int:
        """Number of windows in an epoch."""
        return max(1, self.rows // self.block_rows // self.window_blocks)

    def window_of(self, position: int) -> int:
        """Window of a position; the last window includes the rows of an incomplete one."""
        return min(position // self.window_rows, self.windows() - 1)

    def window_starts(self, window: int, epoch: int) -> IntArray:
        """First rows of the blocks of a window, in ascending order; a last, shorter block included."""
        blocks, first = self.rows // self.block_rows, window * self.window_blocks
        is_last = window == self.windows() - 1
        last = blocks if is_last else first + self.window_blocks
        numbers = permute(np.arange(first, last), blocks, (self.seed, epoch)) if blocks else np.zeros(0, np.int64)
        if is_last and self.rows % self.block_rows:
            numbers = np.append(numbers, blocks)
        return np.sort(numbers * self.block_rows)

    def _in_blocks(self, positions: IntArray, epoch: int) -> IntArray:
        rows = np.empty(len(positions), np.int64)
        blocks = self.rows // self.block_rows
        windows = np.minimum(positions // self.window_rows, self.windows() - 1)
        for window in np.unique(windows).tolist():
            in_window = windows == window
            start = window * self.window_rows
            size = (self.rows if window == self.windows() - 1 else start + self.window_rows) - start
            within = permute(positions[in_window] - start, size, (self.seed, epoch, window))
            block, row = np.divmod(within, self.block_rows)
            block += window * self.window_blocks
            # Rows after the last complete block stay in the last window.
            is_complete = block < blocks
            if is_complete.any():
                block[is_complete] = permute(block[is_complete], blocks, (self.seed, epoch))
            rows[in_window] = block * self.block_rows + row
        return rows

    def to_json(self) -> dict[str, Any]:
        """The settings that decide the order, for a checkpoint."""
        settings: dict[str, Any] = {"rows": int(self.rows), "shuffle": self.shuffle}
        if self.shuffle:
            settings["seed"] = int(self.seed)
        if self.shuffle == "block":
            settings |= {"block_rows": self.block_rows, "window_blocks": self.window_blocks}
        return settings


def _feistel(values: IntArray, bits: int, keys: _Words) -> IntArray:
    """Apply the network once to values of `bits` bits, at most 62; the halves may differ by one bit."""
    low = bits // 2
    high = bits - low
    left, right = (values >> low).astype(np.uint32), (values & ((1 << low) - 1)).astype(np.uint32)
    for key in keys:
        # The halves are swapped, and so are their widths.
        left, right = right, left ^ (_mix(right ^ key) >> np.uint32(32 - high))
        low, high = high, low
    return (left.astype(np.int64) << low) | right


def _mix(words: _Words) -> _Words:
    """Apply the finalizer of MurmurHash3 (Appleby, 2011) in place: every bit depends on every bit."""
    words ^= words >> np.uint32(16)
    words *= np.uint32(0x85EBCA6B)
    words ^= words >> np.uint32(13)
    words *= np.uint32(0xC2B2AE35)
    words ^= words >> np.uint32(16)
    return words
