"""Lookup of rows by id or by selection, and tables in memory; needs polars, which a training loop does not import."""

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
    """Read columns of all rows into memory."""
    return pl.DataFrame(pl.from_arrow(rows.table(names)))


def rows_of_ids(rows: Rows, ids: Sequence[Any], where: str) -> IntArray:
    """Return the index of each id, shape (N,).

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
    """Return the indices of the rows of a selection, in order of preference, shape (N,).

    Raises:
        StoreError: no selection has that name, or the dataset is remote.
        ShardMismatchError: the selection was made from other paragraphs.
    """
    source = rows.source
    if source.remote is not None:
        raise StoreError(f"selections are read from local folders only, found {source.remote.shown}")
    if Path(name).name != name or name in {"", ".", ".."}:
        raise NotFoundError(
            f"{name!r} is not the name of a selection, such as kcenter_p10_seed42; `elm select` prints the name"
        )
    folder = source.store.folder.parent / "selections" / name
    return rows_of_ids(rows, read_selection(folder, source.split, source.fingerprint()), str(folder))
