"""Vectors from the replies of a server: what is not a complete, plain vector is an error."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.types import Float32Array


def read_vectors(items: Sequence[Any]) -> Float32Array:
    """Read vectors that are lists of numbers or base64 of little-endian float32.

    Args:
        items: one item for each text.

    Returns:
        Shape (N, D); may hold non-finite values, which the engine reports by the name of the text.

    Raises:
        ValueError: an item is no vector, or they have several widths.
    """
    vectors = [_read_vector(item) for item in items]
    widths = sorted({len(vector) for vector in vectors})
    if len(widths) != 1 or widths == [0]:
        raise ValueError(
            f"vectors of {', '.join(map(str, widths)) or 'no'} dimensions in one reply, expected one width"
        )
    return np.stack(vectors)


def _read_vector(item: Any) -> Float32Array:
    if isinstance(item, str):
        content = base64.b64decode(item, validate=True)
        if len(content) % 4:
            raise ValueError(f"base64 of {len(content)} bytes, expected four for each dimension")
        return np.frombuffer(content, "<f4").astype(np.float32, copy=False)
    if not isinstance(item, list):
        raise ValueError(f"a vector of type {type(item).__name__}, expected a list of numbers or base64")
    # numpy would read texts and truth values as numbers; null is what servers send for NaN.
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in item):
        raise ValueError("a vector that holds something else than numbers")
    with np.errstate(over="ignore"):
        return np.array([np.nan if value is None else value for value in item], np.float64).astype(np.float32)
