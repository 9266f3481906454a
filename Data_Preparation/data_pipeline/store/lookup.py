"""Rows of a split by id, by selection, or as a table in memory; needs polars, which a training loop does without."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.errors import NotFoundError, StoreError
from data_pipeline.store.reader import Rows
from data_pipeline.store.selections import read_selection
from data_pipeline.types import IntArray


def read_frame(rows: Rows, names: Sequence[str]) -> pl.DataFrame:
    """Columns of all rows, in memory."""
    return pl.DataFrame(pl.from_arrow(rows.table(names)))


def rows_of_ids(rows: Rows, ids: Sequence[Any], where: str) -> IntArray:
    """Index of each id, shape (N,).

    Args:
        rows: rows to look in.
        ids: values of `text_id`.
        where: source of the ids, for messages.

    Raises:
        StoreError: an id is not among the rows.
    """
    existing = rows.table(["text_id"])["text_id"].combine_chunks()
    wanted = pa.array([str(name) for name in ids], pa.string())
    indices = pc.index_in(wanted, value_set=existing)
    if indices.null_count:
        missing = int(np.flatnonzero(indices.is_null().to_numpy(zero_copy_only=False))[0])
        raise StoreError(
            f"{where}: {indices.null_count} of {len(wanted)} ids are not in this dataset ({rows.source.split}), "
            f"the first is {ids[missing]!r}"
        )
    return indices.to_numpy().astype(np.int64)


def rows_of_selection(rows: Rows, name: str) -> IntArray:
    """Indices of the rows of a selection, the most wanted first, shape (N,).

    Raises:
        StoreError: no selection has that name, or the data are on another machine.
        ShardMismatchError: the selection was made from other paragraphs.
    """
    source = rows.source
    if source.remote is not None:
        raise StoreError(f"selections are read from folders of this machine only, {source.remote.shown} is not one")
    if Path(name).name != name or name in {"", ".", ".."}:
        raise NotFoundError(f"{name!r} is no name of a selection; `elm select` prints it, such as kcenter_p10_seed42")
    folder = source.store.folder.parent / "selections" / name
    return rows_of_ids(rows, read_selection(folder, source.split, source.fingerprint()), str(folder))
