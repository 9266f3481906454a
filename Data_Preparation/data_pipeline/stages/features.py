"""Features for selectors, read from a store."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.store.lookup import read_frame, rows_of_selection
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray


class Texts(Sequence[str]):
    """Lazy sequence of the texts of a dataset."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        index = np.atleast_1d(np.arange(len(self))[position]).astype(np.int64)
        texts = self._rows.columns.texts(self._rows.of_files(index))
        return texts if isinstance(position, slice) else texts[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]


class _WithRows(Protocol):
    """Object with rows, such as an `ELMDataset`."""

    rows: Rows


def features_from_dataset(dataset: _WithRows, needs: Iterable[Need], label: str | None = None) -> Features:
    """Return the features of an `ELMDataset`; see `features_from_rows`."""
    return features_from_rows(dataset.rows, needs, label)


def features_from_rows(rows: Rows, needs: Iterable[Need], label: str | None = None) -> Features:
    """Return only the required features of a dataset; vectors and texts stay on disk.

    Args:
        rows: rows of a split, with embeddings if they are needed.
        needs: see `Need`.
        label: column with the class, required for `labels`: numbers or strings, sorted.

    Raises:
        SelectionError: a column does not exist, or holds no numbers.
        StoreError: a selection does not exist.
    """
    needs = set(needs)
    columns = {need.removeprefix("score:"): need for need in needs if need.startswith("score:")}
    wanted = [name for name in columns if name in rows.metadata_names]
    if "labels" in needs:
        wanted.append(_label_column(rows, label))
    table = read_frame(rows, list(dict.fromkeys(["text_id", "token_count", *wanted])))
    return Features(
        table["text_id"].to_list(),
        rows.one_array() if "embeddings" in needs else None,
        Texts(rows) if "texts" in needs else None,
        _classes(table[label]) if "labels" in needs and label else None,
        table["token_count"].to_numpy().astype(np.int64) if "token_counts" in needs else None,
        {name: _numbers(table[name]) for name in columns if name in table.columns},
        {name: rows_of_selection(rows, name) for name in _named(needs, "subset")},
        _inputs_of_scores(rows, list(columns)),
    )


def _named(needs: Iterable[Need], kind: str) -> list[str]:
    return sorted(need.partition(":")[2] for need in needs if need.startswith(f"{kind}:"))


def _label_column(rows: Rows, label: str | None) -> str:
    columns = ", ".join(rows.metadata_names)
    if label is None:
        raise SelectionError(f"labels are needed: name the column that has them (label); expected one of {columns}")
    if label not in rows.metadata_names:
        raise SelectionError(f"no column {label!r} to be the label; expected one of {columns}")
    return label


def _classes(column: pl.Series) -> IntArray:
    if column.null_count():
        raise SelectionError(f"{column.null_count()} rows have no label in {column.name!r}; leave them out")
    return np.unique(column.to_numpy(), return_inverse=True)[1].astype(np.int64)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    if not column.dtype.is_numeric():
        raise SelectionError(f"the column {column.name!r} has the type {column.dtype}, expected numbers")
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _inputs_of_scores(rows: Rows, columns: Sequence[str]) -> dict[Need, frozenset[Need]]:
    """Return the features that score columns were made from, as their manifests say."""
    inputs: dict[Need, frozenset[Need]] = {}
    for scores in rows.source.scores:
        sees = frozenset(scores.listed["settings"].get("sees", ()))
        inputs |= {f"score:{name}": sees for name in scores.columns if name in columns and sees}
    return inputs
