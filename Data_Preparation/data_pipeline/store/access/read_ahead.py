"""Read-ahead of rows: cached pages are entered into the page table, other pages are fetched from disk, all at once."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil

from data_pipeline.store.access.mapped_files import is_cached, populate, will_need
from data_pipeline.types import IntArray

FilePosition = tuple[Path, int]
"""File, and a position in it in bytes."""

_CHECK_EVERY = 16_384  # rows, after a check that found them cached
_SAMPLE_ROWS = 16
_POPULATE_BYTES = 16 << 20  # takes a millisecond, during which the process cannot allocate memory
_AROUND_BYTES = 128 << 10  # what the kernel fetches around a page fault


class ReadAhead:
    """Read-ahead of rows, so that reading them does not wait for one page after another.

    A sample of rows is checked from time to time. While it is cached, the only work is to enter the pages into the page
    table of the process, once, in a thread, if all data fit into memory. Otherwise the disk is told of all rows that
    are about to be read; if all data fit into memory, together with their neighbors, which will be needed too.

    Args:
        where: returns the file position of a row.
        ranges: returns addresses and sizes in bytes of runs of rows, given their first rows, the number of rows of
            each, and the number of neighbors to fetch together.
        rows: number of rows.
        row_bytes: approximate size of a row in bytes.
    """

    def __init__(
        self,
        where: Callable[[int], FilePosition],
        ranges: Callable[[IntArray, int, int], tuple[IntArray, IntArray]],
        rows: int,
        row_bytes: int,
    ) -> None:
        self._where, self._ranges = where, ranges
        self._bytes = rows * row_bytes
        self._rows_around = max(1, _AROUND_BYTES // row_bytes)
        self._left = 0
        self._to_populate: deque[tuple[int, int]] = deque()
        self._populating = False

    def mapped(self, address: int, size: int) -> None:
        """Register a newly mapped file by its address and size in bytes."""
        if not self._fits:
            return
        for start in range(0, size, _POPULATE_BYTES):
            self._to_populate.append((address + start, min(_POPULATE_BYTES, size - start)))

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Announce that runs of rows are about to be read.

        Args:
            rows: first row of each run, shape (N,).
            count: number of rows of each run.
        """
        if len(rows) == 0:
            return
        if self._left > 0:
            self._left -= len(rows) * count
        elif self._are_cached(rows):
            self._left = _CHECK_EVERY
        else:
            will_need(*self._ranges(rows, count, self._rows_around if self._fits else 1))
            return
        if self._to_populate and not self._populating:
            self._populating = True
            threading.Thread(target=self._populate, name="elm-populate", daemon=True).start()

    def prepare_row(self, row: int) -> None:
        """Announce that one row is about to be read."""
        if self._left > 0:
            self._left -= 1
        else:
            self.prepare(np.array([row], np.int64))

    def _populate(self) -> None:
        with suppress(IndexError):
            while True:
                populate(*self._to_populate.popleft())
        self._populating = False

    @cached_property
    def _fits(self) -> bool:
        """Whether all data fit into memory."""
        return self._bytes < psutil.virtual_memory().available // 2

    def _are_cached(self, rows: IntArray) -> bool:
        sample = rows[:: max(1, len(rows) // _SAMPLE_ROWS)]
        return all(is_cached(*self._where(row)) for row in sample.tolist())
