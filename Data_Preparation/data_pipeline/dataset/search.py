"""The rows nearest to a query."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from data_pipeline.embeddings import encode
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.types import Float32Array

if TYPE_CHECKING:
    from data_pipeline.dataset.dataset import ELMDataset

Query: TypeAlias = "str | Sequence[float] | np.ndarray[Any, Any] | torch.Tensor"


def search(dataset: "ELMDataset", query: Query, k: int) -> list[dict[str, Any]]:
    """See `ELMDataset.search`; reads all vectors once."""
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    vector = _query_vector(dataset, query)
    scores = np.zeros(len(dataset), dtype=np.float32)
    start = 0
    for block in dataset.iter_embeddings():
        block = block.astype(np.float32)
        norms = np.linalg.norm(block, axis=1)
        scores[start : start + len(block)] = block @ vector / np.where(norms > 0, norms, 1)
        start += len(block)
    best = np.argsort(-scores, kind="stable")[:k]
    return [
        {"index": int(index), "score": float(scores[index]), **sample}
        for index, sample in zip(best, dataset.__getitems__(best), strict=True)
    ]


def _query_vector(dataset: "ELMDataset", query: Query) -> Float32Array:
    if isinstance(query, str):
        if dataset.embedder is None:
            dataset.embedder = load_maker(dataset.rows.first_shard)
        vector = encode(dataset.embedder, [query], query=True)[0][: dataset.dim]
    else:
        vector = np.asarray(query, dtype=np.float32)
    if vector.shape != (dataset.dim,):
        raise ValueError(f"the query vector must have shape ({dataset.dim},), got {vector.shape}")
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise ValueError("the query vector has no direction: its length is 0 or not finite")
    return np.asarray(vector / length, dtype=np.float32)
