"""Which texts share a batch: neighbours in length, so that little is padding."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.types import IntArray


def plan_batches(lengths: Sequence[int], batch_size: int, batch_tokens: int) -> list[IntArray]:
    """Cut rows into batches, longest first, ties in input order.

    Args:
        lengths: tokens of every row.
        batch_size: most rows in a batch.
        batch_tokens: most tokens in a batch, padding counted; a longer row goes alone.

    Returns:
        Row numbers of every batch; each row is in exactly one.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[IntArray] = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        rows = max(1, min(batch_size, batch_tokens // longest))
        batches.append(order[start : start + rows])
        start += rows
    return batches
