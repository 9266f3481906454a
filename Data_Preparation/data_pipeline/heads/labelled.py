"""Vectors with labels, for training and evaluating heads: from our stores, HDF5, parquet or JSON Lines."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.embeddings.reload import load_maker_of
from data_pipeline.errors import SourceError
from data_pipeline.heads.identity import EmbedderIdentity, identity_of, identity_settings
from data_pipeline.store.lookup import read_frame
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray
from data_pipeline.user_files.records import is_parquet, parquet_schema
from data_pipeline.user_files.tables import UserTable, read_table
from data_pipeline.utils import converted_errors, shortened

logger = logging.getLogger(__name__)

_GROUP_COLUMNS = ("document_id", "text_id")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NO_LABEL = -100  # what Hugging Face trainers, and so ML-Filter's files, have for it


@dataclass(frozen=True, eq=False)
class Labelled:
    """N vectors and what they are labelled with, in memory."""

    vectors: NDArray[Any]
    """Shape (N, D), as they are stored."""
    labels: NDArray[Any]
    """Shape (N,) or (N, T); numbers, NaN where there is none, or strings."""
    documents: NDArray[np.str_]
    """Which document each is of, shape (N,): rows of one document are never divided."""
    embedder: Mapping[str, str] = field(default_factory=dict)
    """What is known of the embedder, see `identity.FIELDS`."""
    where: str = "the vectors"
    """For messages."""

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: IntArray | NDArray[np.bool_]) -> "Labelled":
        """Some rows."""
        return Labelled(self.vectors[rows], self.labels[rows], self.documents[rows], self.embedder, self.where)


def label_name(label: Any) -> str:
    """What a head calls a label: the string, or the number without needless digits."""
    return str(label) if isinstance(label, str) else f"{float(label):g}"


def labels_of_rows(rows: Rows, column: str) -> Labelled:
    """Paragraphs of a store, labelled by a column of their metadata; rows without a label are left out.

    Raises:
        SourceError: there is no such column, or no row has a label.
    """
    if column not in rows.metadata_names:
        columns = ", ".join(rows.metadata_names)
        raise SourceError(f"the paragraphs have no column {column!r} to be the label; they have {columns}")
    return _of_rows(rows, read_frame(rows, [column])[column], f"{rows.where}, labelled by {column}")


def labels_of_table(rows: Rows, source: "str | Path | pl.DataFrame", column: str) -> Labelled:
    """Paragraphs of a store, labelled by a table with `text_id` or `document_id`; others are left out.

    Raises:
        SourceError: the table lacks a column, labels one id twice, or labels nothing of the store.
    """
    table = read_table(source, {"text_id": "id", "document_id": "id", column: "value"})
    key = next((name for name in ("text_id", "document_id") if name in table.names), None)
    if key is None or column not in table.names:
        raise SourceError(
            f"{table.where} must have the columns text_id or document_id, and {column}; it has "
            f"{shortened(', '.join(table.names))}"
        )
    _check_labelled_once(table, key)
    own = read_frame(rows, [key]).select(pl.col(key).cast(pl.String))
    labels = own.join(table.frame.select(key, column), on=key, how="left", maintain_order="left")
    elsewhere = int((~table.frame[key].is_in(own[key].implode())).sum())
    logger.info(
        "%s: %s labels, %s of them of a %s that %s does not have; %s of %s rows have a label",
        table.where, f"{len(table.frame):,}", f"{elsewhere:,}", key, rows.source.split,
        f"{len(labels) - labels[column].null_count():,}", f"{len(labels):,}",
    )  # fmt: skip
    return _of_rows(rows, labels[column], f"{rows.where}, labelled by {table.where}")


def _check_labelled_once(table: UserTable, key: str) -> None:
    repeated = np.flatnonzero(table.frame[key].is_duplicated().to_numpy())
    if len(repeated):
        name = table.frame[key][int(repeated[0])]
        first, second = [row for row in repeated.tolist() if table.frame[key][row] == name][:2]
        raise SourceError(
            f"{table.place(second)} labels {key} {name!r} again, after {table.unit} {table.numbers[first]}; "
            f"leave one of the {table.unit}s"
        )


def labels_of_file(path: Path, column: str, group: str = "train") -> Labelled:
    """A file that has vectors and labels: HDF5 (ours or ML-Filter's), or a table with a column `embedding`.

    Args:
        path: `.h5`, `.parquet` or `.jsonl`.
        column: with the labels, in a table.
        group: in an HDF5 file.

    Raises:
        SourceError: it has no labels, or no vectors.
        CorruptShardError: it is damaged.
    """
    if _is_hdf5(path):
        return _of_hdf5(path, group)
    read = read_table(path, {"document_id": "id", "text_id": "id", "embedding": "value", column: "value"})
    read.require("embedding", column)
    table, where = read.frame, read.where
    message = f"{where}: embedding must hold lists of numbers of one length"
    with converted_errors((ValueError, TypeError), SourceError, message):
        vectors = np.array(table["embedding"].to_list(), np.float32)
    if vectors.ndim != 2:
        raise SourceError(f"{where}: embedding must hold lists of numbers, found {table['embedding'].dtype}")
    documents = next((table[name] for name in _GROUP_COLUMNS if name in table.columns), np.arange(len(table)))
    return _labelled(Labelled(vectors, _array(table[column], where), np.array(documents).astype(np.str_), {}, where))


def has_vectors(path: Path) -> bool:
    """Whether a labels file has the vectors too."""
    if _is_hdf5(path):
        return True
    return "embedding" in (parquet_schema(path).names if is_parquet(path) else read_table(path, {}).names)


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5 or path.suffix in {".h5", ".hdf5"}


def _of_hdf5(path: Path, group: str) -> Labelled:
    from data_pipeline.store.hdf5 import EmbeddingFile  # needs h5py

    with EmbeddingFile(path, group) as file:
        if not file.has_labels:
            raise SourceError(f"{path} has no labels; embed with save_labels: true")
        labels = file.labels(0, file.rows).astype(np.float64)
        vectors = np.array(file.vectors()[:])
        ids = np.array(file.ids(0, file.rows), np.str_)
        embedder = identity_settings(file.attributes) if file.is_ours else {}
    labels[labels == _NO_LABEL] = np.nan
    return _labelled(Labelled(vectors, labels, ids, embedder, str(path)))


def _of_rows(rows: Rows, labels: pl.Series, where: str) -> Labelled:
    if labels.dtype.is_float():
        labels = labels.fill_nan(None)
    labelled = np.flatnonzero(labels.is_not_null().to_numpy())
    if not len(labelled):
        raise SourceError(f"{where} labels none of the {len(rows)} rows of {rows.source.split}")
    group = next(name for name in _GROUP_COLUMNS if name in rows.metadata_names)
    return Labelled(
        vectors=rows.vectors(labelled),
        labels=_array(labels.drop_nulls(), where),
        documents=np.array(read_frame(rows, [group])[group].to_list(), np.str_)[labelled],
        embedder=identity_settings(rows.first_shard.metadata),
        where=where,
    )


def _array(labels: pl.Series, where: str) -> NDArray[Any]:
    if labels.dtype == pl.List:
        message = f"{where}: lists of labels must be equally many numbers"
        with converted_errors((ValueError, TypeError), SourceError, message):
            return np.array(labels.to_list(), np.float64)
    if labels.dtype.is_numeric() or labels.dtype == pl.Boolean:
        return labels.cast(pl.Float64).to_numpy()
    if labels.dtype in (pl.String, pl.Categorical, pl.Enum):
        return np.array([label or "" for label in labels.cast(pl.String).to_list()], np.str_)
    raise SourceError(f"{where}: labels must be numbers, lists of them, or strings; found {labels.dtype}")


def _labelled(data: Labelled) -> Labelled:
    """Leave out the rows that have no label at all."""
    labels = data.labels.reshape(len(data), -1)
    has_label = (labels != "" if labels.dtype.kind == "U" else ~np.isnan(labels)).any(axis=1)
    if not has_label.any():
        raise SourceError(f"{data.where} has no label in any of its {len(data)} rows")
    return data if has_label.all() else data.take(has_label)


def identity_of_maker(data: Labelled, probes: bool = True) -> EmbedderIdentity | None:
    """The identity of the embedder that made some vectors, for the head that is trained on them.

    Args:
        data: the vectors.
        probes: load the embedder, and keep its vectors of the probe sentences.

    Returns:
        None where the vectors' file does not say what made them.

    Raises:
        ModelError, SourceError: the embedder cannot be loaded.
        ShardMismatchError: it is another one now.
    """
    if not data.embedder.keys() - {"dim"}:
        logger.warning(
            "%s does not say which embedder made its vectors, and the head will not know it either", data.where
        )
        return None
    if not probes:
        return EmbedderIdentity(data.embedder)
    return identity_of(load_maker_of(data.embedder, data.where))


def join(parts: Sequence[Labelled]) -> Labelled:
    """Several files as one.

    Raises:
        SourceError: they are of several embedders, or their labels are of several kinds.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.embedder != first.embedder or part.vectors.shape[1] != first.vectors.shape[1]:
            raise SourceError(f"{part.where} has vectors of another embedder than {first.where}")
        if part.labels.ndim != first.labels.ndim or part.labels.dtype.kind != first.labels.dtype.kind:
            raise SourceError(f"{part.where} has labels of another kind than {first.where}")
    return Labelled(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.documents for part in parts]),
        first.embedder,
        first.where if len(parts) == 1 else f"{first.where} and {len(parts) - 1} more",
    )
