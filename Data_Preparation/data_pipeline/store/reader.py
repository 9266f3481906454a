"""Reader of the rows of a split or a selection: texts, metadata and vectors by index, without torch."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from data_pipeline.config import Config
from data_pipeline.errors import StoreError
from data_pipeline.store.access.text_columns import Columns
from data_pipeline.store.access.vectors import Vectors
from data_pipeline.store.corpus_files import SplitFiles, open_source
from data_pipeline.store.embeddings import EmbeddingShard, unit_length
from data_pipeline.store.scores import ScoreFolder
from data_pipeline.store.sparse import SparseRows
from data_pipeline.store.sparse_split import FOLDER as SPARSE_FOLDER
from data_pipeline.store.sparse_split import SparseVectors, open_sparse_split
from data_pipeline.types import IntArray, Split
from data_pipeline.utils.missing import without_nan


class Rows:
    """Reader of rows by index. Each process opens the files when it first needs them.

    Args:
        source: files of the split.
        dim: number of leading dimensions of a vector to read; None for all.
        selection: row numbers in the files, shape (N,); None for all that were not deleted.

    Raises:
        ValueError: `dim` exceeds the width of the stored vectors.
    """

    def __init__(self, source: SplitFiles, dim: int | None = None, selection: IntArray | None = None) -> None:
        self.source = source
        self.selection = source.store.live_rows(source.split) if selection is None else selection
        self._total = sum(shard.rows for shard in source.paragraphs)
        self._sparse: dict[str | None, SparseVectors] = {}
        self._dim = None
        if dim is not None and source.with_embeddings:
            stored = self.stored.first.dim
            if not 1 <= dim <= stored:
                raise ValueError(f"dim must be from 1 to {stored}, the width of the stored vectors; got {dim}")
            self._dim = dim if dim < stored else None

    def __len__(self) -> int:
        return self._total if self.selection is None else len(self.selection)

    def select(self, index: IntArray) -> "Rows":
        """Return a reader of some of these rows, which shares the open files."""
        rows = object.__new__(Rows)
        rows.__dict__ |= self.__dict__
        rows.selection = self.of_files(index)
        return rows

    def of_files(self, index: IntArray) -> IntArray:
        """Convert indices to row numbers in the files."""
        return index if self.selection is None else self.selection[index]

    @cached_property
    def columns(self) -> Columns:
        """Texts and metadata by row number in the files."""
        return Columns(self.source.paragraphs, self.source.text_copy)

    @cached_property
    def stored(self) -> Vectors:
        """Stored vectors by row number in the files."""
        if not self.source.with_embeddings:
            raise StoreError(
                "this dataset was opened without embeddings: open it without load_embeddings=False, and with "
                "embedding among its columns"
            )
        return Vectors([shard.rows for shard in self.source.paragraphs], self.source.open_embeddings)

    @cached_property
    def _score_folders(self) -> dict[str, ScoreFolder]:
        """Folders of the scores of the split, by the name of each score column."""
        return {column: folder for folder in self.source.scores for column in folder.columns}

    @cached_property
    def names(self) -> list[str]:
        """Names of all columns: texts, metadata and scores."""
        own = self.columns.schema.names
        return [*own, *(name for name in self._score_folders if name not in own)]

    @cached_property
    def metadata_names(self) -> list[str]:
        """Names of all columns except the text."""
        return [name for name in self.names if name != "text"]

    @property
    def where(self) -> str:
        """Description of the split and its folder, for messages."""
        return f"{self.source.split} of {self.source.store.folder}"

    @property
    def first_shard(self) -> EmbeddingShard:
        """First embedding shard, whose metadata hold for all shards."""
        return self.stored.first

    @property
    def dim(self) -> int:
        """Number of dimensions of a vector as it is read."""
        return self._dim or self.stored.first.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the vectors: that of stored floats, or float32 for quantized vectors."""
        coding = self.stored.first.coding
        return coding.dtype if coding.is_float else np.dtype(np.float32)

    @cached_property
    def _as_stored(self) -> bool:
        return self._dim is None and self.stored.first.coding.is_float

    def vectors(self, index: IntArray) -> NDArray[Any]:
        """Read vectors as a new array, shape (N, dim): floats as they are stored, others as float32.

        Normalized vectors that are cut to fewer dimensions are normalized again, in float32.
        """
        rows, first = self.of_files(index), self.stored.first
        if self._as_stored:
            return self.stored.gather(rows)
        if self._dim is None:
            return first.decode(self.stored.gather(rows))
        if first.coding.is_float:
            vectors = self.stored.gather(rows, self._dim)
        else:
            vectors = first.coding.decode(self.stored.gather(rows))[:, : self._dim]
        return unit_length(vectors.astype(np.float32)) if first.normalized else vectors

    def vector(self, index: int) -> NDArray[Any]:
        """Read one vector, shape (dim,); see `vectors`."""
        if self._as_stored:
            return self.stored.row(index if self.selection is None else int(self.selection[index]))
        indices = np.array([index])
        self.stored.prepare(self.of_files(indices))
        return self.vectors(indices)[0]

    def sparse_vectors(self, index: IntArray, variant: str | None = None) -> SparseRows:
        """Read sparse vectors (`elm sparse`), in the order of the index.

        Args:
            index: rows, shape (N,).
            variant: variant of the sparse vectors; None for the main ones.

        Raises:
            StoreError: the split has none, or they do not belong to its paragraphs.
        """
        if variant not in self._sparse:
            folder = self.source.store.folder.parent / SPARSE_FOLDER
            folder = folder / variant if variant else folder
            self._sparse[variant] = open_sparse_split(folder, self.source.split, self.source.paragraphs)
        return self._sparse[variant].take(self.of_files(index))

    def iter_vectors(self, block_rows: int = 16_384) -> Iterator[NDArray[Any]]:
        """Iterate over all vectors in order, in blocks of `block_rows` rows; see `vectors`."""
        for start in range(0, len(self), block_rows):
            index = np.arange(start, min(start + block_rows, len(self)))
            self.prepare(index, 1, texts=False, vectors=True)
            yield self.vectors(index)
            if self.selection is None:
                self.stored.release(start, start + len(index))

    def all_vectors(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """All vectors, shape (rows, dim), in memory."""
        vectors = np.empty((len(self), self.dim), dtype)
        start = 0
        for block in self.iter_vectors():
            vectors[start : start + len(block)] = block
            start += len(block)
        return vectors

    def mapped_vectors(self) -> NDArray[Any]:
        """Return all vectors as a read-only memory map of the files, shape (rows, dim).

        Raises:
            StoreError: the vectors are quantized, rows are selected, or the shards cannot be mapped as one array.
        """
        if self.selection is not None:
            what = "a selection of rows"
            if len(self.selection) + len(self.source.store.deleted_rows(self.source.split)) == self._total:
                what = "a split with deleted rows (before elm compact)"
            raise StoreError(f"{what} cannot be mapped as one array; use to_numpy(), which copies")
        coding = self.first_shard.coding
        if not coding.is_float:
            raise StoreError(f"the vectors are stored as {coding.precision}; use to_numpy(), which decodes them")
        return self.stored.whole()

    def one_array(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return all vectors as one array, shape (rows, dim): the files themselves if they can be mapped, else a copy.

        Args:
            dtype: dtype of a copy.
        """
        is_whole = self.selection is None and self.dim == self.first_shard.dim and self.first_shard.coding.is_float
        return self.mapped_vectors() if is_whole and self.stored.is_one_array else self.all_vectors(dtype)

    def table(self, names: Sequence[str]) -> pa.Table:
        """Read columns of all rows, with null for NaN; without a selection, only columns of floats are copied."""
        if self.selection is not None:
            return self.records(self.selection, names)
        own = self._own(names)
        schema = pa.schema([self.columns.schema.field(name) for name in own])
        table = pa.Table.from_batches(self.columns.batches(own), schema)
        return without_nan(self._with_scores(table, names, None))

    def records(self, rows: IntArray, names: Sequence[str]) -> pa.Table:
        """Read columns by row number in the files, shape (N,), with null for NaN, which compares as largest."""
        own = self._own(names)
        return without_nan(self._with_scores(self.columns.records(rows, own), names, rows))

    def _own(self, names: Sequence[str]) -> list[str]:
        """Return the names that are not scores."""
        return [name for name in names if name in self.columns.schema.names]

    def _with_scores(self, table: pa.Table, names: Sequence[str], rows: IntArray | None) -> pa.Table:
        own = table.column_names
        if len(own) == len(names):
            return table
        scores = {name: self._score_folders[name].table[name] for name in names if name not in own}
        if rows is not None:
            scores = {name: column.take(pa.array(rows)) for name, column in scores.items()}
        # Appending to the table would fail without columns of its own, since it may not know its number of rows.
        return pa.table({name: scores[name] if name in scores else table[name] for name in names})

    def prepare(self, index: IntArray, count: int, texts: bool, vectors: bool) -> None:
        """Read ahead runs of `count` rows, given the indices of their first rows."""
        if self.selection is not None:
            # Consecutive rows of a selection need not be consecutive in the files.
            runs = (index[:, None] + np.arange(count)).ravel()
            index, count = self.selection[np.minimum(runs, len(self) - 1)], 1
        if texts:
            self.columns.prepare(index, count)
        if vectors:
            self.stored.prepare(index, count)

    def fingerprint(self) -> str:
        """Compute the fingerprint of the ids and texts of all rows, in order."""
        whole = self.source.fingerprint()
        if self.selection is None:
            return whole
        return hashlib.sha256(whole.encode() + self.selection.tobytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files, which a worker process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in {"columns", "stored"}}


def open_rows(
    config: Config, split: Split, *, with_embeddings: bool = True, scores: Sequence[str] | None = None
) -> Rows:
    """Open the rows of a split, without torch.

    Args:
        config: configuration with the folders, the corpus and the variant.
        split: split to open.
        with_embeddings: whether to open the embeddings, and check that they belong to the paragraphs.
        scores: names of the scores to include; None for all that belong to these paragraphs.

    Raises:
        StoreError: files are missing or damaged, or do not belong together.
    """
    name, variant = config.corpus.name, config.embedding.variant
    return Rows(open_source(config.data_dir, split, name, variant, with_embeddings, config.cache_dir, scores))
