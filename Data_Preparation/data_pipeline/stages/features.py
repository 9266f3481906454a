"""What selectors look at, out of one of our stores."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data_pipeline.dataset import ELMDataset
from data_pipeline.dataset.subsets import selected_rows
from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.types import IntArray


class Texts(Sequence[str]):
    """The texts of a data set, read when they are looked at."""

    def __init__(self, dataset: ELMDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        rows = np.arange(len(self))[place]
        rows_of_files = self._dataset.rows.of_files(np.atleast_1d(rows).astype(np.int64))
        found = self._dataset.rows.columns.texts(rows_of_files)
        return found if isinstance(place, slice) else found[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]


def features_of(dataset: ELMDataset, needs: Iterable[Need], label: str | None = None) -> Features:
    """The features of a data set that are needed, and no others; vectors and texts stay on disk.

    Args:
        dataset: one of ours, with its embeddings where they are needed.
        needs: see `Need`.
        label: the column with the class, needed for `labels`: numbers or strings, sorted.

    Raises:
        SelectionError: a column is not there, or holds no numbers.
        StoreError: a selection is not there.
    """
    needs = set(needs)
    there = dataset.rows.metadata_names
    columns = {need.removeprefix("score:"): need for need in needs if need.startswith("score:")}
    wanted = [name for name in columns if name in there]
    if "labels" in needs:
        wanted.append(_label_column(dataset, label))
    table = dataset.metadata.select(*dict.fromkeys(["text_id", "token_count", *wanted]))
    ids = table["text_id"].to_list()
    subsets = {name: selected_rows(dataset.rows, name) for name in _named(needs, "subset")}
    return Features(
        ids,
        _vectors(dataset) if "embeddings" in needs else None,
        Texts(dataset) if "texts" in needs else None,
        _classes(table[label]) if "labels" in needs and label else None,
        table["token_count"].to_numpy().astype(np.int64) if "token_counts" in needs else None,
        {name: _numbers(table[name]) for name in columns if name in table.columns},
        subsets,
        _seen(dataset, list(columns)),
    )


def _named(needs: Iterable[Need], kind: str) -> list[str]:
    return sorted(need.partition(":")[2] for need in needs if need.startswith(f"{kind}:"))


def _label_column(dataset: ELMDataset, label: str | None) -> str:
    there = ", ".join(dataset.rows.metadata_names)
    if label is None:
        raise SelectionError(f"this needs labels; say which column has them (--label); there are {there}")
    if label not in dataset.rows.metadata_names:
        raise SelectionError(f"there is no column {label!r} to be the label; there are {there}")
    return label


def _vectors(dataset: ELMDataset) -> NDArray[np.generic]:
    if dataset.rows.selection is None and dataset.rows.first_shard.coding.is_float:
        return dataset.embeddings
    return dataset.to_numpy()


def _classes(column: pl.Series) -> IntArray:
    if column.null_count():
        raise SelectionError(f"{column.null_count()} rows have no label in {column.name!r}; leave them out")
    return np.unique(column.to_numpy(), return_inverse=True)[1].astype(np.int64)


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    if not column.dtype.is_numeric():
        raise SelectionError(f"the column {column.name!r} is of {column.dtype}, and a score is a number")
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _seen(dataset: ELMDataset, columns: Sequence[str]) -> dict[Need, frozenset[Need]]:
    """What the score columns were made from, as their manifests say."""
    found: dict[Need, frozenset[Need]] = {}
    for scores in dataset.rows.source.scores:
        sees = frozenset(scores.listed["settings"].get("sees", ()))
        found |= {f"score:{name}": sees for name in scores.columns if name in columns and sees}
    return found
