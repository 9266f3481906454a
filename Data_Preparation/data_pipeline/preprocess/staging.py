"""Staging of candidate paragraphs between two passes: a memory-mapped Arrow file, so that memory stays flat.

Only after all rows have been read is it known which are duplicates, and how many there are for a shuffle;
so the candidates are written once and read again.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.types import IntArray

_PART_ROWS = 8_000_000  # rows compared at a time, which takes 16 bytes for each


class Staging:
    """Staged rows, mapped into memory and numbered from 0.

    Args:
        path: file that `passes.stage_candidates` wrote.
    """

    def __init__(self, path: Path) -> None:
        # All rows are read through a file and single rows through a memory map, because reading a whole
        # map would keep the whole file resident.
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the staged rows."""
        return self._table.schema

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """All rows in batches, each with the number of its first row."""
        start = 0
        for index in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(index)
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows

    def value(self, column: str, row: int) -> str:
        """Value of a column in one row."""
        return str(self._table[column][row].as_py())

    def numbers(self, column: str) -> IntArray:
        """Values of a column of integers, shape (N,)."""
        return np.concatenate([np.zeros(0, np.int64)] + [table[column].to_numpy() for _, table in self.batches()])

    def hashes(self, column: str) -> NDArray[np.uint64]:
        """Hashes of the values of a column, shape (N,); see `hashes_of`."""
        parts = [hashes_of(pl.Series(pl.from_arrow(table[column]))) for _, table in self.batches()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def repeats(self, column: str, among: NDArray[np.intp] | None = None) -> Iterator[tuple[int, int]]:
        """Find rows that repeat the value of an earlier row.

        Values are compared by 64-bit hashes, then themselves. Rows are compared in parts that
        fit in memory, and yielded in the order of the parts.

        Args:
            column: column of texts.
            among: rows to compare, ascending; None for all.

        Yields:
            A row, and the first row with the same value.
        """
        hashes = self.hashes(column)
        rows = np.arange(len(hashes)) if among is None else among
        parts = -(-len(rows) // _PART_ROWS)
        for part in range(parts):
            some = rows[hashes[rows] % np.uint64(parts) == part] if parts > 1 else rows
            yield from self._repeats_among(some, hashes[some], column)

    def _repeats_among(
        self, rows: NDArray[np.intp], hashes: NDArray[np.uint64], column: str
    ) -> Iterator[tuple[int, int]]:
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        firsts: dict[int, list[int]] = {}
        for position in same:
            candidates = firsts.setdefault(int(hashes[order[position]]), [int(rows[order[position - 1]])])
            row = int(rows[order[position]])
            value = self.value(column, row)
            first = next((first for first in candidates if self.value(column, first) == value), None)
            if first is None:
                candidates.append(row)
            else:
                yield row, first


def hashes_of(values: pl.Series) -> NDArray[np.uint64]:
    """Hashes of texts, shape (N,), equal for equal texts within one process."""
    return values.hash().to_numpy()
