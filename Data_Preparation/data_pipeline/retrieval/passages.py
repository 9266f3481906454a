"""The passages that are searched: ids, texts and source documents by row, as columns that are mapped.

A row number is what everything else here calls a passage: indexes give rows, and ids are looked up
only at the end. Nothing is held as a list of objects, so a million passages cost what their ids' hashes do.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipeline.errors import SourceError
from data_pipeline.retrieval.ids import REFUSED, WHITE_SPACE, refuse_same_spelling
from data_pipeline.store import ColumnHash, Columns, ParagraphStore, copy_path
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray, Split
from data_pipeline.user_files import check_id
from data_pipeline.utils import encodable, refuse_single_text, sha256_of_json

SCHEMA = pa.schema(
    [
        ("id", pa.large_string()),
        ("text", pa.large_string()),
        ("source_document_id", pa.large_string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
"""Of the columns; `start` and `end` are the passage's place in its document in characters, null where it has none."""

_BLOCK_ROWS = 8192


class Passage(NamedTuple):
    """One passage, for people; the stages work with rows."""

    id: str
    text: str
    source_document_id: str


class Passages:
    """Row numbers -> ids, texts and source documents; and ids -> row numbers.

    Args:
        table: columns as in `SCHEMA`, memory-mapped where they come from files.
        where: they come from, for messages.
        fingerprint: what identifies ids and texts in their order; None: the hash of both columns.
        selection: rows of the table, shape (N,); None for all.
        rows: rows of the dataset they are, which may have their vectors.
        left_out: windows of documents that were read and are no passages, by reason.

    Raises:
        SourceError: an id is there twice, has control characters, or is spelled like another in TREC's formats.
    """

    def __init__(
        self,
        table: pa.Table,
        where: str,
        fingerprint: str | None = None,
        selection: IntArray | None = None,
        rows: Rows | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.where, self.dataset_rows = where, rows
        self.left_out: Mapping[str, int] = left_out or {}
        """Windows of documents that were read and are no passages, by reason."""
        self._table, self._selection, self._fingerprint = table, selection, fingerprint
        self._ids, self._texts, self._documents = (table[name] for name in SCHEMA.names[:3])
        self._sorted_hashes, self._rows_by_hash = self._hashed_ids()
        for row in self._rows_matching(REFUSED)[:1].tolist():
            check_id(self.ids([row])[0], f"{where}, row {row}")
        refuse_same_spelling(self.ids(self._rows_matching(WHITE_SPACE)), self.known, "passage", where)

    def __len__(self) -> int:
        return self._table.num_rows if self._selection is None else len(self._selection)

    def __getitem__(self, row: int) -> Passage:
        """One passage.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.where} has rows 0 to {len(self) - 1}, not {row}")
        position = self._position(row)
        return Passage(*(column[position].as_py() for column in (self._ids, self._texts, self._documents)))

    def ids(self, rows: "IntArray | Sequence[int] | None" = None) -> list[str]:
        """Ids of rows, shape (N,); None for all, as a list in memory."""
        return self._values(self._ids, rows)

    def texts(self, rows: "IntArray | Sequence[int] | None" = None) -> list[str]:
        """Texts of rows, shape (N,); None for all, as a list in memory."""
        return self._values(self._texts, rows)

    def documents(self, rows: "IntArray | Sequence[int] | None" = None) -> list[str]:
        """Ids of the documents that passages are of; None for all, as a list in memory."""
        return self._values(self._documents, rows)

    def blocks(self, block_rows: int = _BLOCK_ROWS) -> Iterator[tuple[int, list[str]]]:
        """All texts in order: the first row of a block, and its texts."""
        for start in range(0, len(self), block_rows):
            yield start, self.texts(np.arange(start, min(start + block_rows, len(self))))

    def row_of(self, passage_id: str) -> int:
        """The row of an id.

        Raises:
            KeyError: no passage has it.
        """
        row = int(self.rows_of([passage_id])[0])
        if row < 0:
            raise KeyError(f"{self.where} has no passage {passage_id!r}")
        return row

    def rows_of(self, ids: Sequence[str]) -> IntArray:
        """The rows of ids, shape (N,); -1 where no passage has the id. A binary search each."""
        rows = np.full(len(ids), -1, np.int64)
        hashes = pl.Series(ids, dtype=pl.String).hash().to_numpy()
        first, last = (self._sorted_hashes.searchsorted(hashes, side) for side in ("left", "right"))
        for index in np.flatnonzero(first < last).tolist():
            # Different ids may have the same hash.
            same_hash = self._rows_by_hash[first[index] : last[index]].tolist()
            rows[index] = next((row for row in same_hash if self.ids([row])[0] == ids[index]), -1)
        return rows

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of some ids that passages have, in order."""
        return [name for name, row in zip(ids, self.rows_of(ids).tolist(), strict=True) if row >= 0]

    def neighbours(self, row: int) -> list[int]:
        """Rows of the same document that come right before or after a passage, or share characters with it."""
        document, (start, end) = self.documents([row])[0], self._span(row)
        neighbours = []
        for step in (-1, 1):
            other = row + step
            while 0 <= other < len(self) and self.documents([other])[0] == document:
                low, high = self._span(other)
                has_spans = None not in (start, end, low, high)
                overlaps = has_spans and low < end and start < high  # type: ignore[operator]
                if abs(other - row) > 1 and not overlaps:
                    break
                neighbours.append(other)
                other += step
        return sorted(neighbours)

    @cached_property
    def is_empty(self) -> NDArray[np.bool_]:
        """Which passages have nothing but white space, shape (N,): they are kept, and never found."""
        blocks = [np.zeros(0, np.bool_)]
        for batch in self._table.select(["text"]).to_batches(max_chunksize=_BLOCK_ROWS):
            lengths = pc.binary_length(pc.utf8_trim_whitespace(batch["text"]))
            blocks.append(lengths.to_numpy(zero_copy_only=False) == 0)
        return self._selected(np.concatenate(blocks))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that changes with any id, any text, and their order."""
        if self._fingerprint is not None:
            return self._fingerprint
        ids, texts = ColumnHash(), ColumnHash()
        for start, block in self.blocks():
            ids.update(self.ids(np.arange(start, start + len(block))))
            texts.update(block)
        return sha256_of_json([ids.hexdigest(), texts.hexdigest()])

    def _values(self, column: pa.ChunkedArray, rows: "IntArray | Sequence[int] | None") -> list[str]:
        index = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"{self.where} has rows 0 to {len(self) - 1}; asked for {index.min()} to {index.max()}")
        positions = index if self._selection is None else self._selection[index]
        if len(positions) and positions[-1] - positions[0] == len(positions) - 1 and (np.diff(positions) == 1).all():
            return column.slice(int(positions[0]), len(positions)).to_pylist()
        return [column[position].as_py() for position in positions.tolist()]

    def _position(self, row: int) -> int:
        """Position of a row in the table."""
        return row if self._selection is None else int(self._selection[row])

    def _selected(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those values of the table's rows that are the passages'."""
        return values if self._selection is None else values[self._selection]

    def _span(self, row: int) -> tuple[int | None, int | None]:
        position = self._position(row)
        return self._table["start"][position].as_py(), self._table["end"][position].as_py()

    def _rows_matching(self, expression: str) -> IntArray:
        """Rows whose ids match an expression of RE2."""
        matches = pc.match_substring_regex(self._ids, expression).to_numpy().astype(np.bool_)
        return np.flatnonzero(self._selected(matches))

    def _hashed_ids(self) -> tuple[NDArray[np.uint64], IntArray]:
        """Hashes of all ids, sorted, and their rows: 16 bytes a passage where a dict would take 150."""
        hashes = self._selected(pl.Series(pl.from_arrow(self._ids), dtype=pl.String).hash().to_numpy())
        order = np.argsort(hashes, kind="stable").astype(np.int64)
        ordered = hashes[order]
        for position in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
            first, second = order[position : position + 2].tolist()
            if self.ids([first]) == self.ids([second]):
                raise SourceError(
                    f"{self.where}: the id {self.ids([first])[0]!r} is there twice, in rows {first} and {second}; "
                    "ids must differ. Rename or remove one of them."
                )
        return ordered, order


def passages_of_lists(ids: Sequence[str], texts: Sequence[str], documents: Sequence[str] | None = None) -> Passages:
    """Passages that are in memory.

    Args:
        ids: shape (N,), all different.
        texts: shape (N,).
        documents: ids of the documents they are of, shape (N,); None: each is one of its own.

    Raises:
        SourceError: an id is there twice, or the lists have other lengths.
    """
    refuse_single_text(texts, "texts")
    documents = ids if documents is None else documents
    if not len(ids) == len(texts) == len(documents):
        raise SourceError(f"there are {len(ids)} ids, {len(texts)} texts and {len(documents)} documents")
    columns = [pa.array(map(encodable, values), pa.large_string()) for values in (ids, texts, documents)]
    spans = [pa.nulls(len(ids), pa.int64())] * 2
    return Passages(pa.table([*columns, *spans], SCHEMA), "the passages")


def passages_of_rows(rows: Rows) -> Passages:
    """The rows of a dataset, or of a selection of it; nothing is copied.

    Its vectors, where it was opened with them, are those that dense search uses.
    """
    return Passages(_of_columns(rows.columns), rows.where, rows.fingerprint(), rows.selection, rows)


def passages_of_store(store: ParagraphStore, split: Split, cache_dir: Path | None = None) -> Passages:
    """The paragraphs of a split, without any vectors.

    Args:
        cache_dir: where the copies for reading go; None: beside the paragraphs.

    Raises:
        StoreError: the split is not there.
        CorruptShardError: a file is damaged.
    """
    shards = store.shards(split)
    folder = cache_dir or store.folder / ".cache"
    columns = Columns(shards, lambda index: (shards[index], copy_path(folder, shards[index])))
    where, rows = f"{split} of {store.folder}", store.live_rows(split)
    return Passages(_of_columns(columns), where, store.rows_sha256(split), rows)


def _of_columns(columns: Columns) -> pa.Table:
    # The older pipeline knew of no documents.
    document = "document_id" if "document_id" in columns.schema.names else "text_id"
    parts = []
    for batch in columns.batches(list(dict.fromkeys(["text_id", "text", document]))):
        strings = [batch[name] for name in ("text_id", "text", document)]
        parts.append(pa.table([*strings, *[pa.nulls(batch.num_rows, pa.int64())] * 2], SCHEMA.names))
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()
