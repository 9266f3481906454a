"""Export of a dataset to the classes of other libraries."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from data_pipeline.dataset.dtypes import numpy_dtype
from data_pipeline.store.reader import Rows

if TYPE_CHECKING:
    import datasets


def to_hf(rows: Rows, vector_dtype: torch.dtype | None) -> "datasets.Dataset":
    """Convert rows to a Hugging Face dataset; see `ELMDataset.to_hf`.

    Args:
        rows: the rows.
        vector_dtype: dtype of vectors that have to be copied; None to leave the vectors out.
    """
    import datasets

    table = rows.table(rows.names)
    if vector_dtype is not None:
        table = table.append_column("embedding", _vector_column(rows, vector_dtype))
    return datasets.Dataset(table.replace_schema_metadata())


def _vector_column(rows: Rows, dtype: torch.dtype) -> pa.Array:
    vectors = rows.one_array(numpy_dtype(dtype))
    if vectors.dtype == np.dtype("bfloat16"):  # which Arrow does not have
        vectors = vectors.astype(np.float32)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.dim)
