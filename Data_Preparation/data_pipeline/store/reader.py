"""The rows of a split, or a selection of them: texts, metadata and vectors by index, without torch."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from data_pipeline.config import Config
from data_pipeline.errors import StoreError
from data_pipeline.store import Columns, EmbeddingShard, Scores, Vectors, unit_length
from data_pipeline.store.corpus_files import Source, open_source
from data_pipeline.types import IntArray, Split
from data_pipeline.utils.missing import without_nan


class Rows:
    """Reads rows by index. Files are opened when they are first needed, in each process for itself.

    Args:
        source: the files.
        dim: only so many of the first dimensions of a vector; None for all.
        selection: rows of the files, shape (N,); None for all of them.

    Raises:
        ValueError: the vectors have fewer dimensions.
    """

    def __init__(self, source: Source, dim: int | None = None, selection: IntArray | None = None) -> None:
        self.source = source
        self.selection = selection
        self._total = sum(shard.rows for shard in source.paragraphs)
        self._dim = None
        if dim is not None and source.with_embeddings:
            stored = self.stored.first.dim
            if not 1 <= dim <= stored:
                raise ValueError(f"dim must be from 1 to {stored}, the width of the stored vectors; got {dim}")
            self._dim = dim if dim < stored else None

    def __len__(self) -> int:
        return self._total if self.selection is None else len(self.selection)

    def select(self, index: IntArray) -> "Rows":
        """Some of these rows, read from the same open files."""
        some = object.__new__(Rows)
        some.__dict__ |= self.__dict__
        some.selection = self.of_files(index)
        return some

    def of_files(self, index: IntArray) -> IntArray:
        """Indices -> rows of the files."""
        return index if self.selection is None else self.selection[index]

    @cached_property
    def columns(self) -> Columns:
        """Texts and metadata of the files' rows."""
        return Columns(self.source.paragraphs, self.source.text_copy)

    @cached_property
    def stored(self) -> Vectors:
        """Vectors of the files' rows, as they are stored."""
        if not self.source.with_embeddings:
            raise StoreError(
                "this data set was opened without embeddings: open it without load_embeddings=False, and with "
                "embedding among its columns"
            )
        return Vectors([shard.rows for shard in self.source.paragraphs], self.source.open_embeddings)

    @cached_property
    def scores(self) -> Scores:
        """Scores of the files' rows."""
        return Scores(self.source.scores)

    @cached_property
    def names(self) -> list[str]:
        """All columns: texts, metadata, scores."""
        own = self.columns.schema.names
        return [*own, *(name for name in self.scores.names if name not in own)]

    @cached_property
    def metadata_names(self) -> list[str]:
        """All columns but the text."""
        return [name for name in self.names if name != "text"]

    @property
    def where(self) -> str:
        """The split and its folder, for messages."""
        return f"{self.source.split} of {self.source.store.folder}"

    @property
    def first_shard(self) -> EmbeddingShard:
        """The first file of vectors; its metadata say how all were made."""
        return self.stored.first

    @property
    def dim(self) -> int:
        """Width of a vector as it is read."""
        return self._dim or self.stored.first.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of vectors as they are stored; float32 for compressed ones."""
        coding = self.stored.first.coding
        return coding.dtype if coding.is_float else np.dtype(np.float32)

    @cached_property
    def _as_stored(self) -> bool:
        return self._dim is None and self.stored.first.coding.is_float

    def vectors(self, index: IntArray) -> NDArray[Any]:
        """Vectors of shape (N, dim), a copy: floats as they are stored, others as float32.

        Cut to fewer dimensions, those that had length 1 are given it again, in float32.
        """
        rows, first = self.of_files(index), self.stored.first
        if self._as_stored:
            return self.stored.gather(rows)
        if self._dim is None:
            return first.decode(self.stored.gather(rows))
        if first.coding.is_float:
            found = self.stored.gather(rows, self._dim)
        else:
            found = first.coding.decode(self.stored.gather(rows))[:, : self._dim]
        return unit_length(found.astype(np.float32)) if first.normalized else found

    def vector(self, index: int) -> NDArray[Any]:
        """One of `vectors`, shape (dim,)."""
        if self._as_stored:
            return self.stored.row(index if self.selection is None else int(self.selection[index]))
        one = np.array([index])
        self.stored.prepare(self.of_files(one))
        found: NDArray[Any] = self.vectors(one)[0]
        return found

    def iter_vectors(self, block_rows: int = 16_384) -> Iterator[NDArray[Any]]:
        """All vectors in order, shape (N, dim), `block_rows` at a time; see `vectors`."""
        for start in range(0, len(self), block_rows):
            index = np.arange(start, min(start + block_rows, len(self)))
            self.prepare(index, 1, texts=False, vectors=True)
            yield self.vectors(index)

    def all_vectors(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """All vectors, shape (rows, dim), in memory."""
        vectors = np.empty((len(self), self.dim), dtype)
        start = 0
        for block in self.iter_vectors():
            vectors[start : start + len(block)] = block
            start += len(block)
        return vectors

    def mapped_vectors(self) -> NDArray[Any]:
        """All vectors as they are stored, shape (rows, dim): the files, read-only, without a copy.

        Raises:
            StoreError: they are compressed, these are some of the rows only, or the shards cannot lie side by side.
        """
        if self.selection is not None:
            raise StoreError("a selection of rows cannot be mapped as one array; use to_numpy(), which copies")
        coding = self.first_shard.coding
        if not coding.is_float:
            raise StoreError(f"the vectors are stored as {coding.precision}; use to_numpy(), which decodes them")
        return self.stored.whole()

    def table(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows, NaN as null; not copied where all rows are selected, but for numbers."""
        if self.selection is not None:
            return self.records(self.selection, names)
        own = self._own(names)
        schema = pa.schema([self.columns.schema.field(name) for name in own])
        found = pa.Table.from_batches(self.columns.batches(own), schema)
        return without_nan(self._with_scores(found, names, None))

    def records(self, rows: IntArray, names: Sequence[str]) -> pa.Table:
        """Some columns of rows of the files, shape (N,); NaN as null, which no comparison takes for a large number."""
        own = self._own(names)
        return without_nan(self._with_scores(self.columns.records(rows, own), names, rows))

    def _own(self, names: Sequence[str]) -> list[str]:
        """Those that are not scores."""
        return [name for name in names if name in self.columns.schema.names]

    def _with_scores(self, found: pa.Table, names: Sequence[str], rows: IntArray | None) -> pa.Table:
        if len(found.column_names) == len(names):
            return found
        # Not by appending to `found`: a table without columns may have forgotten how many rows it has.
        own = found.column_names
        return pa.table({name: found[name] if name in own else self.scores.column(name, rows) for name in names})

    def prepare(self, index: IntArray, count: int, texts: bool, vectors: bool) -> None:
        """Have runs of `count` rows fetched that are to be read soon; `index` are the first of each."""
        if self.selection is not None:
            # Neighbours here need not be neighbours in the files.
            runs = (index[:, None] + np.arange(count)).ravel()
            index, count = self.selection[np.minimum(runs, len(self) - 1)], 1
        if texts:
            self.columns.prepare(index, count)
        if vectors:
            self.stored.prepare(index, count)

    def fingerprint(self) -> str:
        """SHA-256 of the ids and texts of all rows, in order."""
        whole = self.source.fingerprint()
        if self.selection is None:
            return whole
        return hashlib.sha256(whole.encode() + self.selection.tobytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Files are named, not copied: a worker process opens them for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in {"columns", "scores", "stored"}}


def open_rows(
    config: Config, split: Split, *, with_embeddings: bool = True, scores: Sequence[str] | None = None
) -> Rows:
    """Open the rows of a split, without torch.

    Args:
        config: its folders, corpus and variant.
        split: which one.
        with_embeddings: open the embeddings beside the paragraphs, and check that they belong together.
        scores: names of the scores among the columns; None for all that belong to these paragraphs.

    Raises:
        StoreError: files are missing, damaged, or do not belong together.
    """
    name, variant = config.corpus.name, config.embedding.variant
    return Rows(open_source(config.data_dir, split, name, variant, with_embeddings, config.cache_dir, scores))
