"""The finished data set, for training loops: text, vector and metadata of every paragraph."""

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.config.load import load_config
from data_pipeline.dataset.batched import BatchedDataset
from data_pipeline.dataset.interpolation import Method, interpolate, shares_of
from data_pipeline.dataset.samples import Batch, Metadata, MetadataBatch, Sample
from data_pipeline.errors import NotFound, StoreError
from data_pipeline.store.corpus_files import open_source
from data_pipeline.store.reader import Rows
from data_pipeline.types import SPLITS, IntArray, Split

if TYPE_CHECKING:
    import datasets
    import polars as pl

    from data_pipeline.dataset.pairs import PairDataset
    from data_pipeline.dataset.search import Query
    from data_pipeline.embeddings import Embedder

Level = Literal["size", "hash", "canary"]
LEVELS: tuple[Level, ...] = ("size", "hash", "canary")
COLUMNS = ("text", "metadata", "embedding", "index")
_DEFAULT_COLUMNS = ("text", "metadata", "embedding")
_UNDIVIDED = 32_768  # numbers: torch's own limit for work that it leaves to one thread
_OF_ALL_ROWS = ("metadata", "fingerprint")  # what was computed once


class ELMDataset(BatchedDataset):
    """A split's paragraphs with their embeddings, row by row.

    Vectors and texts are read through memory maps, so opening takes milliseconds, memory does not
    grow with the data, and several processes share one copy. The files are checked when they are
    opened: an embedding file must carry the hash of the very ids and texts beside it. (Texts are
    copied once, at the first use, from parquet to a form that can be mapped.)

    Args:
        data_dir: the `data` folder, or its URL (`s3://...`, `hf://...`; files are fetched when
            they are needed, and kept); None for that of `config`, or else of the environment
            (`ELM_DATA_DIR`) and the defaults.
        split: `train`, `val` or `test`.
        load_embeddings: False for texts and metadata only.
        corpus: which `<corpus>_processed` folder; None for the only one, or the one that the
            embeddings were made from.
        variant: which folder under `data/embeddings`; None for that folder itself.
        columns: what samples have, of `text`, `metadata`, `embedding` and `index` (the row's
            number); None for the first three. Nothing else is read.
        dtype: of the vectors handed out; None for the stored one (float32 for compressed ones).
        dim: only so many of the first dimensions of a vector, as Matryoshka models allow
            (Kusupati et al., 2022); vectors that had length 1 are given it again.
        scores: names of heads whose scores are to be in `metadata` (see `elm annotate`); None for all that
            are there and belong to these paragraphs; of a URL none are read.
        subset: only the rows of a selection, in its order, the most wanted first: its name (see `elm select`), of
            this machine's folders only.
        where: only the rows for which this is true, `"edu >= 3 and token_count > 100"`; see `filter`.
        cache_dir: where copies go; None for that of the config, see `Config.cache_dir`.
        config: for its `data_dir`, `corpus.name`, `embedding.variant` and `cache_dir`, where those
            are not given.

    Raises:
        StoreError: something is missing; the message says what to run.
        ShardMismatch: embeddings and paragraphs do not belong together.
        StaleStage: an embedding file was made with other settings than its manifest says.
        CorruptShard: a file is truncated or altered.
        ValueError: `split`, `columns` or `dim` cannot be.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        split: Split = "train",
        load_embeddings: bool = True,
        *,
        corpus: str | None = None,
        variant: str | None = None,
        columns: Sequence[str] | None = None,
        dtype: torch.dtype | None = torch.float32,
        dim: int | None = None,
        scores: Sequence[str] | None = None,
        subset: str | None = None,
        where: str | None = None,
        cache_dir: str | Path | None = None,
        config: Config | None = None,
    ) -> None:
        if split not in SPLITS:
            raise NotFound(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        settings = config or load_config()
        if config is not None:
            corpus, variant = corpus or config.corpus.name, variant or config.embedding.variant
        self.split: Split = split
        self.dtype = dtype
        self.columns = _checked_columns(columns, load_embeddings)
        source = open_source(
            data_dir if data_dir is not None else settings.data_dir,
            split, corpus, variant, "embedding" in self.columns,
            Path(cache_dir) if cache_dir is not None else settings.cache_dir, scores,
        )  # fmt: skip
        self.processed_dir = source.store.folder
        self.rows = Rows(source, dim)
        self.embedder: Embedder | None = None
        """The model that made the vectors, once it was needed."""
        if subset is not None:
            from data_pipeline.dataset.subsets import selected_rows

            self.rows = self.select(selected_rows(self, subset)).rows
        if where is not None:
            self.rows = self.filter(where).rows

    # Samples

    def __len__(self) -> int:
        """Number of paragraphs."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample, or the samples of a slice.

        Returns:
            `text`, `metadata` (text_id, token_count, char_count, document_id, ...; a mapping that
            is read when it is looked at) and `embedding` of shape (dim,).

        Raises:
            IndexError: the index is out of range.
            TypeError: it is not a whole number.
        """
        if isinstance(index, slice):
            return list(self.__getitems__(range(*index.indices(len(self)))))
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an index is a whole number or a slice, got {type(index).__name__}; get_batch takes several"
            ) from None
        if not 0 <= index < len(self):
            index = int(self.checked([index])[0])
        rows, sample = self.rows, Sample()
        of_files = index if rows.selection is None else int(rows.selection[index])
        for name in self.columns:
            if name == "text":
                sample[name] = rows.columns.text(of_files)
            elif name == "metadata":
                sample[name] = Metadata(rows, rows.metadata_names, of_files)
            elif name == "embedding":
                sample[name] = torch.from_numpy(rows.vector(index)).to(self._vector_dtype)
            else:
                sample[name] = index
        return sample

    def gather(self, index: IntArray) -> Batch:
        """See `BatchedDataset`."""
        rows, of_files = self.rows, self.rows.of_files(index)
        found: dict[str, Any] = {}
        for name in self.columns:
            if name == "text":
                found[name] = rows.columns.texts(of_files)
            elif name == "metadata":
                found[name] = MetadataBatch(rows, rows.metadata_names, of_files, index)
            elif name == "embedding":
                found[name] = self._tensor(index)
            else:
                found[name] = torch.from_numpy(index.copy())
        return Batch(found, len(index))

    def prepare(self, index: IntArray, count: int = 1) -> None:
        """See `BatchedDataset`."""
        self.rows.prepare(index, count, "text" in self.columns, "embedding" in self.columns)

    # Blocks

    def iter_batches(self, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """All rows in order, without torch: vectors as arrays of shape (N, dim), texts as lists."""
        for start in range(0, len(self), batch_size):
            batch = self.get_batch(range(start, min(start + batch_size, len(self))))
            yield {name: _array(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def iter_embeddings(self, rows: int = 16_384) -> Iterator[NDArray[Any]]:
        """All vectors in order, `rows` at a time: floats as they are stored, others decoded to float32."""
        for start in range(0, len(self), rows):
            index = np.arange(start, min(start + rows, len(self)))
            self.rows.prepare(index, 1, texts=False, vectors=True)
            yield self.rows.vectors(index)

    # Views

    def select(self, rows: "Sequence[int] | Sequence[bool] | NDArray[Any]") -> "ELMDataset":
        """Some rows, as a data set that reads from the same files.

        Args:
            rows: their indices, in any order, also several times; or a bool for every row.

        Raises:
            IndexError: an index is out of range.
            ValueError: there is not one bool for every row.
        """
        asked = np.asarray(rows)
        if asked.dtype == np.bool_:
            if asked.shape != (len(self),):
                raise ValueError(
                    f"the mask must have one bool for each of {len(self)} rows, it has shape {asked.shape}"
                )
            asked = np.flatnonzero(asked)
        view = object.__new__(ELMDataset)
        view.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in _OF_ALL_ROWS}
        view.rows = self.rows.select(self.checked(asked))
        return view

    def filter(self, condition: "pl.Expr | str") -> "ELMDataset":
        """The rows for which a condition over text, metadata and scores is true.

        `dataset.filter(pl.col("token_count") > 100)`, or as SQL has it, `dataset.filter("token_count > 100")`.
        Only the columns it names are read.

        Raises:
            ValueError: it names a column that is not there, or is not true or false for every row.
        """
        from data_pipeline.dataset.subsets import kept_rows

        return self.select(kept_rows(self, condition))

    def subset(self, ids: "str | Path | pl.DataFrame | Sequence[str]") -> "ELMDataset":
        """The rows of a manifest of text ids, in its order.

        Args:
            ids: the ids; or a parquet, CSV, TSV or JSON Lines file, or a table, with a column `text_id`.

        Raises:
            SourceError: the file cannot be read, or has no such column.
            StoreError: an id is repeated, or not in this data set.
        """
        from data_pipeline.dataset.subsets import listed_rows

        return self.select(listed_rows(self, ids))

    def pairs(self, triples: "str | Path | pl.DataFrame", negatives: int | None = None) -> "PairDataset":
        """Anchors with their positives and negatives, for contrastive training.

        Args:
            triples: a parquet, CSV, TSV or JSON Lines file, or a table, with the columns `query` (a text) or
                `anchor_id`; `positive_id`, or `positive_doc_ids` (lists; each makes a pair); and, where
                there are negatives, `negative_id` or `hard_negative_doc_ids` (lists). Ids are text
                ids of this data set.
            negatives: of each pair, the first so many; None for one where there are any.

        Raises:
            SourceError: the file cannot be read, a column is missing, or a row has fewer negatives.
            StoreError: an id is not in this data set.
        """
        from data_pipeline.dataset.pairs import read_pairs

        return read_pairs(self, triples, negatives)

    # The whole

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.rows.dim

    @property
    def embeddings(self) -> NDArray[Any]:
        """All vectors as they are stored, shape (rows, stored width): the files, read-only, without a copy.

        Raises:
            StoreError: they are compressed, the data set is a selection of rows, or its shards
                cannot lie side by side; `to_numpy()` copies.
        """
        if self.rows.selection is not None:
            raise StoreError("a selection of rows does not lie in one piece; use to_numpy(), which copies")
        coding = self.rows.first_shard.coding
        if not coding.is_float:
            raise StoreError(f"the vectors are stored as {coding.precision}; use to_numpy(), which decodes them")
        return self.rows.stored.whole()

    def to_numpy(self) -> NDArray[Any]:
        """All vectors as they are handed out, shape (rows, dim), in memory."""
        found = np.empty((len(self), self.dim), np.dtype(str(self._vector_dtype).removeprefix("torch.")))
        start = 0
        for block in self.iter_embeddings():
            found[start : start + len(block)] = block
            start += len(block)
        return found

    def to_hf(self) -> "datasets.Dataset":
        """As a Hugging Face data set with the columns text, metadata and `embedding`.

        Float vectors of a whole data set are not copied, nor are texts.
        """
        from data_pipeline.dataset.export import to_hf

        return to_hf(self)

    @cached_property
    def metadata(self) -> "pl.DataFrame":
        """All columns but the text, one row a paragraph; in memory."""
        from data_pipeline.dataset.subsets import frame

        return frame(self.rows, self.rows.metadata_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and texts of all rows, in order."""
        return self.rows.fingerprint()

    def get_statistics(self) -> dict[str, Any]:
        """Numbers of the split: rows, documents, tokens, characters and, if loaded, vectors."""
        from data_pipeline.dataset.statistics import statistics

        return statistics(self)

    # Vectors

    def interpolate_embeddings(
        self,
        i: int | Sequence[int],
        j: int | Sequence[int],
        alpha: "float | Sequence[float] | torch.Tensor",
        method: Method = "linear",
        normalize: bool = True,
    ) -> torch.Tensor:
        """Vectors on the way from paragraph i (alpha 0) to paragraph j (alpha 1).

        Args:
            i: index of the start, or several.
            j: index of the end, or several.
            alpha: how far, 0 to 1; one number for all, or one for each.
            method: `linear`, or `slerp` along the great circle at constant angular speed, the
                length going evenly from one to the other.
            normalize: scale the results to length 1.

        Returns:
            Shape (dim,), or (N, dim) if one of the arguments is several; a single one goes with all
            the others.

        Raises:
            IndexError: an index is out of range.
            ValueError: alpha or method is out of range, the way is undefined (slerp of opposite
                vectors, a result of length 0), or the arguments are of different lengths.
        """
        shares = shares_of(alpha).cpu()
        starts, ends = self.checked(np.atleast_1d(i)), self.checked(np.atleast_1d(j))
        single = np.ndim(i) == np.ndim(j) == shares.ndim == 0
        try:
            starts, ends, _ = np.broadcast_arrays(starts, ends, np.atleast_1d(shares.numpy()))
            both = np.concatenate([starts, ends])
            self.rows.prepare(both, 1, texts=False, vectors=True)
            vectors = self._tensor(both).chunk(2)
            found = interpolate(vectors[0], vectors[1], shares, method, normalize)
        except ValueError as error:
            raise ValueError(f"rows {i} and {j}: {error}") from error
        return found[0] if single else found

    def search(self, query: "Query", k: int = 10) -> list[dict[str, Any]]:
        """The k paragraphs whose vectors are nearest to a query, by cosine.

        A text is embedded by the model that made the vectors, with its query prompt; the
        model is loaded at the first use.

        Args:
            query: a text, or a vector of shape (dim,).
            k: how many; at most all.

        Returns:
            Samples with `index` and `score` (-1 to 1), best first.

        Raises:
            ValueError: the vector has another shape or no direction, or k is below 1.
            StoreError: the vectors' file does not say what model made them.
        """
        from data_pipeline.dataset.search import search

        return search(self, query, k)

    # Truth

    def verify(self, level: Level = "hash", rows: int = 64, seed: int = 0) -> list[str]:
        """Check the split's files.

        Args:
            level: `size`, that the files are those the manifests speak of, by their sizes, headers and
                the hashes in them (also done when a file is opened); `hash`, also every byte; `canary`,
                also some rows embedded again: only this finds rows that were permuted before they were
                hashed, or vectors of another pooling. A fault in a share f of all rows is missed with
                probability (1 - f)^rows.
            rows: that are embedded again, at random.
            seed: of their choice.

        Returns:
            What is in order, one line each.

        Raises:
            StoreError: something is not; one line each.
            ValueError: there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}; got {level!r}")
        good = self.rows.source.check_all()
        if level != "size":
            good += self.rows.source.check_bytes()
        return good + self.canary(rows, seed) if level == "canary" else good

    def canary(self, rows: int = 64, seed: int = 0) -> list[str]:
        """Embed some random rows again and compare; see `verify`. The model is loaded at the first use.

        Returns:
            What is in order, one line.

        Raises:
            ShardMismatch: rows do not have the vector of their text.
            ValueError: rows is below 1.
        """
        from data_pipeline.dataset.canary import check_canaries

        return check_canaries(self, rows, seed)

    # Inside

    def __getstate__(self) -> dict[str, Any]:
        """Files are named, not copied: a worker process opens them for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "metadata"} | {"embedder": None}

    def _tensor(self, index: IntArray) -> torch.Tensor:
        return _converted(torch.from_numpy(self.rows.vectors(index)), self._vector_dtype)

    @cached_property
    def _vector_dtype(self) -> torch.dtype:
        return self.dtype or torch.from_numpy(np.empty(0, self.rows.dtype)).dtype


def _converted(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Vectors of shape (N, dim) in another dtype, computed by this thread alone.

    Torch would divide the work among threads, which belong to the training loop: where several threads
    ask for that, each gets as many of its own, and they wait busily.
    """
    if vectors.dtype == dtype:
        return vectors
    found = torch.empty(vectors.shape, dtype=dtype)
    rows = max(1, _UNDIVIDED // vectors.shape[1])
    for part, source in zip(torch.split(found, rows), torch.split(vectors, rows), strict=True):
        part.copy_(source)
    return found


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:  # which numpy alone does not have
        found: NDArray[Any] = tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
        return found
    return tensor.numpy()


def _checked_columns(columns: Sequence[str] | None, load_embeddings: bool) -> tuple[str, ...]:
    if columns is None:
        return _DEFAULT_COLUMNS if load_embeddings else _DEFAULT_COLUMNS[:2]
    unknown = [name for name in columns if name not in COLUMNS]
    if isinstance(columns, str) or unknown or not columns:
        raise ValueError(f"columns must be some of {', '.join(COLUMNS)}; got {columns!r}")
    if "embedding" in columns and not load_embeddings:
        raise ValueError("columns has embedding, and load_embeddings is False; leave one of them out")
    return tuple(dict.fromkeys(columns))
