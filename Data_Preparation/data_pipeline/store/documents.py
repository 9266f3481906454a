"""Documents of a dataset, kept beside its paragraphs so that it can grow: which were read, and what they contained.

`.documents.arrow` has a row for each document of the sources, in the order in which they were read; it is mapped
into memory. `.set_aside.parquet` has the rows that passed every filter, but were left out because of other
rows, as duplicates are: without those, they would have been kept.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.errors import StoreError
from data_pipeline.store.hashing import DIGEST_BYTES
from data_pipeline.types import Document, IntArray
from data_pipeline.utils.system import fsync_path

DOCUMENTS = ".documents.arrow"
SET_ASIDE = ".set_aside.parquet"

_SOURCES = b"sources"
_BATCH_ROWS = 8192

_SCHEMA = pa.schema(
    [
        ("source", pa.int32()),
        ("document_id", pa.string()),
        ("stored_id", pa.string()),  # if it differs: of documents that were renamed
        ("sha256", pa.binary(DIGEST_BYTES)),
        ("rows", pa.int64()),
    ]
)


def document_sha256(document: Document) -> bytes:
    """Compute the SHA-256 of all that a document is made of, but for its id."""
    about = [document.format, document.title, document.source_split, dict(sorted(document.metadata.items()))]
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(b"\0" + document.text.encode("utf-8", "surrogatepass"))
    return digest.digest()


def id_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Compute keys of 64 bits of document ids, the same in every process, shape (N,)."""
    digests = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, np.uint64)


class DocumentWriter:
    """Writer of `.documents.arrow`, or of a list of documents that becomes one.

    Args:
        path: path of the file.
        sources: section `corpus` that each source is opened with, by number; see `Documents.sources`.
    """

    def __init__(self, path: Path, sources: Sequence[Mapping[str, Any]] = ()) -> None:
        self._path = path
        self._file = pa.ipc.new_file(path, _SCHEMA.with_metadata({_SOURCES: json.dumps(list(sources))}))
        self._rows: list[tuple[int, str, bytes]] = []
        self.count = 0

    def add(self, source: int, document_id: str, sha256: bytes) -> None:
        """Append a document without rows."""
        self._rows.append((source, document_id, sha256))
        self.count += 1
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def watch(self, documents: Iterable[Document], source: int) -> Iterator[Document]:
        """Append documents of a source while they are iterated over."""
        for document in documents:
            self.add(source, document.id, document_sha256(document))
            yield document

    def write(self, table: pa.Table) -> None:
        """Append a table of documents."""
        self._flush()
        self._file.write_table(table.cast(_SCHEMA), max_chunksize=_BATCH_ROWS)
        self.count += table.num_rows

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._file.close()
        fsync_path(self._path)

    def _flush(self) -> None:
        if self._rows:
            sources, ids, digests = zip(*self._rows, strict=True)
            columns = [sources, ids, [None] * len(ids), digests, [0] * len(ids)]
            arrays = [pa.array(values, kind) for values, kind in zip(columns, _SCHEMA.types, strict=True)]
            self._file.write_table(pa.table(arrays, schema=_SCHEMA))
            self._rows.clear()


class Documents:
    """The documents of a dataset, numbered from 0 in the order in which they were read.

    Args:
        folder: processed folder.

    Raises:
        StoreError: the folder does not record its documents.
    """

    ADVICE = "Run elm run --overwrite once; vectors are reused."

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / DOCUMENTS
        try:
            self.table = read_documents(path)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{folder} does not record its documents ({path.name} is missing or damaged), like datasets of earlier "
                f"versions of this package. {self.ADVICE}"
            ) from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Section `corpus` that each source is opened with, by number; local paths are relative to the data folder."""
        sources: list[dict[str, Any]] = json.loads((self.table.schema.metadata or {})[_SOURCES])
        return sources

    def keys(self) -> NDArray[np.uint64]:
        """Return the keys of the ids in the sources; see `id_keys`."""
        return self._keys("document_id")

    def stored_keys(self) -> NDArray[np.uint64]:
        """Return the keys of the ids in the paragraph files."""
        return self._keys("stored_id")

    def sha256(self, number: int) -> bytes:
        """Return the digest of a document; see `document_sha256`."""
        return bytes(self.table["sha256"][number].as_py())

    def _keys(self, column: str) -> NDArray[np.uint64]:
        parts = [np.zeros(0, np.uint64)]
        for batch in self.table.select(["document_id", "stored_id"]).to_batches(_BATCH_ROWS):
            ids = batch["document_id"].to_pylist()
            if column == "stored_id":
                ids = [new or old for old, new in zip(ids, batch["stored_id"].to_pylist(), strict=True)]
            parts.append(id_keys(ids))
        return np.concatenate(parts)


def document_tables(path: Path) -> Iterator[pa.Table]:
    """Read a list of documents in parts, which do not stay in memory as a map does."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])


def read_documents(path: Path) -> pa.Table:
    """Map a list of documents into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_documents(
    folder: Path,
    listed: Iterable[pa.Table],
    rows: IntArray,
    stored_ids: Mapping[int, str],
    sources: Sequence[Mapping[str, Any]],
) -> None:
    """Write the documents of a processed folder.

    Args:
        folder: folder that is not published yet.
        listed: the documents in order, in parts.
        rows: number of rows that are kept of each, shape (N,).
        stored_ids: ids of documents that were renamed, by number.
        sources: see `Documents.sources`.
    """
    writer, start = DocumentWriter(folder / DOCUMENTS, sources), 0
    for batch in chain.from_iterable(table.to_batches(_BATCH_ROWS) for table in listed):
        end = start + batch.num_rows
        names = [stored_ids.get(number) for number in range(start, end)] if stored_ids else [None] * batch.num_rows
        columns = [
            batch["source"],
            batch["document_id"],
            pa.array(names, pa.string()),
            batch["sha256"],
            pa.array(rows[start:end]),
        ]
        writer.write(pa.Table.from_arrays(columns, schema=_SCHEMA))
        start = end
    writer.close()


def write_set_aside(folder: Path, batches: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write the rows that were left out because of other rows."""
    path = folder / SET_ASIDE
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for table in batches:
            if table.num_rows:
                file.write_table(table.cast(schema))
    fsync_path(path)


def set_aside_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """Read the rows that were left out because of other rows.

    Raises:
        StoreError: the file is missing or damaged.
    """
    path = folder / SET_ASIDE
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=8192)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} is missing or damaged. {Documents.ADVICE}") from error
