"""Vectors in HDF5 files: a group with the datasets `embeddings`, `document_id`, `labels`, and one for each record key.

Files of this package record the embedder, the number of rows, checksums and completeness in the attributes of the
group. Files of ML-Filter have no attributes and can be read too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import CorruptShardError
from data_pipeline.store import ColumnHash
from data_pipeline.utils import converted_errors, published, require

h5py: Any = require("h5py", "annotation", "reading and writing HDF5")

FORMAT = 1
OWN_COLUMNS = ("embeddings", "document_id", "labels")
"""Names of datasets that no record key may have."""
_CHUNK_ROWS = 1024
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises for damaged files
_ESCAPED = {ord("/"): "%2F", ord("%"): "%25", 0: "%00"} | {code: f"%{code:X}" for code in range(0xD800, 0xE000)}


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive rows of a file."""

    ids: list[str]
    vectors: NDArray[Any]
    """Vectors, shape (N, D)."""
    columns: Mapping[str, list[str]]
    """Values of the record keys by key, as text or as JSON (see `Layout.keys`)."""
    labels: NDArray[Any] | None
    """Labels, shape (N,) or (N, T); NaN for a missing label."""


@dataclass(frozen=True)
class Layout:
    """Shapes and types of the datasets of a file."""

    rows: int
    dim: int
    dtype: np.dtype[Any]
    """Data type of the vectors."""
    keys: Mapping[str, bool]
    """Record keys to store, and whether all their values are plain text; values of other keys are stored as JSON, or
    empty if a record lacks the key."""
    labels: tuple[np.dtype[Any], int] | None
    """Data type of the labels, and their number per row; 0 for a single number."""
    compression: str | None
    """HDF5 compression filter of the vectors; None for none."""


def write_embedding_file(
    final: Path, group: str, layout: Layout, attributes: Mapping[str, str], blocks: Iterator[Block]
) -> None:
    """Write a file atomically; the same input gives the same bytes.

    Args:
        final: path of the file.
        group: name of the group.
        layout: shapes and types of the datasets.
        attributes: additional attributes of the group.
        blocks: all rows, in order.

    Raises:
        CorruptShardError: the blocks have another number of rows than the layout.
    """
    vectors_hash, ids_hash, done = hashlib.sha256(), ColumnHash(), 0
    with published(final) as temporary, h5py.File(temporary, "w") as file:
        target = file.create_group(group)
        columns = _create_datasets(target, layout)
        for block in blocks:
            rows = slice(done, done + len(block.ids))
            vectors = np.ascontiguousarray(block.vectors, dtype=layout.dtype)
            columns["embeddings"][rows] = vectors
            columns["document_id"][rows] = block.ids
            if block.labels is not None:
                columns["labels"][rows] = block.labels
            for key, values in block.columns.items():
                columns["key " + key][rows] = values
            vectors_hash.update(vectors.data)
            ids_hash.update(block.ids)
            done += len(block.ids)
        if done != layout.rows:
            raise CorruptShardError(f"{final}: received {done} rows, expected {layout.rows}; nothing was written")
        target.attrs.update(attributes)
        target.attrs["embeddings_sha256"] = vectors_hash.hexdigest()
        target.attrs["ids_sha256"] = ids_hash.hexdigest()
        target.attrs["rows"] = layout.rows
        target.attrs["format"] = FORMAT
        target.attrs["complete"] = True


def _create_datasets(target: Any, layout: Layout) -> dict[str, Any]:
    text = h5py.string_dtype("utf-8")
    compression: dict[str, Any] = {}
    if layout.compression and layout.rows:
        compression = {"chunks": (min(layout.rows, _CHUNK_ROWS), layout.dim), "compression": layout.compression}
    # Uncompressed vectors are contiguous in the file and can be memory-mapped.
    columns = {
        "embeddings": target.create_dataset("embeddings", (layout.rows, layout.dim), layout.dtype, **compression),
        "document_id": target.create_dataset("document_id", (layout.rows,), text),
    }
    if layout.labels is not None:
        dtype, targets = layout.labels
        shape = (layout.rows, targets) if targets else (layout.rows,)
        columns["labels"] = target.create_dataset("labels", shape, dtype)
    for key, plain in layout.keys.items():
        column = target.create_dataset(_column(key), (layout.rows,), text)
        column.attrs["encoding"] = "text" if plain else "json"
        # An attribute can hold neither NUL nor a lone surrogate.
        storable = key.isprintable()
        column.attrs["key" if storable else "key_json"] = key if storable else json.dumps(key)
        columns["key " + key] = column
    return columns


def _column(key: str) -> str:
    """Return the dataset name of a record key: a slash would make a group, and a single dot is the group itself."""
    return "%2E" if key == "." else key.translate(_ESCAPED) or "%"


class EmbeddingFile:
    """Reader of an HDF5 file with vectors, which is checked when it is opened.

    Args:
        path: path of the file.
        group: name of the group.
        names: names that files of other systems use for `embeddings`, `document_id` and `labels`.

    Raises:
        CorruptShardError: the file cannot be read, is truncated or incomplete, or lacks the datasets.
    """

    def __init__(self, path: Path, group: str, names: Mapping[str, str] | None = None) -> None:
        self.path, self._names = path, names or {}
        damaged = f"{path} is truncated, damaged or not an HDF5 file"
        with converted_errors(OSError, CorruptShardError, damaged, "Make it again."):
            self._file = h5py.File(path, "r")
        try:
            with converted_errors(_DAMAGE, CorruptShardError, f"{path} is damaged", "Make it again."):
                self._open(group)
        except BaseException:
            self._file.close()
            raise

    def _open(self, group: str) -> None:
        opened = _child(self._file, group, h5py.Group)
        if opened is None:
            raise self._damaged(f"has no group {group!r}; it has {', '.join(self._file) or 'none'} (hdf5_dataset_name)")
        self._group = opened
        self._vectors, self._ids = (self._dataset(name) for name in ("embeddings", "document_id"))
        self._labels = self._dataset("labels") if {"labels", self._names.get("labels")} & set(opened) else None
        if self._vectors.ndim != 2 or self._vectors.dtype.kind != "f":
            raise self._damaged(
                f"must have floating-point vectors of shape (N, D), found {self._vectors.dtype} {self._vectors.shape}"
            )
        self.rows, self.dim = (int(number) for number in self._vectors.shape)
        for column in (self._ids, self._labels):
            if column is not None and column.shape[:1] != (self.rows,):
                raise self._damaged(f"has {self.rows} vectors, and {column.name} is of shape {column.shape}")
        self.attributes: dict[str, str] = {name: str(value) for name, value in opened.attrs.items()}
        self.is_ours = "format" in self.attributes
        if self.is_ours:
            self._check_ours()
        names = [name for name in opened if name not in OWN_COLUMNS and name not in self._names.values()]
        self.keys = {_key(opened[name], name): name for name in names if self._is_column(name)}

    def _check_ours(self) -> None:
        if self.attributes["format"] != str(FORMAT):
            raise self._damaged(f"has format {self.attributes['format']}, expected {FORMAT}")
        if self.attributes.get("complete") != "True":
            raise self._damaged("was never finished")
        if self.attributes.get("rows") != str(self.rows):
            raise self._damaged(f"has {self.rows} rows, its attributes expect {self.attributes.get('rows')}")

    def _is_column(self, name: str) -> bool:
        dataset = _child(self._group, name, h5py.Dataset)
        return dataset is not None and dataset.shape == (self.rows,) and not _is_external(dataset)

    def _dataset(self, name: str) -> Any:
        names = [self._names[name], name] if name in self._names else [name]
        children = (_child(self._group, candidate, h5py.Dataset) for candidate in names)
        dataset = next((child for child in children if child is not None), None)
        if dataset is None or _is_external(dataset):
            raise self._damaged(f"has no dataset {name!r} of its own in {self._group.name}")
        return dataset

    def _damaged(self, fault: str) -> CorruptShardError:
        return CorruptShardError(f"{self.path} {fault}. Make it again.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def has_labels(self) -> bool:
        """Whether rows have labels."""
        return self._labels is not None

    def vectors(self) -> NDArray[Any]:
        """Return all vectors, shape (N, D): a memory map if they are contiguous, else an HDF5 dataset."""
        dataset = self._vectors
        offset = dataset.id.get_offset()
        if offset is None or dataset.chunks or not self.rows or not dataset.dtype.isnative:
            return dataset
        return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the document ids of the rows from `start` to `stop`."""
        return _texts(self._ids, start, stop, self.path)

    def column(self, key: str, start: int, stop: int) -> list[Any]:
        """Return the values of a record key for the rows from `start` to `stop`; None if a record lacks the key."""
        dataset = self._group[self.keys[key]]
        if dataset.dtype.kind in "fiub":
            return list(dataset[start:stop].tolist())
        values = _texts(dataset, start, stop, self.path)
        if dataset.attrs.get("encoding") != "json":
            return values
        invalid = f"{self.path} has invalid JSON in {dataset.name}"
        with converted_errors(ValueError, CorruptShardError, invalid, "Make it again."):
            return [json.loads(value) if value else None for value in values]

    def labels(self, start: int, stop: int) -> NDArray[Any]:
        """Return the labels of the rows from `start` to `stop`, shape (N,) or (N, T)."""
        if self._labels is None:
            raise self._damaged("has no labels")
        return self._labels[start:stop]


def _key(column: Any, name: str) -> str:
    """Return the record key that a dataset holds."""
    as_json = column.attrs.get("key_json")
    return str(column.attrs.get("key", name) if as_json is None else json.loads(as_json))


def _child(parent: Any, name: str, kind: type) -> Any:
    """Return a group or dataset of the file itself, else None: links may lead to any file of the machine."""
    if "/" in name or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return None
    child = parent[name]
    return child if isinstance(child, kind) else None


def _is_external(dataset: Any) -> bool:
    """Return whether the values of a dataset are stored in other files."""
    return dataset.external is not None or dataset.is_virtual


def _texts(dataset: Any, start: int, stop: int, path: Path) -> list[str]:
    damaged = f"{path}: {dataset.name} is damaged"  # such as text that is not UTF-8
    with converted_errors(_DAMAGE, CorruptShardError, damaged, "Make the file again."):
        values: Sequence[Any] = dataset[start:stop]
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
