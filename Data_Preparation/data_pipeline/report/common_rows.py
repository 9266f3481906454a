"""Rows that two datasets have in common, by id and text."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from data_pipeline.report.opened import OpenedDataset
from data_pipeline.types import Float32Array

_SEEDS = (1, 2)


@dataclass(frozen=True)
class CommonRows:
    """Rows of two datasets, matched by id; memory grows by about 60 bytes for each row."""

    pairs: pl.DataFrame
    """Rows with the same id and text: `split`, `index`, `split_b`, `index_b`."""
    changed: int
    """Number of rows with the same id and another text."""
    moved: int
    """Number of rows with the same id and text in another split."""
    only: tuple[int, int]
    """Number of rows of each dataset whose id the other one does not have."""

    def draw(self, rows: int, rng: np.random.Generator) -> pl.DataFrame:
        """Draw pairs at random, in order; all of fewer."""
        if len(self.pairs) <= rows:
            return self.pairs
        return self.pairs[np.sort(rng.choice(len(self.pairs), rows, replace=False))]


def match_rows(one: OpenedDataset, other: OpenedDataset) -> CommonRows:
    """Match the rows of two datasets; reads ids and texts once, as streams."""
    left, right = _keys(one), _keys(other)
    both = left.join(right, on="id", how="inner", suffix="_b", maintain_order="left")
    same = both.filter(pl.col("text") == pl.col("text_b"))
    return CommonRows(
        same.select("split", "index", "split_b", "index_b"),
        len(both) - len(same),
        same.filter(pl.col("split") != pl.col("split_b")).height,
        (left.join(right, on="id", how="anti").height, right.join(left, on="id", how="anti").height),
    )


def _keys(dataset: OpenedDataset) -> pl.DataFrame:
    """Hashes of the id and the text of every row, with its split and its index there."""
    frames = [pl.DataFrame(schema={"id": pl.UInt64, "text": pl.UInt64, "split": pl.String, "index": pl.Int64})]
    for split in dataset.rows:
        start = 0
        for batch, _ in dataset.store.live_batches(split, ["text_id", "text"]):
            columns = {
                name: pl.Series(pl.from_arrow(batch[column])).hash(seed)
                for name, column, seed in zip(("id", "text"), ("text_id", "text"), _SEEDS, strict=True)
            }
            end = start + batch.num_rows
            index = pl.Series(np.arange(start, end))
            frames.append(pl.DataFrame(columns).with_columns(split=pl.lit(split), index=index))
            start = end
    return pl.concat(frames)


def read_vectors(dataset: OpenedDataset, splits: pl.Series, index: pl.Series) -> Float32Array:
    """Read the vectors of rows of several splits, in order, shape (N, D); those that are not finite are zero."""
    rows, names = index.to_numpy(), splits.to_numpy()
    vectors = np.zeros((len(rows), next(iter(dataset.rows.values())).dim), np.float32)
    for split, reader in dataset.rows.items():
        own = np.flatnonzero(names == split)
        vectors[own] = reader.vectors(rows[own])
    vectors[~np.isfinite(vectors).all(axis=1)] = 0
    return vectors


def read_column(dataset: OpenedDataset, splits: pl.Series, index: pl.Series, name: str) -> pl.Series:
    """Read a column of rows of several splits, in order; null for rows of splits that do not have it."""
    rows, names = index.to_numpy(), splits.to_numpy()
    parts = []
    for split, reader in dataset.rows.items():
        own = np.flatnonzero(names == split)
        if name in reader.names:
            table = reader.records(reader.of_files(rows[own]), [name])
            parts.append(pl.DataFrame({"at": own, name: pl.Series(pl.from_arrow(table[name]))}))
    everything = pl.DataFrame({"at": np.arange(len(rows))})
    if not parts:
        return pl.Series(name, [None] * len(rows), dtype=pl.Float64)
    return everything.join(pl.concat(parts, how="vertical_relaxed"), on="at", how="left", maintain_order="left")[name]
