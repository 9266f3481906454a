"""Vectors in HDF5: one group with `embeddings`, `document_id`, the records' keys and labels.

Our files say in the group's attributes whose vectors they are, how many, their SHA-256, and that they are
complete. ML-Filter's have no attributes; they are read too.
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
from data_pipeline.utils import publish, require

h5py: Any = require("h5py", "annotation", "reading and writing HDF5")

FORMAT = 1
OWN_COLUMNS = ("embeddings", "document_id", "labels")
"""What a record's key must not be called to be a column."""
_CHUNK_ROWS = 1024
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises where it meets nonsense
_ESCAPED = {ord("/"): "%2F", ord("%"): "%25", 0: "%00"} | {code: f"%{code:X}" for code in range(0xD800, 0xE000)}


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive rows of a file."""

    ids: list[str]
    vectors: NDArray[Any]
    """Shape (N, D)."""
    columns: Mapping[str, list[str]]
    """By key; as text, or as JSON (see `write_embedding_file`)."""
    labels: NDArray[Any] | None
    """Shape (N,) or (N, T); NaN where there is none."""


@dataclass(frozen=True)
class Layout:
    """What a file's rows look like."""

    rows: int
    dim: int
    dtype: np.dtype[Any]
    """Of the vectors."""
    keys: Mapping[str, bool]
    """Kept keys, and whether all their values are plain text; those of others are JSON, or empty where a record has
    no such key."""
    labels: tuple[np.dtype[Any], int] | None
    """Their type, and how many a row has; 0 for a single number."""
    compression: str | None


def write_embedding_file(
    final: Path, group: str, layout: Layout, attributes: Mapping[str, str], blocks: Iterator[Block]
) -> None:
    """Write a whole file under a temporary name, then give it its own.

    The same input gives the same bytes.

    Args:
        final: the file.
        group: name of the group.
        layout: of the rows.
        attributes: what else the file is to say of itself.
        blocks: all rows, in order.

    Raises:
        CorruptShardError: the blocks have another number of rows.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    vectors_hash, ids_hash, done = hashlib.sha256(), ColumnHash(), 0
    with h5py.File(temporary, "w") as file:
        target = file.create_group(group)
        columns = _create(target, layout)
        for block in blocks:
            place = slice(done, done + len(block.ids))
            vectors = np.ascontiguousarray(block.vectors, dtype=layout.dtype)
            columns["embeddings"][place] = vectors
            columns["document_id"][place] = block.ids
            if block.labels is not None:
                columns["labels"][place] = block.labels
            for key, values in block.columns.items():
                columns["key " + key][place] = values
            vectors_hash.update(vectors.data)
            ids_hash.update(block.ids)
            done += len(block.ids)
        if done != layout.rows:
            raise CorruptShardError(f"{final}: {done} rows came, {layout.rows} were expected; nothing was written")
        target.attrs.update(attributes)
        target.attrs["embeddings_sha256"] = vectors_hash.hexdigest()
        target.attrs["ids_sha256"] = ids_hash.hexdigest()
        target.attrs["rows"] = layout.rows
        target.attrs["format"] = FORMAT
        target.attrs["complete"] = True
    publish(temporary, final)


def _create(target: Any, layout: Layout) -> dict[str, Any]:
    text = h5py.string_dtype("utf-8")
    shape = (layout.rows, layout.dim)
    more: dict[str, Any] = {}
    if layout.compression and layout.rows:
        more = {"chunks": (min(layout.rows, _CHUNK_ROWS), layout.dim), "compression": layout.compression}
    # Not compressed, the vectors lie in one piece and can be mapped into memory.
    columns = {
        "embeddings": target.create_dataset("embeddings", shape, layout.dtype, **more),
        "document_id": target.create_dataset("document_id", (layout.rows,), text),
    }
    if layout.labels is not None:
        dtype, targets = layout.labels
        columns["labels"] = target.create_dataset(
            "labels", (layout.rows, targets) if targets else (layout.rows,), dtype
        )
    for key, plain in layout.keys.items():
        column = target.create_dataset(_column(key), (layout.rows,), text)
        column.attrs["encoding"] = "text" if plain else "json"
        # An attribute can hold neither NUL nor half of a surrogate pair.
        storable = key.isprintable()
        column.attrs["key" if storable else "key_json"] = key if storable else json.dumps(key)
        columns["key " + key] = column
    return columns


def _column(key: str) -> str:
    """The name of a key's column: a slash would make a group, and a single dot is the group itself."""
    return "%2E" if key == "." else key.translate(_ESCAPED) or "%"


class EmbeddingFile:
    """An HDF5 file with vectors, open for reading; checked when it is opened.

    Args:
        path: the file.
        group: in it.
        names: what files of other systems call `embeddings`, `document_id` and `labels`.

    Raises:
        CorruptShardError: it cannot be read, is truncated or not complete, or holds something else.
    """

    def __init__(self, path: Path, group: str, names: Mapping[str, str] | None = None) -> None:
        self.path, self._names = path, names or {}
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise CorruptShardError(f"{path} is truncated, damaged or no HDF5 file: {error}. Make it again.") from error
        try:
            self._open(group)
        except _DAMAGE as error:
            self._file.close()
            raise CorruptShardError(f"{path} is damaged: {error}. Make it again.") from error
        except BaseException:
            self._file.close()
            raise

    def _open(self, group: str) -> None:
        found = _child(self._file, group, h5py.Group)
        if found is None:
            raise self._damaged(f"has no group {group!r}; it has {', '.join(self._file) or 'none'} (hdf5_dataset_name)")
        self._group = found
        self._vectors, self._ids = (self._dataset(name) for name in ("embeddings", "document_id"))
        self._labels = self._dataset("labels") if {"labels", self._names.get("labels")} & set(found) else None
        if self._vectors.ndim != 2 or self._vectors.dtype.kind != "f":
            raise self._damaged(f"must have vectors of shape (N, D), has {self._vectors.dtype} {self._vectors.shape}")
        self.rows, self.dim = (int(number) for number in self._vectors.shape)
        for column in (self._ids, self._labels):
            if column is not None and column.shape[:1] != (self.rows,):
                raise self._damaged(f"has {self.rows} vectors, and {column.name} is of shape {column.shape}")
        self.attributes: dict[str, str] = {name: str(value) for name, value in found.attrs.items()}
        self.is_ours = "format" in self.attributes
        if self.is_ours:
            self._check_ours()
        names = [name for name in found if name not in OWN_COLUMNS and name not in self._names.values()]
        self.keys = {_key(found[name], name): name for name in names if self._is_column(name)}

    def _check_ours(self) -> None:
        if self.attributes["format"] != str(FORMAT):
            raise self._damaged(f"has format {self.attributes['format']}, this version reads {FORMAT}")
        if self.attributes.get("complete") != "True":
            raise self._damaged("was never finished")
        if self.attributes.get("rows") != str(self.rows):
            raise self._damaged(f"says that it has {self.attributes.get('rows')} rows, and has {self.rows}")

    def _is_column(self, name: str) -> bool:
        found = _child(self._group, name, h5py.Dataset)
        return found is not None and found.shape == (self.rows,) and not _lies_elsewhere(found)

    def _dataset(self, name: str) -> Any:
        names = [self._names[name], name] if name in self._names else [name]
        found = next((child for one in names if (child := _child(self._group, one, h5py.Dataset)) is not None), None)
        if found is None or _lies_elsewhere(found):
            raise self._damaged(f"has no dataset {name!r} of its own in {self._group.name}")
        return found

    def _damaged(self, what: str) -> CorruptShardError:
        return CorruptShardError(f"{self.path} {what}. Make it again.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def has_labels(self) -> bool:
        """Whether rows have labels."""
        return self._labels is not None

    def vectors(self) -> NDArray[Any]:
        """All vectors, shape (N, D): mapped where they lie in one piece, else something that is sliced like it."""
        dataset = self._vectors
        offset = dataset.id.get_offset()
        if offset is None or dataset.chunks or not self.rows or not dataset.dtype.isnative:
            found: NDArray[Any] = dataset
            return found
        return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def ids(self, start: int, stop: int) -> list[str]:
        """Document ids of some rows."""
        return _texts(self._ids, start, stop, self.path)

    def column(self, key: str, start: int, stop: int) -> list[Any]:
        """What the records of some rows have under a key; None where a record has no such key."""
        dataset = self._group[self.keys[key]]
        if dataset.dtype.kind in "fiub":
            return list(dataset[start:stop].tolist())
        values = _texts(dataset, start, stop, self.path)
        if dataset.attrs.get("encoding") != "json":
            return values
        try:
            return [json.loads(value) if value else None for value in values]
        except ValueError as error:
            raise self._damaged(f"has no JSON in {dataset.name}: {error}") from error

    def labels(self, start: int, stop: int) -> NDArray[Any]:
        """Labels of some rows, shape (N,) or (N, T)."""
        if self._labels is None:
            raise self._damaged("has no labels")
        found: NDArray[Any] = self._labels[start:stop]
        return found


def _key(column: Any, name: str) -> str:
    """The record's key that a column is of."""
    as_json = column.attrs.get("key_json")
    return str(column.attrs.get("key", name) if as_json is None else json.loads(as_json))


def _child(parent: Any, name: str, kind: type) -> Any:
    """A group or dataset that lies in the file itself: links may lead to any file of the machine."""
    if "/" in name or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return None
    found = parent[name]
    return found if isinstance(found, kind) else None


def _lies_elsewhere(dataset: Any) -> bool:
    """Its bytes are in other files, whichever those may be."""
    return dataset.external is not None or dataset.is_virtual


def _texts(dataset: Any, start: int, stop: int, path: Path) -> list[str]:
    try:
        values: Sequence[Any] = dataset[start:stop]
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except _DAMAGE as error:  # not UTF-8, for one
        raise CorruptShardError(f"{path}: {dataset.name} is damaged: {error}. Make the file again.") from error
