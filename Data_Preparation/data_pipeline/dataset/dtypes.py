"""Vectors as torch tensors and numpy arrays, in another dtype."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ONE_THREAD_VALUES = 32_768  # up to so many values torch leaves the work to one thread


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
        return tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
    return tensor.numpy()


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The numpy dtype of a torch dtype; bfloat16 is that of ml_dtypes."""
    return np.dtype(str(dtype).removeprefix("torch."))
