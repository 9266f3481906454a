"""The drop ledger `dropped.parquet`: one row for every paragraph that is left out, with the stage and the reason."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.types import BadRecord, Document
from data_pipeline.utils.system import fsync_path

STAGES_OF_OTHER_ROWS = ("duplicates", "decontamination")
"""Stages that leave out a row because of other rows, or of evaluation sets."""

_GROUP_ROWS = 10_000

_COLUMNS = ("text_id", "document_id", "stage", "reason", "duplicate_of")
_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])
_Row = tuple[str, str, str, str, str | None, float | None]


class DropLedger:
    """Writes the drop ledger, and counts the reasons.

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
        self.counts: Counter[str] = Counter()
        self.bad_records = 0

    def record(self, rows: pl.DataFrame, stage: str, reasons: list[str | None]) -> pl.DataFrame:
        """Write down the rows that have a reason, and give back the others."""
        reason = pl.Series("reason", reasons, dtype=pl.String)
        dropped = rows.filter(reason.is_not_null())
        columns = (dropped["text_id"], dropped["document_id"], reason.drop_nulls())
        for text_id, document_id, reason_of_row in zip(*columns, strict=True):
            self.add(text_id, document_id, stage, reason_of_row, None)
        return rows.filter(reason.is_null())

    def add_empty_documents(self, documents: Iterable[Document]) -> int:
        """Write down documents that have no paragraph, such as an empty text; returns their number."""
        empty = [document.id for document in documents]
        for identity in empty:
            self.add(identity, identity, "quality", "empty_document", None)
        return len(empty)

    def add_bad_record(self, record: BadRecord) -> None:
        """Write down a record that is no document, by its place in the corpus."""
        self.add(record.where, record.where, "records", record.reason, None)
        self.bad_records += 1

    def add(
        self,
        text_id: str,
        document_id: str,
        stage: str,
        reason: str,
        duplicate_of: str | None,
        overlap: float | None = None,
    ) -> None:
        """Write down one row."""
        self._rows.append((text_id, document_id, stage, reason, duplicate_of, overlap))
        self.counts[reason] += 1
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def copy(self, rows: pa.Table) -> None:
        """Write down rows of another ledger."""
        self._flush()
        self._write(rows.select(self._schema.names).cast(self._schema))
        for entry in rows["reason"].value_counts().to_pylist():
            self.counts[entry["values"]] += entry["counts"]

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        if self._waiting.num_rows:
            self._writer.write_table(self._waiting)
        self._writer.close()
        fsync_path(self._path)

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
