"""Stored vectors of a split: all shards as one array, mapped when they are first needed."""

import logging
from collections.abc import Callable, Sequence
from mmap import PAGESIZE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.store.access.mapped_files import Range, map_bytes, release
from data_pipeline.store.access.read_ahead import FilePosition, ReadAhead
from data_pipeline.store.embeddings import EmbeddingShard
from data_pipeline.types import IntArray

logger = logging.getLogger(__name__)

_FEW_ROWS = 64  # of a shard, whose copy costs less than to leave the interpreter lock
_ADVICE = "Make it again with: elm embed --overwrite"


class Vectors:
    """Reader of stored vectors by row number, over all shards of a split.

    The shards are mapped side by side, so that gathering rows from many shards costs as much as from one. If that is
    impossible (the bytes of a shard do not fill whole pages, or the system is not Linux), each is mapped on its own.

    Args:
        rows: number of rows of each shard.
        open_shard: opens and checks a shard by its index.
    """

    def __init__(self, rows: Sequence[int], open_shard: Callable[[int], EmbeddingShard]) -> None:
        self._open_shard = open_shard
        self._count = len(rows)
        self._starts: IntArray = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._shards: dict[int, EmbeddingShard] = {}
        self._all_open = False
        self.first = first = open_shard(0)
        self._width = first.coding.width(first.dim)
        self._dtype = first.coding.dtype
        self._row_bytes = self._width * self._dtype.itemsize
        self._ahead = ReadAhead(self._where, self._ranges, len(self), self._row_bytes)
        # Rows of bytes, since numpy would copy a file whose numbers are not aligned.
        self._joined = self._range()
        empty: NDArray[np.uint8] = np.zeros((0, self._row_bytes), np.uint8)
        if self._joined is None:
            self._arrays, self._array_starts = [empty] * len(rows), self._starts[:-1]
        else:
            whole = np.asarray(self._joined).reshape(len(self), self._row_bytes)
            self._arrays, self._array_starts = [whole], self._starts[:1]
        self._map(0, first)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, rows: IntArray, dim: int | None = None) -> NDArray[Any]:
        """Read stored rows as a new array, shape (N, width); call `prepare` before.

        Args:
            rows: row numbers, shape (N,).
            dim: number of leading dimensions; None for all.
        """
        self._open_for(rows)
        width = self._width if dim is None else self.first.coding.width(dim)
        gathered = np.empty((len(rows), width * self._dtype.itemsize), np.uint8)
        if len(self._arrays) == 1:
            _take(self._arrays[0], rows, gathered)
        else:
            owners = np.searchsorted(self._array_starts, rows, side="right") - 1
            order = np.argsort(owners, kind="stable")
            numbers, firsts = np.unique(owners[order], return_index=True)
            ends = np.append(firsts, len(order))[1:] if len(order) else firsts
            for owner, first, last in zip(numbers.tolist(), firsts, ends, strict=True):
                places = order[first:last]
                local_rows = rows[places] - self._array_starts[owner]
                if len(places) < _FEW_ROWS:
                    gathered[places] = self._arrays[owner][local_rows, : gathered.shape[1]]
                    continue
                part = np.empty((len(places), gathered.shape[1]), np.uint8)
                _take(self._arrays[owner], local_rows, part)
                gathered[places] = part
        return gathered.view(self._dtype)

    def row(self, row: int) -> NDArray[Any]:
        """Read one stored row as a new array, shape (width,)."""
        if not self._all_open:
            rows = np.array([row], np.int64)
            self.prepare(rows)
            return self.gather(rows)[0]
        self._ahead.prepare_row(row)
        if len(self._arrays) == 1:
            return self._arrays[0][row].copy().view(self._dtype)
        owner = int(self._array_starts.searchsorted(row, side="right")) - 1
        return self._arrays[owner][row - int(self._array_starts[owner])].copy().view(self._dtype)

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Read ahead runs of `count` rows, given their first rows."""
        self._open_for(rows)
        self._ahead.prepare(rows, count)

    def release(self, first: int, last: int) -> None:
        """Take the rows from `first` to `last`, exclusive, out of the memory of the process, after they were read."""
        for start, array in zip(self._array_starts.tolist(), self._arrays, strict=True):
            part = array[max(0, first - start) : max(0, last - start)]
            if len(part):
                release(part)

    @property
    def is_one_array(self) -> bool:
        """Whether `whole` can map the files."""
        return len(self._arrays) == 1

    def whole(self) -> NDArray[Any]:
        """Return all stored rows as a read-only memory map of the files, shape (rows, width).

        Raises:
            StoreError: the shards cannot be mapped as one array.
        """
        if not self.is_one_array:
            raise StoreError(
                f"{self.first.path.parent} has {self._count} shards that cannot be mapped as one array: "
                f"the bytes of each must be a multiple of {PAGESIZE}, and those of {self.first.path.name} are "
                f"{self.first.rows * self._row_bytes}. Use to_numpy(), which copies, or write the paragraphs "
                "with storage.shard_rows 1048576."
            )
        for index in range(self._count):
            self.shard(index)
        return self._arrays[0].view(self._dtype)

    def _open_for(self, rows: IntArray) -> None:
        if not self._all_open:
            for index in np.unique(self._shard_of(rows)).tolist():
                self.shard(index)

    def shard(self, index: int) -> EmbeddingShard:
        """Return a shard by its index, opened, checked and mapped."""
        if index in self._shards:
            return self._shards[index]
        shard = self._open_shard(index)
        if (shard.dim, shard.coding.to_json()) != (self.first.dim, self.first.coding.to_json()):
            raise ShardMismatchError(
                f"{shard.path} holds {shard.dim} dimensions as {shard.coding.precision}, {self.first.path.name} "
                f"{self.first.dim} as {self.first.coding.precision}, or they are calibrated differently. {_ADVICE}"
            )
        self._map(index, shard)
        return shard

    def _map(self, index: int, shard: EmbeddingShard) -> None:
        size = shard.rows * self._row_bytes
        if self._joined is None:
            array = map_bytes(shard.path, shard.offset, size)
            address = array.ctypes.data
            self._arrays[index] = array.reshape(shard.rows, self._row_bytes)
        else:
            address = self._joined.address + int(self._starts[index]) * self._row_bytes
            if shard.offset % PAGESIZE:
                raise CorruptShardError(
                    f"{shard.path}: its vectors begin at byte {shard.offset}, expected a multiple of {PAGESIZE}. "
                    f"{_ADVICE}"
                )
            if size:
                self._joined.map_file(address - self._joined.address, shard.path, shard.offset, size)
        # Set last, without a counter, so that two threads may map the same shard.
        self._shards[index] = shard
        self._all_open = len(self._shards) == self._count
        self._ahead.mapped(address, size)

    def _range(self) -> Range | None:
        sizes = np.diff(self._starts) * self._row_bytes
        # Headers end at a multiple of 4096, and some machines have larger pages.
        if len(sizes) == 1 or PAGESIZE > 4096 or (sizes[:-1] % PAGESIZE).any() or not sizes.sum():
            return None
        try:
            return Range(int(sizes.sum()))
        except OSError as error:  # another system, or a limit on addresses (`ulimit -v`)
            logger.debug("Mapping shards one by one: %s", error)
            return None

    def _shard_of(self, rows: IntArray) -> IntArray:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _where(self, row: int) -> FilePosition:
        index = int(self._shard_of(np.array(row)))
        shard = self.shard(index)
        return shard.path, shard.offset + (row - int(self._starts[index])) * self._row_bytes

    def _ranges(self, rows: IntArray, count: int, around: int) -> tuple[IntArray, IntArray]:
        owners = np.searchsorted(self._array_starts, rows, side="right") - 1
        bases = np.array([array.ctypes.data for array in self._arrays], np.int64)
        local_rows = rows - self._array_starts[owners]
        local_rows -= local_rows % around
        counts = np.minimum(count + around - 1, np.array([len(array) for array in self._arrays])[owners] - local_rows)
        return bases[owners] + local_rows * self._row_bytes, counts * self._row_bytes


def _take(array: NDArray[np.uint8], rows: IntArray, out: NDArray[np.uint8]) -> None:
    """Compute `out = array[rows, :width of out]` without holding the interpreter lock."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (len(rows) == 1 or (np.diff(rows) == 1).all()):
        out[:] = array[rows[0] : rows[0] + len(rows), : out.shape[1]]
    elif out.shape[1] == array.shape[1]:
        np.take(array, rows, axis=0, out=out, mode="clip")  # the other modes copy once more
    else:
        out[:] = array[:, : out.shape[1]][rows]
