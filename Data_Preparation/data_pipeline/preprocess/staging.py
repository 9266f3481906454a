"""Staging of candidate paragraphs between two passes: Arrow files on disk, so that memory stays flat.

Only after all rows have been read is it known which are duplicates, and how many there are for a shuffle;
so the candidates are written once and read again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipeline.preprocess.staged_texts import StagedTexts
from data_pipeline.types import IntArray

_PART_ROWS = 1_000_000  # rows compared at a time, which takes 50 bytes for each
_TAKEN_ROWS = 8192  # read at a time in another order
_BLOCK_ROWS = 1_000_000  # rows of which a part is chosen at a time
_OPEN_FILES = 64  # of which single rows are read


@dataclass(frozen=True)
class StagedFile:
    """File of staged rows, which `passes.stage_candidates` wrote."""

    path: Path
    rows: int
    """Number of its rows."""
    first_document: int = 0
    """Number that is added to those of its documents."""


def staged_file(path: Path) -> StagedFile:
    """Return a file of staged rows, with their number."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        return StagedFile(path, sum(reader.get_batch(index).num_rows for index in range(reader.num_record_batches)))


class Staging:
    """Staged rows of one or more files, numbered from 0.

    Args:
        files: the files, in order.
    """

    def __init__(self, files: Sequence[StagedFile]) -> None:
        self._files = files
        self._starts = np.cumsum([0, *(file.rows for file in files)])
        self._texts = lru_cache(_OPEN_FILES)(StagedTexts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def schema(self) -> pa.Schema:
        """Columns of the staged rows."""
        with pa.OSFile(str(self._files[0].path)) as source, pa.ipc.open_file(source) as reader:
            return reader.schema

    def batches(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Rows in batches, each with the number of its first row.

        Args:
            start: first row; batches that end before it are left out.
            end: last row, exclusive; batches that begin at or after it are left out. None for all.
        """
        end = len(self) if end is None else end
        first = max(0, int(np.searchsorted(self._starts, start, "right")) - 1)
        for number in range(first, len(self._files)):
            if self._starts[number] >= end:
                return
            yield from self._batches_of(number, start, end)

    def _batches_of(self, number: int, start: int, end: int) -> Iterator[tuple[int, pa.Table]]:
        file, row = self._files[number], int(self._starts[number])
        with pa.OSFile(str(file.path)) as source, pa.ipc.open_file(source) as reader:
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                if row + batch.num_rows > start and row < end:
                    yield row, _numbered(pa.Table.from_batches([batch]), file.first_document)
                row += batch.num_rows

    def value(self, column: str, row: int) -> str:
        """Value of a column of texts in one row."""
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._texts(self._files[number].path, column)[row - int(self._starts[number])]

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


def _numbered(table: pa.Table, first_document: int) -> pa.Table:
    """Add to the numbers of the documents."""
    if first_document == 0:
        return table
    index = table.schema.get_field_index("document_number")
    return table.set_column(index, "document_number", pc.add(table["document_number"], first_document))


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
