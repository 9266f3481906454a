"""The drop ledger `dropped.parquet`: one row for every paragraph that is left out, with the stage and the reason.

Beside it, `dropped_examples.parquet` has a few of the rows for each reason, with their texts.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.preprocess.dropped_examples import DropExamples, Text
from data_pipeline.store.dropped import examples_path, write_examples
from data_pipeline.types import BadRecord, Document
from data_pipeline.utils.system import fsync_path

STAGES_OF_OTHER_ROWS = ("duplicates", "decontamination")
"""Stages that leave out a row because of other rows, or of evaluation sets."""

_GROUP_ROWS = 10_000

_COLUMNS = ("text_id", "document_id", "stage", "reason", "duplicate_of")
_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])
_Row = tuple[str, str, str, str, str | None, float | None]


class DropLedger:
    """Writes the drop ledger and its examples, and counts the reasons.

    Args:
        path: path of the file.
        with_overlap: whether the ledger has the column `overlap`, the similarity to `duplicate_of`; null for rows that
            were dropped for other reasons.
    """

    def __init__(self, path: Path, with_overlap: bool = False) -> None:
        self._path = path
        self._schema = _SCHEMA.append(pa.field("overlap", pa.float64())) if with_overlap else _SCHEMA
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[_Row] = []
        self._waiting = self._schema.empty_table()
        self._mask: Callable[[str], str] | None = None
        self.examples = DropExamples()
        self.counts: Counter[str] = Counter()
        self.bad_records = 0

    def mask_examples(self, mask: Callable[[str], str] | None) -> None:
        """Mask the texts of examples by a function from now on; None for none."""
        self._mask = mask

    def record(self, rows: pl.DataFrame, stage: str, reasons: list[str | None]) -> pl.DataFrame:
        """Write down the rows that have a reason, and give back the others."""
        reason = pl.Series("reason", reasons, dtype=pl.String)
        dropped = rows.filter(reason.is_not_null())
        columns = (dropped["text_id"], dropped["document_id"], reason.drop_nulls(), dropped["text"])
        for text_id, document_id, reason_of_row, text in zip(*columns, strict=True):
            self.add(text_id, document_id, stage, reason_of_row, None, text)
        return rows.filter(reason.is_null())

    def add_empty_documents(self, documents: Iterable[Document]) -> int:
        """Write down documents that have no paragraph, such as an empty text; returns their number."""
        count = 0
        for document in documents:
            self.add(document.id, document.id, "quality", "empty_document", None, document.text)
            count += 1
        return count

    def add_bad_record(self, record: BadRecord) -> None:
        """Write down a record that is no document, by its place in the corpus."""
        self.add(record.where, record.where, "records", record.reason, None, text=None)
        self.bad_records += 1

    def add(
        self,
        text_id: str,
        document_id: str,
        stage: str,
        reason: str,
        duplicate_of: str | None,
        text: Text,
        overlap: float | None = None,
    ) -> None:
        """Write down one row.

        Args:
            text_id: id of the row.
            document_id: id of its document.
            stage: stage that leaves it out.
            reason: reason for it.
            duplicate_of: id of the row or item that it repeats, if that is the reason.
            text: text of the row, for the examples.
            overlap: similarity to `duplicate_of`.
        """
        self.examples.add(text_id, document_id, stage, reason, duplicate_of, self._masked(text))
        self._rows.append((text_id, document_id, stage, reason, duplicate_of, overlap))
        self.counts[reason] += 1
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _masked(self, text: Text) -> Text:
        """Return a text as it may be written."""
        mask = self._mask
        if mask is None or text is None:
            return text
        return lambda: mask(text() if callable(text) else text)

    def copy(self, rows: pa.Table) -> None:
        """Write down rows of another ledger, without its examples."""
        self._flush()
        if "overlap" in self._schema.names and "overlap" not in rows.column_names:
            rows = rows.append_column("overlap", pa.nulls(rows.num_rows, pa.float64()))
        self._write(rows.select(self._schema.names).cast(self._schema))
        for entry in rows["reason"].value_counts().to_pylist():
            self.counts[entry["values"]] += entry["counts"]

    def copy_file(self, path: Path) -> None:
        """Write down the rows of another ledger, and take its examples."""
        self.copy(pq.read_table(path))
        self.examples.merge(pq.read_table(examples_path(path)))

    def close(self) -> None:
        """Finish the files."""
        self._flush()
        if self._waiting.num_rows:
            self._writer.write_table(self._waiting)
        self._writer.close()
        fsync_path(self._path)
        write_examples(examples_path(self._path), self.examples.table())

    def _flush(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))[: len(self._schema)]
            self._rows = []
            self._write(pa.table(columns, schema=self._schema))

    def _write(self, rows: pa.Table) -> None:
        """Write rows in groups of the same size, whichever tables they come in."""
        self._waiting = pa.concat_tables([self._waiting, rows])
        while self._waiting.num_rows >= _GROUP_ROWS:
            self._writer.write_table(self._waiting.slice(0, _GROUP_ROWS).combine_chunks())
            self._waiting = self._waiting.slice(_GROUP_ROWS)
        self._waiting = self._waiting.combine_chunks()
