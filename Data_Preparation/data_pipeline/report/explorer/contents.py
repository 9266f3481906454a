"""What the explorer shows: the rows of all splits one after the other, with their scores and subsets."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.errors import NotFoundError, StoreError
from data_pipeline.store import ParagraphStore
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.store.selections import read_selection
from data_pipeline.types import SPLITS, Float32Array, IntArray, Split
from data_pipeline.user_files import visible
from data_pipeline.utils import sha256_of_json

logger = logging.getLogger(__name__)

TEXT, TEXT_ID = "text", "text_id"
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class Contents:
    """Rows that the explorer shows."""

    corpus: str
    """Name of the corpus."""
    parts: Mapping[Split, Rows]
    """Rows of each split, in order."""
    subsets: Mapping[str, Mapping[Split, list[str]]]
    """Ids of the rows of each subset, by the splits that it selects from."""
    left_out: Sequence[str]
    """Sentences about what cannot be shown, and why."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def _starts(self) -> IntArray:
        return np.cumsum([0, *(len(rows) for rows in self.parts.values())]).astype(np.int64)

    @property
    def dim(self) -> int:
        """Number of dimensions of the vectors."""
        return next(iter(self.parts.values())).dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all vectors, (N, dim)."""
        return len(self), self.dim

    def __getitem__(self, rows: slice | IntArray) -> Float32Array:
        """Read vectors; see `vectors`."""
        return self.vectors(np.arange(len(self))[rows] if isinstance(rows, slice) else rows)

    @property
    def is_normalized(self) -> bool:
        """Whether all vectors have length 1."""
        return all(rows.first_shard.normalized for rows in self.parts.values())

    def fingerprint(self) -> str:
        """Compute the SHA-256 of the ids, texts and files of vectors of all rows, in order."""
        return sha256_of_json([[split, rows.fingerprint(), _vector_files(rows)] for split, rows in self.parts.items()])

    def blocks(self) -> Iterator[Float32Array]:
        """Iterate over the vectors of all rows in order, as blocks of shape (<= 16,384, dim)."""
        for rows in self.parts.values():
            for block in rows.iter_vectors(_BLOCK_ROWS):
                yield _float32(block)

    def vectors(self, index: IntArray) -> Float32Array:
        """Read the vectors of rows, given by row numbers of shape (K,); shape (K, dim)."""
        vectors = np.empty((len(index), self.dim), np.float32)
        owners = np.searchsorted(self._starts, index, side="right") - 1
        for number, rows in enumerate(self.parts.values()):
            mask = owners == number
            if mask.any():
                local_rows = index[mask] - self._starts[number]
                rows.prepare(local_rows, 1, texts=False, vectors=True)
                vectors[mask] = rows.vectors(local_rows)
        return vectors

    def table(self) -> pa.Table:
        """All columns of all rows: ids, texts, metadata, scores, `split`, and a boolean for each subset.

        Columns that the files of a split lack are null there. Names are unique also without regard to case.
        """
        tables = [rows.table(rows.names) for rows in self.parts.values()]
        table = pa.concat_tables(tables, promote_options="permissive")
        names = unique_names(table.column_names)
        table = table.rename_columns(names)
        counts = [len(rows) for rows in self.parts.values()]
        splits = pa.DictionaryArray.from_arrays(
            np.repeat(np.arange(len(counts), dtype=np.int8), counts), pa.array(list(self.parts))
        )
        table = self._append(table, "split", splits)
        for subset, ids in self.subsets.items():
            table = self._append(table, f"subset {subset}", self._membership(table, ids))
        return table

    def _membership(self, table: pa.Table, ids: Mapping[Split, list[str]]) -> pa.Array:
        members = np.zeros(len(self), bool)
        for number, split in enumerate(self.parts):
            if split in ids:
                start, stop = self._starts[number : number + 2].tolist()
                own = table[TEXT_ID].slice(start, stop - start)
                members[start:stop] = pc.is_in(own, pa.array(ids[split], own.type)).to_numpy()
        return pa.array(members)

    @staticmethod
    def _append(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
        return table.append_column(unused_name(name, table.column_names), column)


def open_contents(config: Config, splits: Sequence[Split] | None = None) -> Contents:
    """Open the rows of a dataset that have vectors.

    Args:
        config: configuration with the folders, the corpus and the variant.
        splits: splits to open; None for all that have rows and vectors.

    Raises:
        NotFoundError: the dataset, a split or all vectors are missing.
        StoreError: files are damaged, or do not belong together.
    """
    store = ParagraphStore(config.processed_dir)
    store.check()
    parts: dict[Split, Rows] = {}
    left_out: list[str] = []
    for split in store.splits if splits is None else [split for split in SPLITS if split in splits]:
        try:
            rows = open_rows(config, split)
        except NotFoundError as error:
            if splits is not None or not store.listed(split):
                raise
            left_out.append(f"The split {split} is left out: {error}")
            continue
        if len(rows):
            parts[split] = rows
    if not parts:
        raise NotFoundError(
            f"The explorer shows rows by their vectors, and {config.shown_location} has no rows with vectors"
            f"{'' if splits is None else ' in ' + ', '.join(splits)}. Make them with: elm embed"
        )
    subsets, unusable = _subsets(config, parts)
    return Contents(store.corpus, parts, subsets, (*left_out, *unusable))


def _subsets(config: Config, parts: Mapping[Split, Rows]) -> tuple[dict[str, dict[Split, list[str]]], list[str]]:
    """Read the subsets that were selected from these rows; returns them, and sentences about others."""
    subsets: dict[str, dict[Split, list[str]]] = {}
    unusable = []
    folder = config.selections_dir
    for name in sorted(path.parent.name for path in visible(folder.glob("*/manifest.json"), folder)):
        for split, rows in parts.items():
            try:
                ids = read_selection(folder / name, split, set(rows.source.fingerprints()))
            except NotFoundError:  # it selects from another split
                continue
            except StoreError as error:
                unusable.append(f"The subset {name} is left out: {error}")
                continue
            subsets.setdefault(name, {})[split] = ids
    return subsets, unusable


def unique_names(names: Sequence[str]) -> list[str]:
    """Number names that differ from an earlier one in case only, which are the same to SQL."""
    unique: list[str] = []
    for name in names:
        unique.append(unused_name(name, unique))
    return unique


def unused_name(name: str, taken: Sequence[str]) -> str:
    """Return a name, with a number if it is taken, whatever its case."""
    existing = {other.casefold() for other in taken}
    number, unused = 1, name
    while unused.casefold() in existing:
        number += 1
        unused = f"{name}_{number}"
    return unused


def _vector_files(rows: Rows) -> list[Any]:
    """Return what changes when the vectors of a split do: the variant, and size and time of their files."""
    source = rows.source
    stats = [source.embedding_path(index).stat() for index in range(len(source.paragraphs))]
    return [source.embeddings_name, rows.dim, [[stat.st_size, stat.st_mtime_ns] for stat in stats]]


def _float32(block: NDArray[Any]) -> Float32Array:
    # By torch, which takes half the time of numpy for float16, and has more threads.
    return block if block.dtype == np.float32 else torch.from_numpy(block).float().numpy()
