"""The three passes over a corpus: candidates are staged, duplicates are marked, splits are written.

Whether a row repeats an earlier one is known only when all rows have been seen, so candidates are staged in a file
between the passes, and memory does not grow with the corpus.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.config import PreprocessConfig, SplitConfig
from data_pipeline.download import Corpus
from data_pipeline.preprocess.bad_records import usable_documents
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS, cut_into_chunks, fit_long_rows
from data_pipeline.preprocess.document_ids import new_ids, rename_documents
from data_pipeline.preprocess.filters import count_reason, quality_reason
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.near import NearIndex
from data_pipeline.preprocess.paragraphs import document_batches, extract_paragraphs
from data_pipeline.preprocess.row_filters import Filters, filter_columns
from data_pipeline.preprocess.split import split_by_document, split_by_shuffle, split_by_source
from data_pipeline.preprocess.staging import Staging
from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.store.manifest import ParagraphSplit
from data_pipeline.store.paragraphs import ParagraphWriter, paragraph_schema
from data_pipeline.types import SPLITS, IntArray
from data_pipeline.utils import progress_bar

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


def stage_candidates(
    corpus: Corpus,
    counter: TokenCounter,
    config: PreprocessConfig,
    path: Path,
    dropped: DropLedger,
    filters: Filters,
) -> CandidateCounts:
    """Cut, clean and filter the documents of a corpus, and count their tokens.

    The rows are written to `path`, an Arrow file for `Staging`; there is no file if there are no rows.

    Raises:
        SourceError: the corpus cannot be read, or has too many bad records.
    """
    writer: pa.RecordBatchFileWriter | None = None
    read = CandidateCounts()
    progress = corpus.progress
    with progress_bar(progress.total_bytes, "Reading", "B" if progress.total_bytes else "doc") as bar:
        for batch in document_batches(usable_documents(corpus, dropped)):
            first_number = read.documents
            read.documents += len(batch)
            bar.update(progress.read_bytes - bar.n if progress.total_bytes else len(batch))
            batch = filters.keep_documents(batch, dropped)
            read.paragraphs += read.documents - first_number - len(batch)
            if not batch:
                continue
            rows = extract_paragraphs(batch, config, dict(corpus.metadata), filters.mask)
            rows = rows.with_columns(pl.col("document_number") + first_number)
            if config.unit == "chunk":
                rows = cut_into_chunks(rows, config, counter)
                if batch[0].format == "plain":
                    rows = rows.with_columns(raw=pl.col("text"))  # the text of a chunk, not of its document
            read.paragraphs += len(rows) + dropped.add_empty_documents(batch, rows["document_id"])
            if not len(rows):
                continue
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
            rows = filters.keep_rows(rows, dropped)
            if len(rows):
                table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or pa.ipc.new_file(path, table.schema)
                writer.write_table(table)
    if writer is not None:
        writer.close()
    read.paragraphs += dropped.bad_records
    return read


def mark_duplicates(staging: Staging, config: PreprocessConfig, dropped: DropLedger) -> NDArray[np.bool_]:
    """Whether each staged row is kept, shape (N,); those that repeat an earlier row go into the ledger."""
    keep = np.ones(len(staging), dtype=np.bool_)

    def drop(pairs: Iterator[tuple[int, int]], reason: str) -> None:
        for row, first in pairs:
            keep[row] = False
            text_id, document_id = staging.value("text_id", row), staging.value("document_id", row)
            dropped.add(text_id, document_id, "duplicates", reason, staging.value("text_id", first))

    if config.exact_dedup:
        drop(staging.repeats("text"), "exact_duplicate")
    if config.near_dedup:
        index = NearIndex(config.near_threshold, lambda row: staging.value("text", row))
        drop(index.find_and_add(_kept_texts(staging, keep)), "near_duplicate")
    return keep


def _kept_texts(staging: Staging, keep: NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    with progress_bar(len(staging), "Looking for near duplicates", "row") as bar:
        for start, table in staging.batches():
            for row, text in enumerate(table["text"].to_pylist(), start):
                if keep[row]:
                    yield row, text
            bar.update(table.num_rows)


@dataclass(frozen=True)
class Assignment:
    """Split of every staged row."""

    positions: NDArray[np.int8]
    """Index into `SPLITS`, shape (N,); of rows that are not kept, that of val."""
    new_ids: Mapping[int, str]
    """New ids of documents, by number of the document."""


def assign_splits(staging: Staging, keep: NDArray[np.bool_], corpus: Corpus, config: SplitConfig) -> Assignment:
    """Assign each kept row to a split; documents of one id get ids of their own, if asked."""
    ids = new_ids(staging, keep) if corpus.on_duplicate_id == "suffix" else {}
    positions = np.ones(len(staging), np.int8)
    if config.method == "paragraph":
        positions[keep] = split_by_shuffle(int(keep.sum()), config)
        return Assignment(positions, ids)
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
    return Assignment(positions, ids)


def write_splits(
    staging: Staging, keep: NDArray[np.bool_], assigned: Assignment, corpus: Corpus, shard_rows: int, folder: Path
) -> dict[str, ParagraphSplit]:
    """Write the shards of each split."""
    cut = [name for name in CHUNK_COLUMNS if name in staging.schema.names]
    metadata = {name: _ARROW_TYPES[kind] for name, kind in corpus.metadata.items()}
    schema = paragraph_schema(metadata | dict.fromkeys(cut, pa.int64()) | filter_columns(staging.schema))
    writers = {split: ParagraphWriter(folder, split, schema, shard_rows) for split in SPLITS}
    splits: dict[str, ParagraphSplit] = {
        split: {"rows": 0, "tokens": 0, "characters": 0, "shards": []} for split in SPLITS
    }
    for start, staged in staging.batches():
        mask = keep[start : start + staged.num_rows]
        positions = assigned.positions[start : start + staged.num_rows][mask]
        rows = rename_documents(staged.filter(pa.array(mask)), assigned.new_ids).select(schema.names).cast(schema)
        for index, split in enumerate(SPLITS):
            rows_of_split = rows.filter(pa.array(positions == index))
            writers[split].write(rows_of_split)
            entry = splits[split]
            entry["rows"] += rows_of_split.num_rows
            entry["tokens"] += sum(rows_of_split["token_count"].to_pylist())
            entry["characters"] += sum(rows_of_split["char_count"].to_pylist())
    for split in SPLITS:
        splits[split]["shards"] = [entry.to_json() for entry in writers[split].close()]
    return splits
