"""Bulk access to the vectors of a dataset, and their conversion between numpy and torch dtypes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import StoreError
from data_pipeline.store.reader import Rows

_ONE_THREAD_VALUES = 32_768  # up to so many values torch leaves the work to one thread


def iter_vectors(rows: Rows, block_rows: int = 16_384) -> Iterator[NDArray[Any]]:
    """All vectors in order, in blocks of shape (up to `block_rows`, dim)."""
    for start in range(0, len(rows), block_rows):
        index = np.arange(start, min(start + block_rows, len(rows)))
        rows.prepare(index, 1, texts=False, vectors=True)
        yield rows.vectors(index)


def collect_vectors(rows: Rows, dtype: torch.dtype) -> NDArray[Any]:
    """All vectors in memory, shape (rows, dim)."""
    vectors = np.empty((len(rows), rows.dim), np.dtype(str(dtype).removeprefix("torch.")))
    start = 0
    for block in iter_vectors(rows):
        vectors[start : start + len(block)] = block
        start += len(block)
    return vectors


def map_vectors(rows: Rows) -> NDArray[Any]:
    """All vectors as they are stored, shape (rows, stored width), mapped and not copied.

    Raises:
        StoreError: they cannot be mapped as one array of floats.
    """
    if rows.selection is not None:
        raise StoreError("a selection of rows cannot be mapped as one array; use to_numpy(), which copies")
    coding = rows.first_shard.coding
    if not coding.is_float:
        raise StoreError(f"the vectors are stored as {coding.precision}; use to_numpy(), which decodes them")
    return rows.stored.whole()


def convert_dtype(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Vectors of shape (N, dim) in another dtype, computed by the calling thread alone.

    Torch would divide the work among its threads, which belong to the training loop: where several
    threads ask for that, each gets a thread pool of its own, and they wait busily.
    """
    if vectors.dtype == dtype:
        return vectors
    converted = torch.empty(vectors.shape, dtype=dtype)
    block_rows = max(1, _ONE_THREAD_VALUES // vectors.shape[1])
    for target, source in zip(torch.split(converted, block_rows), torch.split(vectors, block_rows), strict=True):
        target.copy_(source)
    return converted


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array that shares its memory."""
    if tensor.dtype == torch.bfloat16:  # numpy has it only through ml_dtypes, which torch does not use
        array: NDArray[Any] = tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
        return array
    return tensor.numpy()
