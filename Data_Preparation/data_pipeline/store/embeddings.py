"""Embedding shards: safetensors files with one tensor `embeddings` of shape (rows, dim).

A shard is laid out at full size under a temporary name and its rows are written where they
belong, in any order. What is on disk for certain is recorded a few seconds apart, so a killed
run goes on from there; the finished file has the same bytes as an undisturbed run's.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, NotFoundError, ShardMismatchError, StaleStageError, StoreError
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.store.quantization import Coding, coding_of
from data_pipeline.types import IntArray
from data_pipeline.utils import atomic_write_bytes, publish
from data_pipeline.utils.system import binary_flag, write_at

_PAGE = 4096  # the data starts at a page's edge, so that it can be mapped on its own
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
_ADVICE = "Make it again with: elm embed --overwrite"


@dataclass(frozen=True)
class EmbeddingShard:
    """One safetensors file, its header read and checked against the file's size."""

    path: Path
    rows: int
    dim: int
    """Of a vector; what is stored of it may be narrower."""
    coding: Coding
    offset: int
    metadata: Mapping[str, str]

    @cached_property
    def stored(self) -> NDArray[Any]:
        """All rows as a read-only memory map, shape (rows, stored width); nothing is read yet."""
        shape = (self.rows, self.coding.width(self.dim))
        if self.rows == 0:
            return np.zeros(shape, self.coding.dtype)
        return np.memmap(self.path, dtype=self.coding.dtype, mode="r", offset=self.offset, shape=shape)

    def vectors(self, rows: slice | IntArray) -> NDArray[Any]:
        """Some rows as vectors, shape (N, dim): as they are stored, or decoded to float32.

        Decoded vectors that had length 1 have it again.
        """
        return self.decode(self.stored[rows])

    @property
    def normalized(self) -> bool:
        """The vectors have length 1."""
        return self.metadata.get("normalized") == "true"

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored rows of shape (N, width) -> vectors of shape (N, dim), as `vectors` gives them."""
        found = self.coding.decode(stored)
        return found if self.coding.is_float or not self.normalized else unit_length(found)

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory map: pickling it would copy the vectors."""
        return {name: value for name, value in self.__dict__.items() if name != "stored"}


def unit_length(vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors of shape (N, dim) at length 1, of the same type, computed in float32; 0 stays 0."""
    exact = vectors.astype(np.float32, copy=False)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[Any] = (exact / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(vectors.dtype, copy=False)
    return scaled


def read_embedding_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and where its data begins.

    Raises:
        StoreError: there is no such file.
        CorruptShardError: it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER_BYTES, path.stat().st_size):
                raise ValueError(f"its header would be {length} bytes long")
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("its header is not a mapping")
            if not isinstance(header.get("__metadata__", {}), dict):
                raise ValueError("its metadata is not a mapping")
    except FileNotFoundError:
        raise NotFoundError(f"there is no {path}. {_ADVICE.replace(' --overwrite', '')}") from None
    except (OSError, ValueError, struct.error) as error:
        raise CorruptShardError(f"{path} is not a safetensors file: {error}. {_ADVICE}") from error
    return header, 8 + length


def open_embedding_shard(path: Path) -> EmbeddingShard:
    """Open one file; checks that its size is what its header says.

    Raises:
        StoreError: there is no such file.
        CorruptShardError: it is truncated, altered, or holds something else.
    """
    header, offset = read_embedding_header(path)
    match header.get("embeddings"):
        case {"dtype": str(name), "shape": [int(rows), int(width)]} if min(rows, width) >= 0:
            metadata = header.get("__metadata__", {})
            coding = coding_of(name, width, metadata, path)
        case _:
            raise CorruptShardError(
                f"{path} must hold one tensor `embeddings` of shape (rows, dim); found {list(header)}"
            )
    expected, found = offset + rows * width * coding.dtype.itemsize, path.stat().st_size
    if found != expected:
        raise CorruptShardError(f"{path} has {found} bytes, its header speaks of {expected}. {_ADVICE}")
    return EmbeddingShard(path, rows, coding.dim(width), coding, offset, metadata)


def check_belongs(
    shard: EmbeddingShard, paragraphs: ParagraphShard, entry: ShardEntry | None, settings: Mapping[str, str] | None
) -> None:
    """Make sure that an embedding file was made from the paragraphs beside it, and as its manifest says.

    Args:
        shard: the file.
        paragraphs: the paragraphs beside it.
        entry: what the manifest says of the file; None without one.
        settings: what the manifest says of how it was made; None without one.

    Raises:
        ShardMismatchError: it was made from other paragraphs.
        CorruptShardError: it is not as long as the manifest says.
        StaleStageError: it was made with other settings: a file of the right length may still be another
            model's.
    """
    ids, texts = (shard.metadata.get(name) for name in ("ids_sha256", "texts_sha256"))
    unproved = ids is None and entry is None  # the older pipeline wrote no hashes
    if shard.rows != paragraphs.rows or not (
        unproved or (ids, texts) == (paragraphs.ids_sha256, paragraphs.texts_sha256)
    ):
        raise ShardMismatchError(
            f"{shard.path} was not made from {paragraphs.path}: it is of {shard.rows} rows, ids {str(ids)[:12]} and "
            f"texts {str(texts)[:12]}, the paragraphs have {paragraphs.rows} rows, {paragraphs.ids_sha256[:12]} and "
            f"{paragraphs.texts_sha256[:12]}. {_ADVICE}"
        )
    size = shard.path.stat().st_size
    if entry is not None and entry.bytes not in (None, size):
        raise CorruptShardError(f"{shard.path} has {size} bytes, its manifest speaks of {entry.bytes}. {_ADVICE}")
    for name, expected in (settings or {}).items():
        if shard.metadata.get(name) != expected:
            raise StaleStageError(
                f"{shard.path} was made with {name} {shard.metadata.get(name)!r}, its manifest says {expected!r}. "
                f"{_ADVICE}"
            )


class EmbeddingWriter:
    """One shard being written; open it again after a crash and it goes on.

    Args:
        final: name of the finished file.
        rows: rows of the shard.
        dim: width of a vector.
        coding: how vectors are stored.
        metadata: goes into the file; also decides whether half-finished work can be used.
        overwrite: discard half-finished work of other settings.

    Raises:
        StaleStageError: half-finished work of other settings is there, and not `overwrite`.
    """

    def __init__(
        self, final: Path, rows: int, dim: int, coding: Coding, metadata: Mapping[str, str], overwrite: bool = False
    ) -> None:
        self._final, self._dim, self._coding = final, dim, coding
        self._partial = final.with_name(f".{final.name}.partial")
        self._progress = final.with_name(f".{final.name}.progress")
        self._header = _header_bytes(rows, dim, coding, metadata)
        self._row_bytes = coding.width(dim) * coding.dtype.itemsize
        self.done: NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)
        """Rows that are on disk for certain, or written since the last flush."""
        size = len(self._header) + rows * self._row_bytes
        resumed = self._resume(size, overwrite)
        final.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._partial, os.O_RDWR | os.O_CREAT | binary_flag(), 0o644)
        if not resumed:
            self._progress.unlink(missing_ok=True)
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, size)
            write_at(self._handle, self._header, 0)

    def write(self, rows: IntArray, vectors: NDArray[Any]) -> None:
        """Put vectors into their rows.

        Args:
            rows: row numbers, shape (N,).
            vectors: shape (N, dim).
        """
        if vectors.shape != (len(rows), self._dim):
            raise ValueError(f"expected vectors of shape {(len(rows), self._dim)}, got {vectors.shape}")
        block = np.ascontiguousarray(self._coding.encode(vectors))
        for row, vector in zip(rows.tolist(), block, strict=True):
            write_at(self._handle, vector.tobytes(), len(self._header) + row * self._row_bytes)
        self.done[rows] = True

    def flush(self) -> None:
        """Push the vectors to the disk, then record which rows they are."""
        os.fsync(self._handle)
        bitmap = np.packbits(self.done).tobytes()
        head = struct.pack("<II", zlib.crc32(self._header), zlib.crc32(bitmap))
        atomic_write_bytes(self._progress, head + bitmap)

    def finish(self) -> None:
        """Give the complete file its name.

        Raises:
            StoreError: rows are missing.
        """
        if not self.done.all():
            raise StoreError(f"{self._final}: {int((~self.done).sum())} rows were never written")
        self.close()
        publish(self._partial, self._final)
        self._progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what was flushed can be taken up again."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _resume(self, size: int, overwrite: bool) -> bool:
        try:
            with self._partial.open("rb") as file:
                header = file.read(len(self._header))
            progress = self._progress.read_bytes()
        except FileNotFoundError:
            return False
        same_work = header == self._header and self._partial.stat().st_size == size
        if not same_work and not overwrite:
            raise StaleStageError(
                f"{self._partial} is unfinished work made with other settings. "
                "Finish it with those settings, or pass --overwrite to discard it."
            )
        bitmap = progress[8:]
        whole = len(progress) >= 8 and struct.unpack("<II", progress[:8]) == (
            zlib.crc32(self._header),
            zlib.crc32(bitmap),
        )
        if not same_work or not whole:
            return False
        self.done = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=len(self.done)).astype(np.bool_)
        return True


def _header_bytes(rows: int, dim: int, coding: Coding, metadata: Mapping[str, str]) -> bytes:
    width = coding.width(dim)
    header = {
        "__metadata__": dict(sorted({**metadata, **coding.to_metadata()}.items())),
        "embeddings": {
            "dtype": coding.format,
            "shape": [rows, width],
            "data_offsets": [0, rows * width * coding.dtype.itemsize],
        },
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _PAGE)
    return struct.pack("<Q", len(text)) + text
