"""Staging of candidate paragraphs between two passes: a memory-mapped Arrow file, so that memory stays flat.

Only after all rows have been read is it known which are duplicates, and how many there are for a shuffle;
so the candidates are written once and read again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.types import IntArray

_PART_ROWS = 1_000_000  # rows compared at a time, which takes 50 bytes for each
_TAKEN_ROWS = 8192  # read at a time in another order
_BLOCK_ROWS = 1_000_000  # rows of which a part is chosen at a time


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
        hashes = np.empty(len(self), np.uint64)
        for start, table in self.batches():
            hashes[start : start + table.num_rows] = hashes_of(pl.Series(pl.from_arrow(table[column])))
        return hashes

    def repeats(self, column: str, among: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, int]]:
        """Find rows that repeat the value of an earlier row.

        Values are compared by 64-bit hashes, then themselves. Rows are compared in parts that
        fit in memory, and yielded in the order of the parts.

        Args:
            column: column of texts.
            among: whether a row is compared, shape (N,); None for all.

        Yields:
            A row, and the first row with the same value.
        """
        hashes = self.hashes(column)
        parts = -(-(len(hashes) if among is None else int(among.sum())) // _PART_ROWS)
        for part in range(parts):
            rows = _rows_of_part(hashes, among, part, parts)
            yield from self._repeats_among(rows, hashes[rows], column)

    def _repeats_among(
        self, rows: NDArray[np.intp], hashes: NDArray[np.uint64], column: str
    ) -> Iterator[tuple[int, int]]:
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        firsts: dict[int, list[int]] = {}
        for position in same:
            candidates = firsts.setdefault(int(ordered[position]), [int(rows[order[position - 1]])])
            row = int(rows[order[position]])
            value = self.value(column, row)
            first = next((first for first in candidates if self.value(column, first) == value), None)
            if first is None:
                candidates.append(row)
            else:
                yield row, first


def _rows_of_part(
    hashes: NDArray[np.uint64], among: NDArray[np.bool_] | None, part: int, parts: int
) -> NDArray[np.intp]:
    """Rows of one part, ascending: equal hashes are in the same part."""
    rows = []
    for start in range(0, len(hashes), _BLOCK_ROWS):
        block = hashes[start : start + _BLOCK_ROWS]
        mask = np.ones(len(block), np.bool_) if among is None else among[start : start + _BLOCK_ROWS]
        if parts > 1:
            mask = mask & (block % np.uint64(parts) == np.uint64(part))
        rows.append(start + np.flatnonzero(mask))
    return np.concatenate([np.zeros(0, np.intp), *rows])


def in_order(batches: Sequence[pa.RecordBatch], order: IntArray) -> Iterator[pa.Table]:
    """Read rows of batches that are mapped into memory in another order, in blocks.

    Args:
        batches: batches of one schema.
        order: numbers of the rows, counted over all batches, shape (N,).
    """
    starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])])
    for first in range(0, len(order), _TAKEN_ROWS):
        rows = order[first : first + _TAKEN_ROWS]
        owners = np.searchsorted(starts, rows, side="right") - 1
        grouped = np.argsort(owners, kind="stable")
        # A table would copy all its batches for each block.
        parts = [
            batches[owner].take(pa.array(rows[owners == owner] - starts[owner])) for owner in np.unique(owners).tolist()
        ]
        yield pa.Table.from_batches(parts).combine_chunks().take(pa.array(np.argsort(grouped, kind="stable")))


def hashes_of(values: pl.Series) -> NDArray[np.uint64]:
    """Hashes of texts, shape (N,), equal for equal texts within one process."""
    return values.hash().to_numpy()
