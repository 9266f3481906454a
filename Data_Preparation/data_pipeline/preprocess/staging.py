"""The candidates between the passes: an Arrow file, memory-mapped, so that memory stays flat.

Whether a row repeats an earlier one is known only when all rows have been seen, and a
shuffle needs their number; so candidates are written down once and read again.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_PART_ROWS = 8_000_000  # rows compared at a time: 16 bytes each


class StagingWriter:
    """Appends tables of one schema to an Arrow file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the file; nothing is written where no row came."""
        if self._writer is not None:
            self._writer.close()


class Staging:
    """The staged rows, mapped into memory and numbered from 0.

    Args:
        path: what a `StagingWriter` wrote.
    """

    def __init__(self, path: Path) -> None:
        # Rows in order are read through a file, single ones through the memory map: a whole pass
        # over a map would keep the whole file resident.
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the staged rows."""
        return self._table.schema

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Row number of the first row, and rows."""
        start = 0
        for index in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(index)
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows

    def value(self, column: str, row: int) -> str:
        """One value."""
        return str(self._table[column][row].as_py())

    def repeats(self, column: str) -> Iterator[tuple[int, int]]:
        """(row, first row with the same value) for every row that repeats an earlier one.

        Values are compared by 64-bit hashes, then for real. Rows come part by part, where a
        part is small enough for memory.
        """
        hashes = np.concatenate([np.zeros(0, np.uint64)] + [_hashes(table[column]) for _, table in self.batches()])
        parts = -(-len(hashes) // _PART_ROWS)
        for part in range(parts):
            rows = np.flatnonzero(hashes % np.uint64(parts) == part) if parts > 1 else np.arange(len(hashes))
            yield from self._repeats_among(rows, hashes[rows], column)

    def _repeats_among(
        self, rows: NDArray[np.intp], hashes: NDArray[np.uint64], column: str
    ) -> Iterator[tuple[int, int]]:
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        firsts: dict[int, list[int]] = {}
        for place in same:
            known = firsts.setdefault(int(hashes[order[place]]), [int(rows[order[place - 1]])])
            row = int(rows[order[place]])
            value = self.value(column, row)
            first = next((first for first in known if self.value(column, first) == value), None)
            if first is None:
                known.append(row)
            else:
                yield row, first


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    return pl.Series(pl.from_arrow(column)).hash().to_numpy()
