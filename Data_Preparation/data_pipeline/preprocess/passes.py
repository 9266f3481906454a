"""The three passes over a corpus: candidates are staged, duplicates are marked, splits are written.

Whether a row repeats an earlier one is known only when all rows have been seen, so candidates are staged in a file
between the passes, and memory does not grow with the corpus.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.config import PreprocessConfig, SplitConfig
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS, cut_into_chunks, fit_long_rows
from data_pipeline.preprocess.document_ids import (
    drop_duplicate_ids,
    new_ids,
    reject_duplicate_ids,
    rename_documents,
)
from data_pipeline.preprocess.filters import count_reason, quality_reason
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.paragraphs import document_batches, extract_paragraphs
from data_pipeline.preprocess.row_filters import Filters, filter_columns
from data_pipeline.preprocess.split import split_by_document, split_by_shuffle, split_by_source
from data_pipeline.preprocess.staging import Staging
from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.store.paragraphs import ShardWriter, paragraph_schema, shard_name
from data_pipeline.types import SPLITS, Document, IntArray, Split

_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


@dataclass
class CandidateCounts:
    """Counts of what was read from a corpus."""

    documents: int = 0
    paragraphs: int = 0
    """Number of paragraphs; a document without any counts as one, as does a bad record."""
    tokens: int = 0
    """Tokens of the paragraphs that passed the filters of their text."""
    long_tokens: int = 0
    """Tokens of those of them that were dropped because they are too long."""
    rows: int = 0
    """Number of rows that passed all filters."""

    def add(self, other: "CandidateCounts") -> None:
        """Add other counts."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def stage_candidates(
    documents: Iterable[Document],
    metadata: Mapping[str, str],
    counter: TokenCounter,
    config: PreprocessConfig,
    path: Path,
    dropped: DropLedger,
    filters: Filters,
) -> CandidateCounts:
    """Cut, clean and filter documents, and count their tokens.

    The rows are written to `path`, an Arrow file for `Staging`; there is no file if there are no rows.

    Args:
        documents: the documents.
        metadata: types of the documents' metadata, by name.
        counter: counter of tokens.
        config: settings of cutting, cleaning and filtering.
        path: path of the file.
        dropped: ledger.
        filters: filters of the section `filters`.

    Raises:
        SourceError: a corpus cannot be read, or has too many bad records.
    """
    writer: pa.RecordBatchFileWriter | None = None
    read = CandidateCounts()
    dropped.mask_examples(filters.mask_text)
    for batch in document_batches(documents):
        rows = _candidates(batch, metadata, counter, config, dropped, filters, read)
        if len(rows):
            table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pa.ipc.new_file(path, table.schema)
            writer.write_table(table)
            read.rows += len(rows)
    if writer is not None:
        writer.close()
    read.paragraphs += dropped.bad_records
    return read


def _candidates(
    batch: list[Document],
    metadata: Mapping[str, str],
    counter: TokenCounter,
    config: PreprocessConfig,
    dropped: DropLedger,
    filters: Filters,
    read: CandidateCounts,
) -> pl.DataFrame:
    """Rows of a batch of documents that pass all filters; what was read is counted."""
    first_number = read.documents
    read.documents += len(batch)
    kept = filters.keep_documents(batch, dropped)
    read.paragraphs += len(batch) - len(kept)
    if not kept:
        return pl.DataFrame()
    batch, numbers = list(kept.values()), first_number + np.fromiter(kept, np.int64)
    rows = extract_paragraphs(batch, config, dict(metadata), filters.mask)
    rows = rows.with_columns(document_number=pl.Series(numbers[rows["document_number"].to_numpy()]))
    if config.unit == "chunk":
        rows = cut_into_chunks(rows, config, counter)
        if batch[0].format == "plain":
            rows = rows.with_columns(raw=pl.col("text"))  # the text of a chunk, not of its document
    without_rows = np.flatnonzero(~np.isin(numbers, rows["document_number"].to_numpy()))
    read.paragraphs += len(rows) + dropped.add_empty_documents(batch[n] for n in without_rows.tolist())
    if not len(rows):
        return rows
    reasons = [
        quality_reason(raw, text, config)
        for raw, text in zip(rows["raw"].to_list(), rows["text"].to_list(), strict=True)
    ]
    rows = dropped.record(rows.drop("raw"), "quality", reasons)
    counts = counter.count(rows["text"].to_list())
    rows = rows.with_columns(pl.Series("token_count", counts, dtype=pl.Int64))
    if config.too_long != "drop":
        read.paragraphs -= len(rows)
        rows = fit_long_rows(rows, config, counter)
        read.paragraphs += len(rows)
    token_counts: IntArray = rows["token_count"].to_numpy()
    read.tokens += int(token_counts.sum())
    read.long_tokens += int(token_counts[token_counts > config.max_tokens].sum())
    rows = dropped.record(rows, "tokens", [count_reason(count, config) for count in token_counts.tolist()])
    return filters.keep_rows(rows, dropped)


@dataclass(frozen=True)
class Assignment:
    """Split of every staged row, and which rows are kept."""

    keep: NDArray[np.bool_]
    """Whether each row is kept, shape (N,)."""
    positions: NDArray[np.int8]
    """Index into `SPLITS`, shape (N,); of rows that are not kept, that of val."""
    new_ids: Mapping[int, str]
    """New ids of documents, by number of the document."""


@dataclass(frozen=True)
class Repeats:
    """Rows that repeat an earlier row, and that row, each of shape (N, 2)."""

    exact: IntArray
    near: IntArray

    def kept(self, rows: int) -> NDArray[np.bool_]:
        """Return whether each of all rows repeats none, shape (rows,)."""
        keep = np.ones(rows, dtype=np.bool_)
        keep[self.exact[:, 0]] = False
        keep[self.near[:, 0]] = False
        return keep


def decide_rows(
    staging: Staging,
    config: PreprocessConfig,
    split: SplitConfig,
    on_duplicate_id: str,
    dropped: DropLedger,
    repeats: Repeats,
) -> Assignment:
    """Decide which staged rows are kept and in which split; those left out because of other rows go into the ledger.

    Decontamination comes after it.

    Args:
        staging: candidate rows, in the order of their documents.
        config: settings of deduplication.
        split: settings of the split.
        on_duplicate_id: handling of documents with the id of an earlier one; see `CorpusConfig`.
        dropped: ledger.
        repeats: rows that repeat an earlier one.

    Raises:
        SourceError: two documents have the same id.
    """
    keep = mark_duplicates(staging, repeats, dropped)
    if on_duplicate_id == "fail":
        reject_duplicate_ids(staging, keep)
    if on_duplicate_id == "drop":
        drop_duplicate_ids(staging, keep, dropped)
    ids = new_ids(staging, keep) if on_duplicate_id == "suffix" else {}
    return Assignment(keep, assign_splits(staging, keep, ids, split), ids)


def exact_repeats(staging: Staging, config: PreprocessConfig) -> IntArray:
    """Find the rows with the text of an earlier one, if these are to be left out; see `Repeats`."""
    pairs = list(staging.repeats("text")) if config.exact_dedup else []
    return np.array(pairs, np.int64).reshape(-1, 2)


def mark_duplicates(staging: Staging, repeats: Repeats, dropped: DropLedger) -> NDArray[np.bool_]:
    """Whether each staged row is kept, shape (N,); those that repeat an earlier row go into the ledger."""
    for pairs, reason in ((repeats.exact, "exact_duplicate"), (repeats.near, "near_duplicate")):
        for row, first in pairs.tolist():
            text_id, document_id = staging.value("text_id", row), staging.value("document_id", row)
            text, duplicate_of = partial(staging.value, "text", row), staging.value("text_id", first)
            dropped.add(text_id, document_id, "duplicates", reason, duplicate_of, text)
    return repeats.kept(len(staging))


def assign_splits(
    staging: Staging, keep: NDArray[np.bool_], ids: Mapping[int, str], config: SplitConfig
) -> NDArray[np.int8]:
    """Assign each kept row to a split, given the new ids of documents; see `Assignment`."""
    positions = np.ones(len(staging), np.int8)
    if config.method == "paragraph":
        positions[keep] = split_by_shuffle(int(keep.sum()), config)
        return positions
    for start, staged in staging.batches():
        mask = keep[start : start + staged.num_rows]
        columns = staged.select(["document_number", "document_id", "text_id", "source_split"])  # without the texts
        rows = rename_documents(columns.filter(pa.array(mask)), ids)
        document_ids = rows["document_id"].to_pylist()
        if config.method == "official":
            split = split_by_source(rows["source_split"].to_pylist(), document_ids)
        else:
            split = split_by_document(document_ids, config)
        positions[start : start + staged.num_rows][mask] = split
    return positions


def schema_of_rows(staging: Staging, metadata: Mapping[str, str]) -> pa.Schema:
    """Return the schema of the paragraph files, given the types of the documents' metadata by name."""
    cut = [name for name in CHUNK_COLUMNS if name in staging.schema.names]
    types = {name: _ARROW_TYPES[kind] for name, kind in metadata.items()}
    return paragraph_schema(types | dict.fromkeys(cut, pa.int64()) | filter_columns(staging.schema))


def write_splits(
    staging: Staging,
    written: NDArray[np.bool_],
    assigned: Assignment,
    schema: pa.Schema,
    shard_rows: int,
    stems: Mapping[Split, str],
    folder: Path,
) -> dict[Split, list[ShardEntry]]:
    """Write rows to the shards of their splits, and list these.

    Args:
        staging: staged rows.
        written: whether a row is written, shape (N,).
        assigned: splits of the rows.
        schema: schema of the files.
        shard_rows: maximum number of rows in a file.
        stems: stem of the file names of each split that has rows to write, or gets an empty file.
        folder: folder that is not published yet.
    """
    return {
        split: [
            write_shard(staging, shard, assigned, schema, folder)
            for shard in shards_of_split(split, stem, written, assigned, shard_rows)
        ]
        for split, stem in stems.items()
    }


@dataclass(frozen=True)
class ShardRows:
    """Rows that are written to one file."""

    split: Split
    name: str
    """Name of the file."""
    rows: IntArray
    """Their numbers, ascending, shape (N,)."""


def shards_of_split(
    split: Split, stem: str, written: NDArray[np.bool_], assigned: Assignment, shard_rows: int
) -> list[ShardRows]:
    """Divide the rows of a split into shards; a split without rows has an empty one.

    Args:
        split: the split.
        stem: stem of the file names.
        written: whether a row is written, shape (N,).
        assigned: splits of the rows.
        shard_rows: maximum number of rows in a file.
    """
    rows = np.flatnonzero(written & (assigned.positions == SPLITS.index(split)))
    parts = np.split(rows, range(shard_rows, len(rows), shard_rows))
    return [ShardRows(split, shard_name(stem, ".parquet", index, len(parts)), part) for index, part in enumerate(parts)]


def write_shard(
    staging: Staging, shard: ShardRows, assigned: Assignment, schema: pa.Schema, folder: Path
) -> ShardEntry:
    """Write one shard; several processes may write the same one at once.

    Args:
        staging: staged rows.
        shard: rows of the shard.
        assigned: new ids of documents.
        schema: schema of the file.
        folder: folder that is not published yet.
    """
    writer = ShardWriter(folder / shard.name, schema)
    if len(shard.rows):
        for start, staged in staging.batches(int(shard.rows[0]), int(shard.rows[-1]) + 1):
            span = slice(*np.searchsorted(shard.rows, [start, start + staged.num_rows]))
            rows = staged.take(pa.array(shard.rows[span] - start))
            writer.write(rename_documents(rows, assigned.new_ids).select(schema.names).cast(schema))
    return writer.close()
