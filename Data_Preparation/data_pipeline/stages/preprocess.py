"""Documents -> paragraphs on disk: cut, clean, filter, count, deduplicate, split.

Everything is written to a new folder that takes the place of the old one when it is whole;
every paragraph that is not kept is a row of `dropped.parquet` with the stage and the reason.
"""

import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.config import PreprocessConfig, SplitConfig
from data_pipeline.download import Corpus
from data_pipeline.errors import SourceError, StoreError
from data_pipeline.preprocess.filters import count_reason, quality_reason
from data_pipeline.preprocess.leakage import leakage
from data_pipeline.preprocess.near import NearIndex
from data_pipeline.preprocess.paragraphs import document_batches, extract_paragraphs
from data_pipeline.preprocess.split import split_by_document, split_by_shuffle, split_by_source
from data_pipeline.preprocess.staging import Staging, StagingWriter
from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.store import ParagraphStore, ParagraphWriter, fingerprint, write_manifest
from data_pipeline.store.paragraphs import paragraph_schema
from data_pipeline.types import SPLITS, Document
from data_pipeline.utils import progress_bar, sha256_of_file
from data_pipeline.utils.folders import new_folder, replace_folder
from data_pipeline.utils.system import fsync_path

logger = logging.getLogger(__name__)

_DROPPED_SCHEMA = pa.schema(
    [
        ("text_id", pa.string()),
        ("document_id", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
    ]
)
_SPLIT = "|".join(SPLITS)
_PROCESSED_FILE = re.compile(
    rf"manifest\.json|dropped\.parquet|staging|({_SPLIT})(-\d{{5}}-of-\d{{5}})?\.parquet|({_SPLIT})\.\d+\.tmp|\..*\.tmp|\.cache"
)
_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def preprocess(
    corpus: Corpus,
    counter: TokenCounter,
    config: PreprocessConfig,
    split: SplitConfig,
    shard_rows: int,
    folder: Path,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Turn a corpus into the parquet files of a processed folder.

    Memory does not grow with the corpus, but for 9 bytes a row while exact duplicates are
    looked for, about 3.4 kB a row for near ones, and the ids of the test split's documents.

    Args:
        corpus: the documents.
        counter: counts tokens as the embedder's tokenizer does.
        config: how to cut, clean and filter.
        split: how to divide.
        shard_rows: most rows in a file.
        folder: `data/<corpus>_processed`; replaced when everything is written.
        settings: what the manifest records and its fingerprint covers.

    Returns:
        The manifest that was written.

    Raises:
        SourceError: the corpus cannot be read, has no paragraphs that pass, or repeats ids.
    """
    started = time.monotonic()
    new = new_folder(folder)
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    dropped = _DroppedWriter(new / "dropped.parquet")
    documents, paragraphs = _stage(corpus, counter, config, new / "staging", dropped)
    if not (new / "staging").exists():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.counts.most_common())
        raise SourceError(
            f"none of the paragraphs of {corpus.description} passed the filters "
            f"({documents:,} documents; dropped: {reasons or 'nothing, there were none'})"
        )
    staging = Staging(new / "staging")
    keep = _deduplicate(staging, config, dropped)
    splits = _write_splits(staging, keep, corpus, split, shard_rows, new)
    (new / "staging").unlink()
    dropped.close()
    kept = int(keep.sum())
    _check_totals(paragraphs, kept, dropped.counts, splits)
    manifest: dict[str, Any] = {
        "stage": "preprocess",
        "fingerprint": fingerprint(settings, ""),
        "settings": dict(settings),
        "upstream": "",
        "corpus": corpus.description,
        "counts": {
            "documents": documents,
            "paragraphs": paragraphs,
            "kept": kept,
            "dropped": dict(dropped.counts.most_common()),
            "token_counter": counter.method,
        },
        "dropped_sha256": sha256_of_file(new / "dropped.parquet"),
        "splits": splits,
    }
    write_manifest(new, manifest)
    seconds = time.monotonic() - started
    logger.info("%s paragraphs written in %.1f s (tokens counted by %s)", f"{kept:,}", seconds, counter.method)
    for name, entry in splits.items():
        if entry["rows"] == 0:
            logger.warning("the split %s is empty: the corpus is small for these ratios", name)
    # A report on what was written, so it reads the files as a user would.
    manifest["leakage"] = leakage(ParagraphStore(new), config.near_threshold)
    write_manifest(new, manifest)
    fsync_path(new)
    replace_folder(folder, is_processed_file)
    return manifest


def _check_totals(paragraphs: int, kept: int, dropped: Counter[str], splits: Mapping[str, Any]) -> None:
    """Check that every paragraph that was cut is in a split or in `dropped.parquet`."""
    written = sum(entry["rows"] for entry in splits.values())
    if paragraphs != kept + dropped.total() or kept != written:
        raise StoreError(
            f"{paragraphs} paragraphs were read, {kept} kept, {written} written and {dropped.total()} dropped: some "
            "were lost. This is a fault of this program; please report it. Nothing was replaced."
        )


def is_processed_file(name: str) -> bool:
    """Whether this package (or the older pipeline) writes a file of this name to a processed folder."""
    return _PROCESSED_FILE.fullmatch(name) is not None


def _stage(
    corpus: Corpus, counter: TokenCounter, config: PreprocessConfig, path: Path, dropped: "_DroppedWriter"
) -> tuple[int, int]:
    """Cut, clean, filter and count tokens.

    Returns:
        Numbers of documents, and of their paragraphs; a document without any counts as one.
    """
    staging = StagingWriter(path)
    documents = paragraphs = 0
    progress = corpus.progress
    with progress_bar(progress.total_bytes, "Reading", "B" if progress.total_bytes else "doc") as bar:
        for batch in document_batches(corpus.documents()):
            documents += len(batch)
            bar.update(progress.read_bytes - bar.n if progress.total_bytes else len(batch))
            rows = extract_paragraphs(batch, config, dict(corpus.metadata))
            paragraphs += len(rows) + dropped.add_empty_documents(batch, rows["document_id"])
            if not len(rows):
                continue
            reasons = [
                quality_reason(raw, text, config)
                for raw, text in zip(rows["raw"].to_list(), rows["text"].to_list(), strict=True)
            ]
            rows = dropped.record(rows.drop("raw"), "quality", reasons)
            counts = counter.count(rows["text"].to_list())
            rows = rows.with_columns(pl.Series("token_count", counts, dtype=pl.Int64))
            rows = dropped.record(rows, "tokens", [count_reason(count, config) for count in counts.tolist()])
            if len(rows):
                staging.write(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    staging.close()
    return documents, paragraphs


def _deduplicate(staging: Staging, config: PreprocessConfig, dropped: "_DroppedWriter") -> NDArray[np.bool_]:
    """Which staged rows are kept."""
    keep = np.ones(len(staging), dtype=np.bool_)

    def drop(pairs: Iterator[tuple[int, int]], reason: str) -> None:
        for row, first in pairs:
            keep[row] = False
            dropped.add(
                staging.value("text_id", row),
                staging.value("document_id", row),
                "duplicates",
                reason,
                staging.value("text_id", first),
            )

    if config.exact_dedup:
        drop(staging.repeats("text"), "exact_duplicate")
    if config.near_dedup:
        index = NearIndex(config.near_threshold, lambda row: staging.value("text", row))
        drop(index.find_and_add(_kept_texts(staging, keep)), "near_duplicate")
    for row, first in staging.repeats("text_id"):
        if keep[row] and keep[first]:
            raise SourceError(
                f"two documents have the id {staging.value('document_id', row)!r}, but ids must be unique. "
                "Name another --corpus.id_field, or leave --preprocess.exact_dedup on if they are copies."
            )
    return keep


def _kept_texts(staging: Staging, keep: NDArray[np.bool_]) -> Iterator[tuple[int, str]]:
    with progress_bar(len(staging), "Looking for near duplicates", "row") as bar:
        for start, table in staging.batches():
            for row, text in enumerate(table["text"].to_pylist(), start):
                if keep[row]:
                    yield row, text
            bar.update(table.num_rows)


def _write_splits(
    staging: Staging,
    keep: NDArray[np.bool_],
    corpus: Corpus,
    config: SplitConfig,
    shard_rows: int,
    folder: Path,
) -> dict[str, Any]:
    schema = paragraph_schema({name: _ARROW_TYPES[kind] for name, kind in corpus.metadata.items()})
    writers = {split: ParagraphWriter(folder, split, schema, shard_rows) for split in SPLITS}
    totals = {split: Counter[str]() for split in SPLITS}
    shuffled = split_by_shuffle(int(keep.sum()), config) if config.method == "paragraph" else None
    written = 0
    for start, staged in staging.batches():
        rows = staged.filter(pa.array(keep[start : start + staged.num_rows])).select(schema.names).cast(schema)
        document_ids = rows["document_id"].to_pylist()
        if shuffled is not None:
            places = shuffled[written : written + rows.num_rows]
        elif config.method == "official":
            places = split_by_source(rows["source_split"].to_pylist(), document_ids)
        else:
            places = split_by_document(document_ids, config)
        written += rows.num_rows
        for index, split in enumerate(SPLITS):
            some = rows.filter(pa.array(places == index))
            writers[split].write(some)
            totals[split]["rows"] += some.num_rows
            totals[split]["tokens"] += sum(some["token_count"].to_pylist())
            totals[split]["characters"] += sum(some["char_count"].to_pylist())
    return {
        split: {**totals[split], "shards": [entry.to_json() for entry in writers[split].close()]} for split in SPLITS
    }


class _DroppedWriter:
    """Writes `dropped.parquet` and counts the reasons."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = pq.ParquetWriter(path, _DROPPED_SCHEMA, compression="zstd")
        self._rows: list[tuple[str, str, str, str, str | None]] = []
        self.counts: Counter[str] = Counter()

    def record(self, rows: pl.DataFrame, stage: str, reasons: list[str | None]) -> pl.DataFrame:
        """Write down the rows that have a reason, and give back the others."""
        reason = pl.Series("reason", reasons, dtype=pl.String)
        gone = rows.filter(reason.is_not_null())
        for text_id, document_id, why in zip(gone["text_id"], gone["document_id"], reason.drop_nulls(), strict=True):
            self.add(text_id, document_id, stage, why, None)
        return rows.filter(reason.is_null())

    def add_empty_documents(self, documents: Sequence[Document], with_paragraphs: pl.Series) -> int:
        """Write down the documents that have no paragraph, such as an empty text; returns their number."""
        present = set(with_paragraphs)
        empty = [document.id for document in documents if document.id not in present]
        for identity in empty:
            self.add(identity, identity, "quality", "empty_document", None)
        return len(empty)

    def add(self, text_id: str, document_id: str, stage: str, reason: str, duplicate_of: str | None) -> None:
        """Write down one row."""
        self._rows.append((text_id, document_id, stage, reason, duplicate_of))
        self.counts[reason] += 1
        if len(self._rows) >= 10_000:
            self._flush()

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()
        fsync_path(self._path)

    def _flush(self) -> None:
        if self._rows:
            columns = list(zip(*self._rows, strict=True))
            arrays = [pa.array(column, pa.string()) for column in columns]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=_DROPPED_SCHEMA))
            self._rows.clear()
