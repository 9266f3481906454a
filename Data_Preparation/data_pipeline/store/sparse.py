"""Sparse vectors: safetensors files with the three tensors of compressed sparse rows (CSR).

Row i has the words `indices[indptr[i]:indptr[i + 1]]` of the model's vocabulary, ascending, with the weights at the
same places of `values`. Finished blocks of rows are kept as files of their own until all are there, so a killed run
resumes, and the finished file has the bytes of an undisturbed run.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.store.embeddings import read_embedding_header
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils.files import published
from data_pipeline.utils.system import remove_unused

_PAGE = 4096
_TENSORS = ("indptr", "indices", "values")
_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "F16": np.dtype("f2"),
}
_FORMATS = {dtype: name for name, dtype in _DTYPES.items()}
_VALUES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
_ADVICE = "Make it again with: elm sparse --overwrite"


def sparse_precision(dtype: str) -> str:
    """Return the precision of stored weights for the precision of the arithmetic."""
    return "float32" if dtype == "float32" else "float16"


@dataclass(frozen=True)
class SparseRows:
    """Sparse vectors of N texts, as compressed sparse rows; `scipy.sparse.csr_array` takes the same three arrays."""

    indptr: IntArray
    """Start of each row in the other two arrays, and the end of the last one, shape (N + 1,)."""
    indices: NDArray[np.int32]
    """Words of the vocabulary, ascending within a row, shape (weights,)."""
    values: Float32Array
    """Their weights, shape (weights,)."""
    width: int
    """Number of words of the vocabulary."""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, rows: IntArray) -> "SparseRows":
        """Copy rows, in the given order."""
        starts, lengths = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        positions = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
        return SparseRows(indptr, self.indices[positions], self.values[positions].astype(np.float32), self.width)

    def to_dense(self) -> Float32Array:
        """All weights, shape (N, width), zeros included."""
        dense = np.zeros((len(self), self.width), np.float32)
        dense[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.indices] = self.values
        return dense


def concatenate_rows(parts: Sequence[SparseRows], width: int) -> SparseRows:
    """Concatenate rows in memory."""
    lengths = np.concatenate([np.zeros(0, np.int64), *(np.diff(part.indptr) for part in parts)])
    return SparseRows(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *(part.indices for part in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(part.values for part in parts)]),
        width,
    )


@dataclass(frozen=True)
class SparseShard:
    """Open file of sparse vectors, whose header was checked against the size of the file."""

    path: Path
    rows: int
    metadata: Mapping[str, str]
    offsets: Mapping[str, tuple[int, np.dtype[Any], int]]
    """Position in the file, data type and length of each tensor."""

    @property
    def width(self) -> int:
        """Number of words of the vocabulary."""
        return int(self.metadata["dim"])

    @cached_property
    def stored(self) -> SparseRows:
        """All rows, mapped from the file.

        Raises:
            CorruptShardError: the rows do not lie one after another, or a word is not of the vocabulary.
        """
        indptr, indices, values = (self._map(name) for name in _TENSORS)
        if indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
            raise CorruptShardError(f"{self.path} is damaged: its rows do not lie one after another. {_ADVICE}")
        return SparseRows(np.asarray(indptr), indices, values, self.width)

    def _map(self, name: str) -> NDArray[Any]:
        offset, dtype, length = self.offsets[name]
        if not length:
            return np.zeros(0, dtype)
        return np.memmap(self.path, dtype, "r", offset, (length,))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory maps, since pickling would copy them."""
        return {name: value for name, value in self.__dict__.items() if name != "stored"}


def open_sparse_shard(path: Path) -> SparseShard:
    """Open a file of sparse vectors.

    Raises:
        NotFoundError: the file does not exist.
        CorruptShardError: the file is truncated or altered, or holds other tensors.
    """
    header, start = read_embedding_header(path)
    metadata = header.get("__metadata__", {})
    offsets: dict[str, tuple[int, np.dtype[Any], int]] = {}
    end = 0
    for name in _TENSORS:
        match header.get(name):
            case {"dtype": str(kind), "shape": [int(length)], "data_offsets": [int(first), int(last)]} if (
                kind in _DTYPES and last - first == length * _DTYPES[kind].itemsize and first == end
            ):
                offsets[name], end = (start + first, _DTYPES[kind], length), last
            case _:
                raise CorruptShardError(
                    f"{path} must hold the tensors {', '.join(_TENSORS)} of sparse vectors; found {list(header)}"
                )
    size = path.stat().st_size
    if size != start + end:
        raise CorruptShardError(f"{path} has {size} bytes, its header expects {start + end}. {_ADVICE}")
    rows, width = offsets["indptr"][2] - 1, str(metadata.get("dim", ""))
    if rows < 0 or not width.isdecimal() or offsets["indices"][2] != offsets["values"][2]:
        raise CorruptShardError(f"{path} is damaged: its tensors do not fit together. {_ADVICE}")
    return SparseShard(path, rows, metadata, offsets)


class SparseWriter:
    """Writer of one file of sparse vectors, block by block in any order; resumes finished blocks after a crash.

    Args:
        final: path of the finished file.
        rows: number of rows of the file.
        metadata: metadata of the file; blocks with other metadata are not resumed.
    """

    def __init__(self, final: Path, rows: int, metadata: Mapping[str, str]) -> None:
        self._final, self._rows, self._metadata = final, rows, dict(metadata)
        self._values = _VALUES[self._metadata.get("precision", "float32")]
        described = hashlib.sha256(json.dumps([rows, dict(sorted(self._metadata.items()))]).encode()).hexdigest()
        self._blocks = final.with_name(f".{final.name}.blocks-{described[:16]}")

    def has_block(self, start: int, rows: int) -> bool:
        """Return whether a block was finished by an earlier run."""
        try:
            return open_sparse_shard(self._block_path(start)).rows == rows
        except StoreError:
            return False

    def write_block(self, start: int, block: SparseRows) -> None:
        """Write consecutive rows, of which `start` is the first."""
        self._blocks.mkdir(parents=True, exist_ok=True)
        self._write(self._block_path(start), [block])

    def finish(self) -> None:
        """Join the blocks to the finished file, and remove them.

        Raises:
            StoreError: rows are missing.
        """
        paths = sorted(self._blocks.glob("*.safetensors")) if self._rows else []
        blocks = [open_sparse_shard(path).stored for path in paths]
        starts = [int(path.stem) for path in paths]
        if [sum(map(len, blocks[:position])) for position in range(len(blocks))] != starts or (
            sum(map(len, blocks)) != self._rows
        ):
            raise StoreError(f"{self._final}: of {self._rows} rows, {sum(map(len, blocks))} were written")
        self._write(self._final, blocks)
        for folder in self._final.parent.glob(f".{self._final.name}.blocks-*"):
            remove_unused(folder)

    def _block_path(self, start: int) -> Path:
        return self._blocks / f"{start:012d}.safetensors"

    def _write(self, path: Path, parts: Sequence[SparseRows]) -> None:
        weights = sum(len(part.indices) for part in parts)
        rows = sum(map(len, parts))
        with published(path) as temporary, temporary.open("wb") as file:
            file.write(_header_bytes(rows, weights, self._values, self._metadata))
            _write_all(file, _joined_starts(parts))
            _write_all(file, (np.ascontiguousarray(part.indices, np.int32) for part in parts))
            _write_all(file, (part.values.astype(self._values) for part in parts))


def _joined_starts(parts: Iterable[SparseRows]) -> Iterable[IntArray]:
    total = 0
    yield np.zeros(1, np.int64)
    for part in parts:
        yield part.indptr[1:] + total
        total += int(part.indptr[-1])


def _write_all(file: IO[bytes], arrays: Iterable[NDArray[Any]]) -> None:
    for array in arrays:
        file.write(array.tobytes())


def _header_bytes(rows: int, weights: int, values: np.dtype[Any], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    dtypes: tuple[np.dtype[Any], ...] = (np.dtype(np.int64), np.dtype(np.int32), values)
    for name, dtype, length in zip(_TENSORS, dtypes, (rows + 1, weights, weights), strict=True):
        size = length * dtype.itemsize
        header[name] = {"dtype": _FORMATS[dtype], "shape": [length], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _PAGE)
    return struct.pack("<Q", len(text)) + text
