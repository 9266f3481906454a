"""Samples of a dataset, and batches whose columns were gathered at once."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray


class Sample(dict[str, Any]):
    """One row: `text`, `metadata` and `embedding`, or the columns that were chosen.

    A type of its own, so that torch's default collate function can be told how to collate it.
    """


class Metadata(Mapping[str, Any]):
    """Metadata of one row, read from disk at its first use; `dict(metadata)` has all of it."""

    __slots__ = ("_names", "_record", "_row", "_source")

    def __init__(self, source: Rows, names: Sequence[str], row: int) -> None:
        self._source, self._names, self._row = source, names, row
        self._record: dict[str, Any] | None = None

    @property
    def _read(self) -> dict[str, Any]:
        if self._record is None:
            self._record = self._source.records(np.array([self._row], np.int64), self._names).to_pylist()[0]
        return self._record

    def __getitem__(self, name: str) -> Any:
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._read,)


class MetadataBatch:
    """Metadata of several rows, read from disk at its first use.

    `batch[3]` is the metadata of one row, `batch["subject"]` a list with one value for each row,
    `list(batch)` a list of dicts, and `batch.table` an Arrow table. `batch.index` has the indices of
    the rows in the dataset, shape (N,).
    """

    def __init__(self, source: Rows | None, names: Sequence[str], rows: IntArray, index: IntArray) -> None:
        self._source, self._names, self._rows, self.index = source, names, rows, index

    @cached_property
    def table(self) -> pa.Table:
        """The metadata as an Arrow table with one row for each row of the batch."""
        assert self._source is not None
        return self._source.records(self._rows, self._names)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    @overload
    def __getitem__(self, key: slice) -> "MetadataBatch": ...
    def __getitem__(self, key: int | str | slice) -> "Mapping[str, Any] | list[Any] | MetadataBatch":
        if isinstance(key, slice):
            part = MetadataBatch(self._source, self._names, self._rows[key], self.index[key])
            if "table" in self.__dict__:
                part.table = self.table[key]
            return part
        if isinstance(key, str):
            return self.table[key].to_pylist()
        if not -len(self) <= key < len(self):
            raise IndexError(f"index {key} is out of range: the batch has {len(self)} rows")
        if "table" not in self.__dict__ and self._source is not None:
            return Metadata(self._source, self._names, int(self._rows[key]))
        return self.table.slice(key % len(self), 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.table.to_pylist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MetadataBatch | list):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"MetadataBatch of {len(self)} rows: {', '.join(self._names)}"

    def __getstate__(self) -> dict[str, Any]:
        # A worker process sends the values; the receiving process does not open the files.
        return {"_source": None, "_names": self._names, "_rows": self._rows, "index": self.index, "table": self.table}


class Batch(Sequence[Sample]):
    """Several samples whose columns were gathered at once; a sequence of samples.

    Collate functions use `columns` without taking the samples apart.

    Args:
        columns: `text` as a list, `metadata` as a `MetadataBatch`, `embedding` as a tensor of shape
            (N, dim), `index` as a tensor of shape (N,); or those of them that were chosen.
        rows: number of samples.
    """

    def __init__(self, columns: dict[str, Any], rows: int) -> None:
        self.columns = columns
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range: the batch has {len(self)} rows")
        return _sample(self.columns, index)

    def part(self, start: int, rows: int) -> dict[str, Any]:
        """Columns of `rows` neighbouring samples, the first at `start`."""
        return {name: values[start : start + rows] for name, values in self.columns.items()}


class GatheringDataset(Dataset[Sample]):
    """A map-style dataset that gathers the samples of a batch at once."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def gather(self, index: IntArray) -> Batch:
        """Read the samples at some indices, shape (N,), each from 0 to below the number of samples.

        Faster after `prepare` was called with the same indices.
        """

    @abstractmethod
    def prepare(self, index: IntArray, count: int = 1) -> None:
        """Start reading samples from the disk that `gather` will be asked for soon.

        Args:
            index: first sample of each run, shape (N,).
            count: samples in each run.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the samples and their order."""

    @property
    def version(self) -> int | None:
        """Number of the version of the dataset; None for datasets without versions, such as pairs."""
        return None


def _sample(columns: Mapping[str, Any], index: int) -> Sample:
    sample = Sample()
    for name, values in columns.items():
        if isinstance(values, dict):
            sample[name] = _sample(values, index)
        else:
            sample[name] = int(values[index]) if name == "index" else values[index]
    return sample


def stack(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples into one batch: vectors as a tensor of shape (N, dim), everything else in lists."""
    if isinstance(samples, Batch):
        return dict(samples.columns)
    batch: dict[str, Any] = {}
    for name in samples[0] if samples else ():
        values = [sample[name] for sample in samples]
        if isinstance(values[0], Mapping) and name != "metadata":
            batch[name] = stack(values)
        elif isinstance(values[0], torch.Tensor):
            batch[name] = torch.stack(values)
        elif isinstance(values[0], int):
            batch[name] = torch.tensor(values)
        else:
            batch[name] = values
    return batch


def _collate(samples: Sequence[Sample], *, collate_fn_map: object = None) -> dict[str, Any]:
    del collate_fn_map
    return stack(samples)


# So torch's own DataLoader returns batches as they were gathered, without a collate function from the user.
default_collate_fn_map[Sample] = _collate
