"""Reading rows before they are touched: what is in memory is entered at once, what is not is fetched at once."""

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

Where = tuple[Path, int]
"""A file, and a place in it in bytes."""

_CHECK_EVERY = 16_384  # rows, of data found in memory the last time
_SAMPLE_ROWS = 16
_POPULATE_BYTES = 16 << 20  # entered into the table in a millisecond, in which memory cannot be allocated
_AROUND_BYTES = 128 << 10  # what the kernel fetches around a fault, one fault after the other


class ReadAhead:
    """Makes sure that reading rows does not wait for one page after the other.

    Some rows are looked at now and then. While they are in memory, nothing is done but to enter
    the pages of data that fit into memory into the process's table, once and in a thread of its own.
    Else the disk is told of every row that is about to be read; where all data fit into memory, with
    its neighbours, which will be wanted too.

    Args:
        where: file and place of a row.
        ranges: of runs of rows (the first rows, how many rows each has, and how many neighbours
            are taken together), the addresses and sizes of their bytes.
        rows: how many there are.
        row_bytes: of one row, about.
    """

    def __init__(
        self,
        where: Callable[[int], Where],
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
        """A file was mapped there."""
        if not self._fits:
            return
        for start in range(0, size, _POPULATE_BYTES):
            self._to_populate.append((address + start, min(_POPULATE_BYTES, size - start)))

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Runs of rows are about to be read.

        Args:
            rows: the first row of each, shape (N,).
            count: rows of a run.
        """
        if len(rows) == 0:
            return
        if self._left > 0:
            self._left -= len(rows) * count
        elif self._in_memory(rows):
            self._left = _CHECK_EVERY
        else:
            self._fetch(rows, count)
            return
        if self._to_populate and not self._populating:
            self._populating = True
            threading.Thread(target=self._populate, name="elm-populate", daemon=True).start()

    def prepare_row(self, row: int) -> None:
        """One row is about to be read."""
        if self._left > 0:
            self._left -= 1
        else:
            self.prepare(np.array([row], np.int64))

    def _populate(self) -> None:
        with suppress(IndexError):
            while True:
                populate(*self._to_populate.popleft())
        self._populating = False

    def _fetch(self, rows: IntArray, count: int) -> None:
        will_need(*self._ranges(rows, count, self._rows_around if self._fits else 1))

    @cached_property
    def _fits(self) -> bool:
        """All of it may be in memory at once."""
        return self._bytes < psutil.virtual_memory().available // 2

    def _in_memory(self, rows: IntArray) -> bool:
        some = rows[:: max(1, len(rows) // _SAMPLE_ROWS)]
        return all(is_cached(*self._where(row)) for row in some.tolist())
