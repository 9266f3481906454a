"""Search over the splits of a dataset, with filters."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from data_pipeline.config import Config
from data_pipeline.dataset.dataset import ELMDataset
from data_pipeline.dataset.search import search
from data_pipeline.embeddings import Embedder, encode
from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.store import ParagraphStore
from data_pipeline.store.conditions import column_of, parse_condition
from data_pipeline.store.lookup import match_rows
from data_pipeline.store.manifest import EmbeddingManifest, read_manifest
from data_pipeline.types import Float32Array, Split
from data_pipeline.utils import converted_errors

logger = logging.getLogger(__name__)

_MAKER = ("model", "revision", "pooling", "prompt", "max_length", "task")


@dataclass(frozen=True)
class Hit:
    """Row that a search found."""

    score: float
    """Cosine to the query, -1 to 1."""
    split: Split
    row: int
    """Index of the row in `ELMDataset(split=split)`."""
    text_id: str
    text: str
    metadata: dict[str, Any]
    """All other columns, scores among them."""


def embedded_splits(config: Config) -> list[Split]:
    """Return the splits of a dataset that have vectors.

    Raises:
        NotFoundError: there are no paragraphs.
        SourceError: no split has vectors.
    """
    store = ParagraphStore(config.processed_dir)
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    splits = [split for split in store.splits if manifest is None or split in manifest["splits"]]
    if not splits or not config.embeddings_dir.is_dir():
        raise SourceError(f"No vectors in {config.embeddings_dir}. Run `elm embed` first.")
    return splits


def search_splits(
    config: Config,
    query: "str | Float32Array",
    k: int,
    splits: Sequence[Split] | None = None,
    conditions: Sequence[str] = (),
    without: str | None = None,
) -> list[Hit]:
    """Find the k rows of several splits with the largest cosine to a query; reads all vectors once.

    Args:
        config: configuration with the folders, the corpus and the variant.
        query: a text, which is embedded by the model that made the vectors; or a vector, shape (dim,).
        k: number of rows; fewer if fewer match.
        splits: splits to search; None for all that have vectors.
        conditions: conditions that all rows fulfil, which are applied first; see `store.conditions`.
        without: `text_id` of a row that is left out, such as the one that the vector is of.

    Raises:
        ConfigError: `k` is below 1, a condition is no condition, or no split has its column.
        SourceError: the vector has another width, or length 0.
        StoreError: files are missing or damaged.
    """
    if k < 1:
        raise ConfigError(f"k must be 1 or more, found {k}")
    datasets = [ELMDataset(split=split, config=config) for split in splits or embedded_splits(config)]
    makers: dict[tuple[str | None, ...], Float32Array] = {}
    hits: list[Hit] = []
    for dataset in _filtered(datasets, conditions):
        if not len(dataset):
            continue
        vector = _vector(dataset, query, makers) if isinstance(query, str) else query
        with converted_errors(ValueError, SourceError, f"{dataset.split} of {dataset.processed_dir}"):
            best, scores = search(dataset.rows, vector, k + (without is not None), dataset._load_embedder)
        hits += _hits(dataset, best, scores)
    hits = [hit for hit in hits if hit.text_id != without]
    return sorted(hits, key=lambda hit: -hit.score)[:k]


def schema_of(dataset: ELMDataset) -> pl.Schema:
    """Return the types of the columns of a dataset, those of its scores included."""
    rows = dataset.rows
    return pl.DataFrame(pl.from_arrow(rows.records(np.empty(0, np.int64), rows.names))).schema


def _filtered(datasets: Sequence[ELMDataset], conditions: Sequence[str]) -> list[ELMDataset]:
    """Return the datasets with the rows that fulfil all conditions; the index of a row is kept in its selection."""
    if not conditions:
        return list(datasets)
    schemas = [schema_of(dataset) for dataset in datasets]
    every = {name: kind for schema in reversed(schemas) for name, kind in schema.items()}
    for condition in conditions:
        parse_condition(condition, every)
    filtered = []
    for dataset, schema in zip(datasets, schemas, strict=True):
        if missing := [name for name in map(column_of, conditions) if name not in schema]:
            logger.warning("%s has no column %s: its rows are left out", dataset.split, ", ".join(missing))
            continue
        matches = np.ones(len(dataset), bool)
        for condition in conditions:
            matches &= match_rows(dataset.rows, parse_condition(condition, schema))
        filtered.append(dataset.select(matches))
    return filtered


def _vector(dataset: ELMDataset, query: str, makers: dict[tuple[str | None, ...], Float32Array]) -> Float32Array:
    """Embed a query once for all splits whose vectors one model made."""
    metadata = dataset.rows.first_shard.metadata
    maker = tuple(metadata.get(name) for name in _MAKER)
    if maker not in makers:
        embedder: Embedder = dataset._load_embedder()
        makers[maker] = encode(embedder, [query], query=True)[0]
    return makers[maker][: dataset.rows.dim]


def _hits(dataset: ELMDataset, best: "np.ndarray[Any, Any]", scores: Float32Array) -> list[Hit]:
    whole = dataset.rows.source.store.live_rows(dataset.split)
    files = dataset.rows.of_files(best)
    # The index of a row counts the rows that were not deleted.
    indices = files if whole is None else np.searchsorted(whole, files)
    records = dataset.rows.records(files, dataset.rows.names).to_pylist()
    return [
        Hit(float(score), dataset.split, int(index), record.pop("text_id"), record.pop("text"), record)
        for index, score, record in zip(indices, scores, records, strict=True)
    ]
