"""The stored vectors of a split: all its shards as one array, mapped when they are first needed."""

import logging
from collections.abc import Callable, Sequence
from mmap import PAGESIZE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.store.access.mapped_files import Range, map_bytes
from data_pipeline.store.access.read_ahead import ReadAhead, Where
from data_pipeline.store.embeddings import EmbeddingShard
from data_pipeline.types import IntArray

logger = logging.getLogger(__name__)

_ADVICE = "Make it again with: elm embed --overwrite"


class Vectors:
    """Row numbers -> stored vectors, over all shards of a split.

    The shards are mapped side by side, so that a gather over many costs what it costs over one.
    Where that cannot be (the bytes of a shard do not fill whole pages; not on Linux), each is read
    on its own.

    Args:
        rows: of each shard.
        open_shard: opens and checks the shard of a number.
    """

    def __init__(self, rows: Sequence[int], open_shard: Callable[[int], EmbeddingShard]) -> None:
        self._open_shard = open_shard
        self._starts: IntArray = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._shards: list[EmbeddingShard | None] = [None] * len(rows)
        self._opened = np.zeros(len(rows), np.bool_)
        self._all_open = False
        first = self._shards[0] = open_shard(0)
        self.first = first
        self._width = first.coding.width(first.dim)
        self._dtype = first.coding.dtype
        self._row_bytes = self._width * self._dtype.itemsize
        self._ahead = ReadAhead(self._where, self._ranges, len(self), self._row_bytes)
        # Rows of bytes: a file may begin where its numbers are not aligned, and numpy would copy it whole.
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
        """Some rows as they are stored, shape (N, width); a copy. They should be prepared before.

        Args:
            rows: shape (N,), each from 0 to below the number of rows.
            dim: only so many of the first dimensions.
        """
        self._open_for(rows)
        width = self._width if dim is None else self.first.coding.width(dim)
        found = np.empty((len(rows), width * self._dtype.itemsize), np.uint8)
        if len(self._arrays) == 1:
            _take(self._arrays[0], rows, found)
        else:
            places = np.searchsorted(self._array_starts, rows, side="right") - 1
            for place in np.unique(places):
                here = places == place
                part = np.empty((int(here.sum()), found.shape[1]), np.uint8)
                _take(self._arrays[place], rows[here] - self._array_starts[place], part)
                found[here] = part
        return found.view(self._dtype)

    def row(self, row: int) -> NDArray[Any]:
        """One row as it is stored, shape (width,); a copy."""
        if not self._all_open or len(self._arrays) > 1:
            rows = np.array([row], np.int64)
            self.prepare(rows)
            found: NDArray[Any] = self.gather(rows)[0]
            return found
        self._ahead.prepare_row(row)
        return self._arrays[0][row].copy().view(self._dtype)

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Have runs of `count` rows fetched that are to be read soon; `rows` are the first of each."""
        self._open_for(rows)
        self._ahead.prepare(rows, count)

    def whole(self) -> NDArray[Any]:
        """All rows as they are stored, shape (rows, width): the files themselves, read-only, no copy.

        Raises:
            StoreError: the shards cannot lie side by side in memory.
        """
        if len(self._arrays) > 1:
            raise StoreError(
                f"{self.first.path.parent} has {len(self._shards)} shards that cannot be mapped as one array: "
                f"the bytes of each must be a multiple of {PAGESIZE}, and those of {self.first.path.name} are "
                f"{self.first.rows * self._row_bytes}. Use to_numpy(), which copies, or write the paragraphs "
                "with --storage.shard_rows 1048576."
            )
        for index in range(len(self._shards)):
            self.shard(index)
        return self._arrays[0].view(self._dtype)

    def _open_for(self, rows: IntArray) -> None:
        if not self._all_open:
            for index in np.unique(self._shard_of(rows)).tolist():
                self.shard(index)

    def shard(self, index: int) -> EmbeddingShard:
        """The shard of a number, opened, checked and mapped."""
        found = self._shards[index]
        if found is not None:
            return found
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
                raise CorruptShardError(f"{shard.path}: its vectors do not begin at a page's edge. {_ADVICE}")
            if size:
                self._joined.map_file(address - self._joined.address, shard.path, shard.offset, size)
        # Last, and not by counting: two threads may come here for the same shard, which does no harm.
        self._shards[index] = shard
        self._opened[index] = True
        self._all_open = bool(self._opened.all())
        self._ahead.mapped(address, size)

    def _range(self) -> Range | None:
        sizes = np.diff(self._starts) * self._row_bytes
        # Our files' headers end at a multiple of 4096; some machines have larger pages.
        if len(sizes) == 1 or PAGESIZE > 4096 or (sizes[:-1] % PAGESIZE).any() or not sizes.sum():
            return None
        try:
            return Range(int(sizes.sum()))
        except OSError as error:  # another system, or a limit on addresses (`ulimit -v`)
            logger.debug("Shards are mapped one by one: %s", error)
            return None

    def _shard_of(self, rows: IntArray) -> IntArray:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _where(self, row: int) -> Where:
        index = int(self._shard_of(np.array(row)))
        shard = self.shard(index)
        return shard.path, shard.offset + (row - int(self._starts[index])) * self._row_bytes

    def _ranges(self, rows: IntArray, count: int, around: int) -> tuple[IntArray, IntArray]:
        places = np.searchsorted(self._array_starts, rows, side="right") - 1
        bases = np.array([array.ctypes.data for array in self._arrays], np.int64)
        locals_ = rows - self._array_starts[places]
        locals_ -= locals_ % around
        counts = np.minimum(count + around - 1, np.array([len(array) for array in self._arrays])[places] - locals_)
        return bases[places] + locals_ * self._row_bytes, counts * self._row_bytes


def _take(array: NDArray[np.uint8], rows: IntArray, out: NDArray[np.uint8]) -> None:
    """`out = array[rows, :width of out]`, without holding Python's lock."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (len(rows) == 1 or (np.diff(rows) == 1).all()):
        out[:] = array[rows[0] : rows[0] + len(rows), : out.shape[1]]
    elif out.shape[1] == array.shape[1]:
        np.take(array, rows, axis=0, out=out, mode="clip")  # the other modes copy once more
    else:
        out[:] = array[:, : out.shape[1]][rows]
