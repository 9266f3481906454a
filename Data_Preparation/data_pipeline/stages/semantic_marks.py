"""Rows that semantic deduplication and decontamination by embeddings drop, computed from stored vectors."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.embeddings import Embedder, encode
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import SourceError
from data_pipeline.selection.semantic_duplicates import SimilarRows, find_copies, semantic_duplicates
from data_pipeline.selection.vectors import VectorBlocks
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.types import SPLITS, EvaluationSet, IntArray, Split
from data_pipeline.utils import batched, published

logger = logging.getLogger(__name__)

_ITEM_TEXTS = 16_384  # of evaluation sets, embedded and compared at a time
_DIGITS = 6
"""Decimals of a stored cosine; further ones differ between processors."""

MARKS_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("overlap", pa.float64()),
    ]
)
"""Columns of the rows to drop: split, row number in the split, reason, and the row or item that it is similar to with
the cosine of both."""


@dataclass(frozen=True)
class StoredVectors:
    """Stored vectors of all rows of a split, decoded when they are read; see `selection.vectors.VectorSource`."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of dimensions."""
        return len(self.rows), self.rows.dim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | IntArray) -> NDArray[Any]:
        """Vectors of rows, shape (K, D)."""
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        self.rows.prepare(index, 1, texts=False, vectors=True)
        return self.rows.vectors(index)


def find_marks(config: Config, dedup: SemanticDedupConfig, sets: Sequence[EvaluationSet]) -> pa.Table:
    """Find the rows to drop: those that repeat evaluation items, then those that repeat val or test, then duplicates.

    Memory: 60 bytes for every row of the largest split; about 300 bytes for every row to drop; 128 vectors for every
    cluster; the vectors of 16,384 evaluation texts.

    Args:
        config: folders, corpus, variant, and `decontamination`.
        dedup: thresholds and clustering.
        sets: opened evaluation sets.

    Returns:
        Rows as in `MARKS_SCHEMA`, by split and row number.

    Raises:
        NotFoundError: a split has no embeddings.
        ShardMismatchError: the model that made the vectors is another one now.
        SourceError: an evaluation set cannot be read or has no texts.
    """
    finder = _Finder(config, dedup)
    if sets:
        embedder = load_maker(finder.rows("train").first_shard)
        splits: Sequence[Split] = SPLITS if config.decontamination.remove_from == "all" else ("train",)
        for names, texts in _item_batches(sets):
            finder.mark_items([split for split in splits if split in finder.embedded], embedder, names, texts)
    if config.decontamination.own_splits:
        for other in ("val", "test"):
            if other in finder.embedded:
                finder.mark_own(other)
    if dedup.threshold is not None:
        for split in dedup.dedup_splits:
            finder.mark_duplicates(split, dedup.threshold)
    return finder.table()


def read_marks(path: Path, fingerprint: str, compute: Callable[[], pa.Table]) -> pa.Table:
    """Read the rows to drop that an interrupted run stored, or find and store them."""
    if path.is_file():
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(b"fingerprint") == fingerprint.encode():
            logger.info("Resuming: %s rows to drop were found by an earlier run", f"{table.num_rows:,}")
            return table
    table = compute().replace_schema_metadata({"fingerprint": fingerprint})
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary:
        pq.write_table(table, temporary)
    return table


class _Finder:
    """Rows to drop, split by split; a row that is to be dropped is not compared again."""

    def __init__(self, config: Config, dedup: SemanticDedupConfig) -> None:
        self._config, self._dedup = config, dedup
        self._open: dict[Split, Rows] = {}
        self._keep: dict[Split, NDArray[np.bool_]] = {}
        self._items: dict[tuple[Split, int], tuple[str, float]] = {}
        self._marks: list[tuple[Split, int, str, str, float]] = []
        first = self.rows("train")
        manifest = first.source.manifest
        self.embedded = [split for split in SPLITS if manifest is None or split in manifest["splits"]]
        """Splits that have embeddings."""

    def rows(self, split: Split) -> Rows:
        """Rows of a split with their embeddings."""
        if split not in self._open:
            self._open[split] = open_rows(self._config, split, scores=[])
            self._keep[split] = np.ones(len(self._open[split]), np.bool_)
        return self._open[split]

    def mark_items(self, splits: Sequence[Split], embedder: Embedder, names: list[str], texts: list[str]) -> None:
        """Compare rows with a batch of evaluation items; the most similar item of all batches counts."""
        vectors = encode(embedder, texts)
        for split in splits:
            rows = self.rows(split)
            first = rows.first_shard
            # The items lose what the rows have lost, so that equal texts have equal vectors.
            items = self._blocks(first.decode(first.coding.encode(vectors)))
            all_rows = np.arange(len(rows))
            similar = find_copies(self._vectors(split), all_rows, items, self._dedup.evaluation_threshold)
            for row, item, cosine in _triples(similar):
                if cosine > self._items.get((split, row), ("", -2.0))[1]:
                    self._items[split, row] = (names[item], cosine)
                    self._keep[split][row] = False

    def mark_own(self, other: Split) -> None:
        """Compare the rows of train with all rows of another split."""
        among = np.flatnonzero(self._kept("train"))
        similar = find_copies(self._vectors("train"), among, self._vectors(other), self._dedup.evaluation_threshold)
        self._mark("train", "leaked_embedding", similar, other)

    def mark_duplicates(self, split: Split, threshold: float) -> None:
        """Compare the rows of a split with each other."""
        vectors, dedup = self._vectors(split), self._dedup
        similar = semantic_duplicates(
            vectors,
            np.flatnonzero(self._kept(split)),
            threshold,
            np.random.default_rng(dedup.seed),
            clusters=dedup.clusters or max(1, -(-len(vectors) // dedup.cluster_rows)),
            keep=dedup.keep,
        )
        self._mark(split, "semantic_duplicate", similar, split)

    def table(self) -> pa.Table:
        """Return the rows to drop, by split and row number."""
        items = [(split, row, "contaminated_embedding", *match) for (split, row), match in self._items.items()]
        marks = sorted([*items, *self._marks], key=lambda mark: (SPLITS.index(mark[0]), mark[1]))
        return pa.Table.from_pylist([dict(zip(MARKS_SCHEMA.names, mark, strict=True)) for mark in marks], MARKS_SCHEMA)

    def _mark(self, split: Split, reason: str, similar: SimilarRows, other: Split) -> None:
        names = _ids_of(self.rows(other), similar.similar_to)
        for (row, _, cosine), name in zip(_triples(similar), names, strict=True):
            self._marks.append((split, row, reason, name, cosine))
        self._keep[split][similar.rows] = False
        logger.info("%s: %s rows dropped as %s", split, f"{len(similar.rows):,}", reason)

    def _kept(self, split: Split) -> NDArray[np.bool_]:
        self.rows(split)
        return self._keep[split]

    def _vectors(self, split: Split) -> VectorBlocks:
        return self._blocks(StoredVectors(self.rows(split)))

    def _blocks(self, source: StoredVectors | NDArray[Any]) -> VectorBlocks:
        return VectorBlocks(source, torch.device(self._dedup.device), unit=True)


def _ids_of(rows: Rows, index: IntArray) -> list[str]:
    """Ids of rows, read in a stream, so that the source gets no copy for random access."""
    wanted, place = np.unique(index, return_inverse=True)
    ids: list[str] = []
    start = 0
    for shard in rows.source.paragraphs:
        for batch in shard.batches(["text_id"]):
            first, last = np.searchsorted(wanted, [start, start + batch.num_rows])
            ids += batch["text_id"].take(pa.array(wanted[first:last] - start)).to_pylist()
            start += batch.num_rows
    return [ids[position] for position in place.tolist()]


def _triples(similar: SimilarRows) -> Iterator[tuple[int, int, float]]:
    cosines = np.round(np.clip(similar.cosines.astype(np.float64), -1, 1), _DIGITS)
    yield from zip(similar.rows.tolist(), similar.similar_to.tolist(), cosines.tolist(), strict=True)


def _item_batches(sets: Sequence[EvaluationSet]) -> Iterator[tuple[list[str], list[str]]]:
    """Names and texts of evaluation items, in batches.

    Raises:
        SourceError: a set has no texts.
    """
    for evaluation_set in sets:
        has_texts = False
        pairs = ((item.name, text) for item in evaluation_set.items() for text in item.texts)
        for batch in batched(pairs, _ITEM_TEXTS):
            has_texts = True
            yield [name for name, _ in batch], [text for _, text in batch]
        if not has_texts:
            raise SourceError(f"decontamination.paths: {evaluation_set.name} has no texts, expected at least one.")
