"""Summary statistics of a dataset."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from data_pipeline.dataset.dataset import ELMDataset


def statistics(dataset: "ELMDataset") -> dict[str, Any]:
    """See `ELMDataset.get_statistics`; reads all vectors once."""
    table = dataset.metadata
    found: dict[str, Any] = {"split": dataset.split, "rows": len(dataset)}
    if "document_id" in table.columns:
        found["documents"] = table["document_id"].n_unique()
    for column in ("token_count", "char_count"):
        values = table[column]
        found[column] = {"total": int(values.sum() or 0)}
        if len(dataset):
            numbers = {"min": values.min(), "mean": values.mean(), "median": values.median(), "max": values.max()}
            found[column] |= numbers
    if "embedding" in dataset.columns:
        total, squares, count = 0.0, 0.0, 0
        for block in dataset.iter_embeddings():
            norms = np.linalg.norm(block.astype(np.float32), axis=1).astype(np.float64)
            total, squares, count = total + float(norms.sum()), squares + float((norms**2).sum()), count + len(norms)
        mean = total / count if count else 0.0
        found["embedding"] = {
            "dim": dataset.dim,
            "precision": dataset.rows.first_shard.coding.precision,
            "norm_mean": mean,
            "norm_std": float(np.sqrt(max(0.0, squares / count - mean**2))) if count else 0.0,
        }
    return found
