"""Dataset on disk as the report reads it: its manifests, its rows, and a sample of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.config import Config
from data_pipeline.selection import quotas
from data_pipeline.store import ParagraphStore
from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, read_manifest
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.types import Float32Array, IntArray, Split

SAMPLE_ROWS = 20_000
"""Maximum number of rows whose texts and vectors a report reads."""
_MIN_OF_SPLIT = 500

SPLIT, ROW = "__split__", "__row__"
"""Columns of a sample beside those of the dataset, which may have columns of the plain names."""


@dataclass(frozen=True)
class OpenedDataset:
    """Dataset on disk."""

    config: Config
    store: ParagraphStore
    manifest: ParagraphManifest | None
    """Manifest of the paragraphs; None if an older pipeline wrote them."""
    embeddings: EmbeddingManifest | None
    rows: dict[Split, Rows]
    """Rows of each split that has any."""
    has_vectors: bool
    """Whether all splits with rows have vectors."""

    @property
    def count(self) -> int:
        """Number of rows of all splits."""
        return sum(map(len, self.rows.values()))

    @cached_property
    def run(self) -> dict[str, Any]:
        """Report of the last recorded run that embedded rows of this dataset; empty if there is none."""
        records = [record for record in _records(self.config.logs_dir / "runs") if self._is_own(record)]
        embedded = [record["report"] for record in records if record["report"].get("embeddings")]
        return embedded[-1] if embedded else {}

    def _is_own(self, record: dict[str, Any]) -> bool:
        config = record.get("config", {})
        own = (self.config.corpus.name, self.config.embedding.variant, self.config.data_dir.name)
        return own == (
            config.get("corpus", {}).get("name"),
            config.get("embedding", {}).get("variant"),
            Path(config.get("data_dir", "")).name,
        )


def _records(folder: Path) -> list[dict[str, Any]]:
    """Records of runs, the oldest first; those that cannot be read are not ours to judge, and are left out."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("report"), dict):
            records.append(record)
    return records


def open_dataset(config: Config) -> OpenedDataset:
    """Open a dataset with all its splits and scores.

    Raises:
        StoreError: files are missing or damaged, or do not belong together.
    """
    store = ParagraphStore(config.processed_dir)
    splits = [split for split in store.splits if store.live_count(split)]
    embeddings = read_manifest(config.embeddings_dir, EmbeddingManifest)
    has_vectors = embeddings is not None and all(split in embeddings["splits"] for split in splits)
    rows = {split: open_rows(config, split, with_embeddings=has_vectors) for split in splits}
    return OpenedDataset(config, store, store.manifest, embeddings, rows, has_vectors)


def texts_of_ids(dataset: OpenedDataset, split: Split, ids: Sequence[str]) -> dict[str, str]:
    """Read the texts of rows by id, for those that a split has; reads the ids of the split as a stream."""
    if split not in dataset.rows or not ids:
        return {}
    wanted, found = pa.array(ids, pa.string()), [np.zeros(0, np.int64)]
    for batch, rows in dataset.store.live_batches(split, ["text_id"]):
        found.append(rows[pc.is_in(batch["text_id"], wanted).to_numpy(zero_copy_only=False)])
    records = dataset.rows[split].records(np.concatenate(found), ["text_id", "text"])
    return dict(zip(records["text_id"].to_pylist(), records["text"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Sample:
    """Rows of all splits, split by split in order, drawn at random where there are many."""

    frame: pl.DataFrame
    """Columns of the rows, with `SPLIT`, and `ROW`, the index in the split."""
    vectors: Float32Array | None
    """Vectors, shape (N, D); None if the dataset has none. Those that are not finite are zero."""
    non_finite: int
    """Number of vectors that are not finite."""
    total: int
    """Number of rows of the dataset."""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def is_all(self) -> bool:
        """Whether it has all rows of the dataset."""
        return len(self) == self.total

    @property
    def described(self) -> str:
        """The rows in words: all of them, or how many were drawn."""
        return f"all {self.total:,} rows" if self.is_all else f"{len(self):,} of {self.total:,} rows, drawn at random"

    @cached_property
    def texts(self) -> list[str]:
        """Texts of the rows."""
        return self.frame["text"].to_list()

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the rows."""
        return self.frame["text_id"].to_list()

    @cached_property
    def splits(self) -> list[str]:
        """Splits of the rows."""
        return self.frame[SPLIT].to_list()


def draw_sample(dataset: OpenedDataset, rows: int = SAMPLE_ROWS, seed: int = 0) -> Sample:
    """Read rows of all splits with all their columns and vectors.

    Every split has its share of the sample, but at least 500 rows if it has as many.

    Args:
        dataset: the dataset.
        rows: maximum number of rows.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    frames, vectors = [], []
    for (split, reader), count in zip(
        dataset.rows.items(), shares([*map(len, dataset.rows.values())], rows), strict=True
    ):
        index = _drawn(len(reader), count, rng)
        table = reader.records(reader.of_files(index), reader.names)
        frame = pl.DataFrame(pl.from_arrow(table)).with_columns(pl.lit(split).alias(SPLIT), pl.Series(ROW, index))
        frames.append(frame)
        if dataset.has_vectors:
            vectors.append(reader.vectors(index).astype(np.float32))
    frame = pl.concat(frames, how="diagonal_relaxed") if frames else _EMPTY
    if not vectors:
        return Sample(frame, None, 0, dataset.count)
    joined = np.concatenate(vectors)
    finite = np.isfinite(joined).all(axis=1)
    joined[~finite] = 0
    return Sample(frame, joined, int((~finite).sum()), dataset.count)


_EMPTY = pl.DataFrame(schema={"text_id": pl.String, "text": pl.String, SPLIT: pl.String, ROW: pl.Int64})


def shares(counts: Sequence[int], rows: int) -> list[int]:
    """Divide a sample among splits: their shares, but at least 500 rows of each.

    Args:
        counts: number of rows of each split.
        rows: maximum number of rows of the sample.
    """
    if sum(counts) <= rows:
        return list(counts)
    least = [min(count, _MIN_OF_SPLIT, rows // len(counts)) for count in counts]
    rest, others = rows - sum(least), [count - taken for count, taken in zip(counts, least, strict=True)]
    return [taken + more for taken, more in zip(least, quotas(others, rest), strict=True)]


def _drawn(total: int, count: int, rng: np.random.Generator) -> IntArray:
    if count >= total:
        return np.arange(total)
    return np.sort(rng.choice(total, count, replace=False, shuffle=False))
