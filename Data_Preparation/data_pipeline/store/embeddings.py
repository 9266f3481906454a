"""Embedding shards: safetensors files with one tensor `embeddings` of shape (rows, dim).

A shard is created at full size under a temporary name, and its rows are written in any order. Every few seconds the
rows that were flushed to disk are recorded, so a killed run resumes from there; the finished file has the same bytes
as that of an uninterrupted run.
"""

import glob
import json
import os
import struct
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError, NotFoundError, ShardMismatchError, StaleStageError, StoreError
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.store.quantization import Coding, coding_of
from data_pipeline.types import IntArray
from data_pipeline.utils import publish
from data_pipeline.utils.files import published, unique_name
from data_pipeline.utils.system import write_at

_PAGE = 4096  # the data starts at a page boundary, so that it can be mapped on its own
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
_ADVICE = "Make it again with: elm embed --overwrite"


@dataclass(frozen=True)
class EmbeddingShard:
    """Open safetensors file, whose header was read and checked against the size of the file."""

    path: Path
    rows: int
    dim: int
    """Width of a decoded vector; the stored row may be narrower."""
    coding: Coding
    offset: int
    """Position of the first row in the file, in bytes."""
    metadata: Mapping[str, str]

    @cached_property
    def stored(self) -> NDArray[Any]:
        """All rows as a read-only memory map, shape (rows, stored width)."""
        shape = (self.rows, self.coding.width(self.dim))
        if self.rows == 0:
            return np.zeros(shape, self.coding.dtype)
        return np.memmap(self.path, dtype=self.coding.dtype, mode="r", offset=self.offset, shape=shape)

    def vectors(self, rows: slice | IntArray) -> NDArray[Any]:
        """Return rows as vectors, shape (N, dim): floats as they are stored, others decoded to float32.

        Decoded vectors are normalized if the original vectors were.
        """
        return self.decode(self.stored[rows])

    @property
    def normalized(self) -> bool:
        """Whether the vectors have length 1."""
        return self.metadata.get("normalized") == "true"

    def decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Decode stored rows of shape (N, width) to vectors of shape (N, dim), as in `vectors`."""
        vectors = self.coding.decode(stored)
        return vectors if self.coding.is_float or not self.normalized else unit_length(vectors)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory map, since pickling it would copy the vectors."""
        return {name: value for name, value in self.__dict__.items() if name != "stored"}


def unit_length(vectors: NDArray[Any]) -> NDArray[Any]:
    """Scale vectors of shape (N, dim) to length 1, keeping their dtype; computed in float32, and zeros stay zero."""
    exact = vectors.astype(np.float32, copy=False)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    return (exact / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(vectors.dtype, copy=False)


def read_embedding_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the JSON header of a safetensors file; returns it and the position of the data in bytes.

    Raises:
        NotFoundError: the file does not exist.
        CorruptShardError: the file is not a safetensors file.
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
        raise NotFoundError(f"no such file: {path}. {_ADVICE.replace(' --overwrite', '')}") from None
    except (OSError, ValueError, struct.error) as error:
        raise CorruptShardError(f"{path} is not a safetensors file: {error}. {_ADVICE}") from error
    return header, 8 + length


def open_embedding_shard(path: Path) -> EmbeddingShard:
    """Open an embedding file and check its size against its header.

    Raises:
        NotFoundError: the file does not exist.
        CorruptShardError: the file is truncated or altered, or holds other tensors.
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
    expected, size = offset + rows * width * coding.dtype.itemsize, path.stat().st_size
    if size != expected:
        raise CorruptShardError(f"{path} has {size} bytes, its header expects {expected}. {_ADVICE}")
    return EmbeddingShard(path, rows, coding.dim(width), coding, offset, metadata)


def check_belongs(
    shard: EmbeddingShard, paragraphs: ParagraphShard, entry: ShardEntry | None, settings: Mapping[str, str] | None
) -> None:
    """Check that an embedding file was made from the paragraphs beside it, with the settings in its manifest.

    Args:
        shard: embedding file.
        paragraphs: paragraph shard beside it.
        entry: entry of the file in the manifest; None without a manifest.
        settings: settings of the embedder in the manifest; None without a manifest.

    Raises:
        ShardMismatchError: the file was made from other paragraphs.
        CorruptShardError: the file has another size than the manifest says.
        StaleStageError: the file was made with other settings; a file of the right size may still come from another
            model.
    """
    ids, texts = (shard.metadata.get(name) for name in ("ids_sha256", "texts_sha256"))
    unproved = ids is None and entry is None  # the older pipeline wrote no hashes
    content = (shard.rows, str(ids), str(texts))
    if shard.rows != paragraphs.rows or not (unproved or content == paragraphs.content):
        raise mismatch_error(shard.path, paragraphs, "it has", content, _ADVICE)
    size = shard.path.stat().st_size
    if entry is not None and entry.bytes not in (None, size):
        raise CorruptShardError(f"{shard.path} has {size} bytes, manifest.json expects {entry.bytes}. {_ADVICE}")
    for name, expected in (settings or {}).items():
        if shard.metadata.get(name) != expected:
            raise StaleStageError(
                f"{shard.path} was made with {name} {shard.metadata.get(name)!r}, manifest.json expects {expected!r}. "
                f"{_ADVICE}"
            )


def mismatch_error(
    path: Path, paragraphs: ParagraphShard, source: str, content: tuple[int, str, str], advice: str
) -> ShardMismatchError:
    """Make the error for an embedding file that was not made from the paragraphs beside it.

    Args:
        path: embedding file.
        paragraphs: paragraph shard beside it.
        source: where `content` was read, as the start of a clause: `it has`.
        content: number of rows of the file, and hashes of their ids and texts; see `ShardEntry.content`.
        advice: what to do, as complete sentences.
    """
    (rows, ids, texts), (own_rows, own_ids, own_texts) = content, paragraphs.content
    return ShardMismatchError(
        f"{path} was not made from {paragraphs.path}: {source} {rows} rows, ids {ids[:12]} and texts {texts[:12]}, "
        f"the paragraphs have {own_rows} rows, {own_ids[:12]} and {own_texts[:12]}. {advice}"
    )


def unfinished_metadata(final: Path) -> dict[str, str]:
    """Read the metadata of a shard that was begun and is not finished; empty if there is none that can be read.

    Args:
        final: path of the finished file.
    """
    try:
        header, _ = read_embedding_header(_partial_path(final))
    except StoreError:
        return {}
    return {str(name): str(value) for name, value in header.get("__metadata__", {}).items()}


def _partial_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


class EmbeddingWriter:
    """Writer of one shard, which resumes unfinished work after a crash.

    Args:
        final: path of the finished file.
        rows: number of rows of the shard.
        dim: width of a vector.
        coding: coding of the stored vectors.
        metadata: metadata of the file; unfinished work with other metadata is not resumed.
        overwrite: whether to discard unfinished work with other settings.
        span: first and exclusive last row that is written, where several processes write the file at once; None for
            all. Each has a record of its own rows.

    Raises:
        StaleStageError: unfinished work with other settings exists, and `overwrite` is false.
    """

    def __init__(
        self,
        final: Path,
        rows: int,
        dim: int,
        coding: Coding,
        metadata: Mapping[str, str],
        overwrite: bool = False,
        span: tuple[int, int] | None = None,
    ) -> None:
        self._final, self._dim, self._coding = final, dim, coding
        self._span = span or (0, rows)
        self._partial = _partial_path(final)
        ending = "" if self._span == (0, rows) else f"-{self._span[0]}-{self._span[1]}"
        self._progress = final.with_name(f".{final.name}.progress{ending}")
        self._header = _header_bytes(rows, dim, coding, metadata)
        self._row_bytes = coding.width(dim) * coding.dtype.itemsize
        self.done: NDArray[np.bool_] = np.zeros(rows, dtype=np.bool_)
        """Mask of the rows that are on disk or were written since the last flush, shape (rows,)."""
        self._size = len(self._header) + rows * self._row_bytes
        final.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self._is_same_work(overwrite):
                self.done |= self._recorded()
            else:
                self._begin()
            self._file = self._partial.open("r+b", buffering=0)

    def write(self, rows: IntArray, vectors: NDArray[Any]) -> None:
        """Write vectors to their rows.

        Args:
            rows: row numbers, shape (N,).
            vectors: vectors, shape (N, dim).
        """
        if vectors.shape != (len(rows), self._dim):
            raise ValueError(f"expected vectors of shape {(len(rows), self._dim)}, got {vectors.shape}")
        self.write_stored(rows, self._coding.encode(vectors))

    def write_stored(self, rows: IntArray, stored: NDArray[Any]) -> None:
        """Write vectors that are encoded already to their rows.

        Args:
            rows: row numbers, shape (N,).
            stored: encoded vectors, shape (N, width of the coding).
        """
        block, handle = np.ascontiguousarray(stored), self._file.fileno()
        for row, vector in zip(rows.tolist(), block, strict=True):
            write_at(handle, vector.tobytes(), len(self._header) + row * self._row_bytes)
        self.done[rows] = True

    def flush(self) -> None:
        """Flush the vectors to disk, then record their rows."""
        os.fsync(self._file.fileno())
        bitmap = np.packbits(self.done).tobytes()
        with published(self._progress, unique_name(self._progress) if self._is_shared else None) as temporary:
            temporary.write_bytes(self._checksums(bitmap) + bitmap)

    def finish(self) -> None:
        """Publish the file under its final name, if it is complete; of several processes, the last one does.

        Raises:
            StoreError: rows of the span are missing.
        """
        missing = int((~self.done[slice(*self._span)]).sum())
        if missing:
            raise StoreError(f"{self._final}: {missing} of {self._span[1] - self._span[0]} rows were not written")
        self.close()
        with self._locked():
            if not self._partial.exists() or not (self.done | self._recorded()).all():
                return
            publish(self._partial, self._final)
            leftovers = self._final.parent.glob(f"*.{glob.escape(self._final.name)}.p*") if self._is_shared else ()
            for path in (*self._records(), *leftovers):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; flushed rows can be resumed."""
        self._file.close()

    def _checksums(self, bitmap: bytes) -> bytes:
        return struct.pack("<II", zlib.crc32(self._header), zlib.crc32(bitmap))

    @property
    def _is_shared(self) -> bool:
        return self._span != (0, len(self.done))

    def _locked(self) -> AbstractContextManager[object]:
        """Lock what several processes must not do at once."""
        return FileLock(self._final.with_name(f".{self._final.name}.parts.lock")) if self._is_shared else nullcontext()

    def _begin(self) -> None:
        """Begin the file again, without vectors."""
        for path in self._records():
            path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)  # another process may still write to the one that is there
        with self._partial.open("xb", buffering=0) as file:
            file.truncate(self._size)
            write_at(file.fileno(), self._header, 0)

    def _is_same_work(self, overwrite: bool) -> bool:
        """Return whether there is unfinished work with the same settings."""
        try:
            with self._partial.open("rb") as file:
                header = file.read(len(self._header))
        except FileNotFoundError:
            return False
        same_work = header == self._header and self._partial.stat().st_size == self._size
        if not same_work and not overwrite and self._records():
            raise StaleStageError(
                f"{self._partial} is unfinished work made with other settings. "
                "Finish it with those settings, or pass --overwrite to discard it."
            )
        return same_work

    def _records(self) -> list[Path]:
        """Records of the rows that are on disk, one for each process that wrote some."""
        return sorted(self._final.parent.glob(f".{glob.escape(self._final.name)}.progress*"))

    def _recorded(self) -> NDArray[np.bool_]:
        """Mask of the rows that are on disk by all records."""
        done = np.zeros(len(self.done), np.bool_)
        for path in self._records():
            progress = path.read_bytes()
            if progress[:8] == self._checksums(progress[8:]):
                bits = np.frombuffer(progress[8:], np.uint8)
                done |= np.unpackbits(bits, count=len(done)).astype(np.bool_)
        return done


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
