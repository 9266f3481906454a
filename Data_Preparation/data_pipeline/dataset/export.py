"""A data set in the form of another library."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data_pipeline.errors import StoreError

if TYPE_CHECKING:
    import datasets

    from data_pipeline.dataset.dataset import ELMDataset


def to_hf(dataset: "ELMDataset") -> "datasets.Dataset":
    """See `ELMDataset.to_hf`."""
    import datasets

    table = dataset.rows.table(dataset.rows.names)
    if "embedding" in dataset.columns:
        table = table.append_column("embedding", _vectors(dataset))
    return datasets.Dataset(table.replace_schema_metadata())


def _vectors(dataset: "ELMDataset") -> pa.Array:
    try:
        vectors = dataset.embeddings if dataset.dim == dataset.rows.first_shard.dim else dataset.to_numpy()
    except StoreError:  # they do not lie in one piece
        vectors = dataset.to_numpy()
    if vectors.dtype == np.dtype("bfloat16"):  # which Arrow does not have
        vectors = vectors.astype(np.float32)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, dataset.dim)
