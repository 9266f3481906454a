"""Rows of a split by condition, id or selection, or as a table in memory.

Needs polars, which a training loop does without.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipeline.errors import NotFoundError, StoreError
from data_pipeline.store.corpus_files import SplitFiles
from data_pipeline.store.reader import Rows
from data_pipeline.store.selections import paragraphs_of_selection, read_selection
from data_pipeline.types import IntArray
from data_pipeline.user_files.tables import read_table
from data_pipeline.utils import converted_errors


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
    ids = read_selection(folder, source.split, source.fingerprints())
    if len(deleted := source.store.deleted_rows(source.split)):
        end = _rows_selected_from(source, folder)
        gone = _ids_at(rows, deleted[deleted < end]) - _ids_at(rows, np.setdiff1d(np.arange(end), deleted))
        ids = [name for name in ids if name not in gone]  # a row that came since may have the id of one that went
    return rows_of_ids(rows, ids, str(folder))


def _rows_selected_from(source: SplitFiles, folder: Path) -> int:
    """Number of the rows in the files that a selection was made from, before others were appended."""
    count = source.fingerprints().index(paragraphs_of_selection(folder, source.split))  # 0: it has not grown since
    return sum(shard.rows for shard in source.paragraphs[: count or None])


def _ids_at(rows: Rows, numbers: IntArray) -> set[str]:
    """Ids of rows by their numbers in the files."""
    return set(rows.records(numbers, ["text_id"])["text_id"].to_pylist())


def match_rows(rows: Rows, condition: pl.Expr | str) -> NDArray[np.bool_]:
    """Whether a condition holds, for every row, shape (rows,); see `ELMDataset.filter`."""
    if isinstance(condition, str):
        with converted_errors(pl.exceptions.PolarsError, ValueError, f"the condition {condition!r} cannot be parsed"):
            condition = pl.sql_expr(condition)
    names = list(dict.fromkeys(condition.meta.root_names()))
    if not names or condition.meta.has_multiple_outputs():  # a selector or a pattern, which may mean any column
        names = rows.names
    unknown = [name for name in names if name not in rows.names]
    if unknown:
        raise ValueError(f"unknown column {', '.join(unknown)}; expected one of {', '.join(rows.names)}")
    with converted_errors(pl.exceptions.PolarsError, ValueError, "the condition cannot be evaluated"):
        matches = read_frame(rows, names).select(condition.alias("matches"))["matches"]
    if matches.dtype != pl.Boolean or len(matches) != len(rows):
        raise ValueError(
            f"the condition must be true or false for each of {len(rows)} rows; it gives {len(matches)} values "
            f"of {matches.dtype}"
        )
    return matches.fill_null(value=False).to_numpy()


def read_listed_rows(rows: Rows, ids: "str | Path | pl.DataFrame | Sequence[str]") -> IntArray:
    """Index of each id of a list, a table or a file, shape (N,); see `ELMDataset.subset`."""
    if isinstance(ids, str | Path | pl.DataFrame):
        table = read_table(ids, {"text_id": "id"})
        table.require("text_id")
        names, where = table.frame["text_id"].to_list(), table.where
    else:
        names, where = list(ids), "the list"
    index = rows_of_ids(rows, names, where)
    _, firsts = np.unique(index, return_index=True)
    if len(firsts) != len(index):
        repeated = np.setdiff1d(np.arange(len(index)), firsts)[0]
        raise StoreError(f"{where}: duplicate id {names[repeated]!r}; a subset has every row once")
    return index
