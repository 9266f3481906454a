"""Which rows: by a condition on their metadata, or by a list of their ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_pipeline.errors import NotFound, StoreError
from data_pipeline.store import read_selection
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray
from data_pipeline.user_files.tables import read_table

if TYPE_CHECKING:
    from data_pipeline.dataset.dataset import ELMDataset


def frame(rows: Rows, names: Sequence[str]) -> pl.DataFrame:
    """Some columns of all rows, in memory."""
    return pl.DataFrame(pl.from_arrow(rows.table(names)))


def kept_rows(dataset: "ELMDataset", condition: pl.Expr | str) -> NDArray[np.bool_]:
    """For every row whether a condition holds; see `ELMDataset.filter`."""
    there = dataset.rows.names
    if isinstance(condition, str):
        try:
            condition = pl.sql_expr(condition)
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"the condition {condition!r} cannot be read: {error}") from error
    named = list(dict.fromkeys(condition.meta.root_names()))
    if not named or condition.meta.has_multiple_outputs():  # a selector, or a pattern
        named = there
    unknown = [name for name in named if name not in there]
    if unknown:
        raise ValueError(f"there is no column {', '.join(unknown)}; there are {', '.join(there)}")
    try:
        kept = frame(dataset.rows, named).select(condition.alias("kept"))["kept"]
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the condition cannot be evaluated: {error}") from error
    if kept.dtype != pl.Boolean or len(kept) != len(dataset):
        raise ValueError(
            f"the condition must be true or false for each of {len(dataset)} rows; it gives {len(kept)} values "
            f"of {kept.dtype}"
        )
    return kept.fill_null(value=False).to_numpy()


def listed_rows(dataset: "ELMDataset", ids: "str | Path | pl.DataFrame | Sequence[str]") -> IntArray:
    """The rows of a manifest's ids; see `ELMDataset.subset`."""
    if isinstance(ids, str | Path | pl.DataFrame):
        table = read_table(ids, {"text_id": "id"})
        table.require("text_id")
        names, where = table.frame["text_id"].to_list(), table.where
    else:
        names, where = list(ids), "the list"
    rows = rows_of_ids(dataset, names, where)
    if len(np.unique(rows)) != len(rows):
        _, firsts = np.unique(rows, return_index=True)
        again = np.setdiff1d(np.arange(len(rows)), firsts)[0]
        raise StoreError(f"{where} has the id {names[again]!r} twice; a subset has every row once")
    return rows


def selected_rows(dataset: "ELMDataset", name: str) -> IntArray:
    """The rows of a selection, the most wanted first.

    Raises:
        StoreError: there is none of that name, or the data are on another machine.
        ShardMismatch: it was made from other paragraphs.
    """
    source = dataset.rows.source
    if source.remote is not None:
        raise StoreError(f"selections are read from folders of this machine only, {source.remote.shown} is not one")
    if Path(name).name != name or name in {"", ".", ".."}:
        raise NotFound(f"{name!r} is no name of a selection; elm select says it, such as kcenter_p10_seed42")
    folder = source.store.folder.parent / "selections" / name
    return rows_of_ids(dataset, read_selection(folder, dataset.split, source.fingerprint()), str(folder))


def rows_of_ids(dataset: "ELMDataset", ids: Sequence[Any], where: str) -> IntArray:
    """Row of each id, shape (N,).

    Raises:
        StoreError: an id is not there.
    """
    there = dataset.rows.table(["text_id"])["text_id"].combine_chunks()
    wanted = pa.array([str(name) for name in ids], pa.string())
    rows = pc.index_in(wanted, value_set=there)
    if rows.null_count:
        missing = int(np.flatnonzero(rows.is_null().to_numpy(zero_copy_only=False))[0])
        raise StoreError(
            f"{where}: {rows.null_count} of {len(wanted)} ids are not in this data set ({dataset.split}), "
            f"the first is {ids[missing]!r}"
        )
    return rows.to_numpy().astype(np.int64)
