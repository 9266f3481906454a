"""Summary statistics of a dataset."""

from typing import Any

import numpy as np
import polars as pl

from data_pipeline.store.reader import Rows


def compute_statistics(rows: Rows, metadata: pl.DataFrame, with_vectors: bool) -> dict[str, Any]:
    """Summarize rows; see `ELMDataset.get_statistics`.

    Args:
        rows: the rows.
        metadata: columns of the rows.
        with_vectors: include the vectors, which are read once.
    """
    summary: dict[str, Any] = {"split": rows.source.split, "rows": len(rows)}
    if "document_id" in metadata.columns:
        summary["documents"] = metadata["document_id"].n_unique()
    for name in ("token_count", "char_count"):
        column = metadata[name]
        summary[name] = {"total": int(column.sum() or 0)}
        if len(rows):
            summary[name] |= {key: getattr(column, key)() for key in ("min", "mean", "median", "max")}
    if with_vectors:
        summary["embedding"] = _vector_statistics(rows)
    return summary


def _vector_statistics(rows: Rows) -> dict[str, Any]:
    total, squares, count = 0.0, 0.0, 0
    for block in rows.iter_vectors():
        norms = np.linalg.norm(block.astype(np.float32), axis=1).astype(np.float64)
        total, squares, count = total + float(norms.sum()), squares + float((norms**2).sum()), count + len(norms)
    mean = total / count if count else 0.0
    return {
        "dim": rows.dim,
        "precision": rows.first_shard.coding.precision,
        "norm_mean": mean,
        "norm_std": float(np.sqrt(max(0.0, squares / count - mean**2))) if count else 0.0,
    }
