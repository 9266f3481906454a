"""Map-style dataset of the text, the vector and the metadata of every paragraph of a split."""

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config import Config
from data_pipeline.config.load import load_config
from data_pipeline.dataset.batched import BatchedDataset
from data_pipeline.dataset.dtypes import convert_dtype, numpy_dtype, to_array
from data_pipeline.dataset.interpolation import Method, interpolate, shares_of
from data_pipeline.dataset.pairs import PairDataset, read_pairs
from data_pipeline.dataset.samples import Batch, Metadata, MetadataBatch, Sample
from data_pipeline.errors import NotFoundError
from data_pipeline.store.corpus_files import open_source
from data_pipeline.store.reader import Rows
from data_pipeline.types import SPLITS, IntArray, Split
from data_pipeline.utils.displays import facts_html, facts_text
from data_pipeline.working_copy.opened import refresh

if TYPE_CHECKING:
    import datasets
    import polars as pl

    from data_pipeline.dataset.search import Query, SearchHits
    from data_pipeline.dataset.spot_check import Level
    from data_pipeline.embeddings import Embedder

COLUMNS = ("text", "metadata", "embedding", "index")
"""Columns that a sample can have."""
_DEFAULT_COLUMNS = ("text", "metadata", "embedding")
_CACHED = ("metadata", "fingerprint")  # properties of all rows, which do not hold for a selection


class ELMDataset(BatchedDataset):
    """The paragraphs of a split with their embeddings, aligned row by row.

    Vectors and texts are read through memory maps, so opening takes milliseconds, memory does not
    grow with the data, and several processes share one copy. The files are checked when they are
    opened: an embedding file must carry the hash of exactly the ids and texts beside it. (Texts are
    copied once, at the first use, from parquet to a form that can be mapped.)

    Args:
        data_dir: the `data` folder, or its URL (`s3://...`, `hf://...`; files are fetched when
            they are needed, and cached); None for that of `config`, or else of the environment
            (`ELM_DATA_DIR`) and the defaults.
        split: `train`, `val` or `test`.
        load_embeddings: False for texts and metadata only.
        corpus: name of the `<corpus>_processed` folder; None for the only one, or the one that the
            embeddings were made from.
        variant: name of the folder below `data/embeddings`; None for that folder itself.
        columns: columns of a sample, of `text`, `metadata`, `embedding` and `index` (the number of
            the row); None for the first three. Nothing else is read.
        dtype: dtype of the vectors in samples and batches; None for the stored one (float32 for
            compressed vectors).
        dim: number of leading dimensions to use, as Matryoshka models allow (Kusupati et al.,
            2022); vectors that had length 1 are scaled to length 1 again.
        scores: names of heads whose scores are to be in `metadata` (see `elm annotate`); None for all
            scores that exist and belong to these paragraphs; none are read from a URL.
        subset: name of a selection (see `elm select`) to read only its rows, in its order, the most
            wanted first; in local folders only.
        where: condition on the rows to read, such as `"edu >= 3 and token_count > 100"`; see `filter`.
        cache_dir: folder for copies; None for that of the config, see `Config.cache_dir`.
        version: number of an earlier version (see `elm versions`); None for the present one.
        config: gives `data_dir`, `corpus.name`, `embedding.variant` and `cache_dir`, where those
            are not given. A working copy of a URL (see `Config.data_url`) is brought up to date first.

    Raises:
        StoreError: something is missing; the message says what to run.
        ShardMismatchError: embeddings and paragraphs do not belong together.
        StaleStageError: an embedding file was made with other settings than its manifest says.
        CorruptShardError: a file is truncated or altered.
        ValueError: `split`, `columns` or `dim` is not valid.
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
        version: int | None = None,
        config: Config | None = None,
    ) -> None:
        if split not in SPLITS:
            raise NotFoundError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
        settings = config or load_config()
        if config is not None:
            corpus, variant = corpus or config.corpus.name, variant or config.embedding.variant
        self.split: Split = split
        self.dtype = dtype
        self.columns = _checked_columns(columns, load_embeddings)
        if data_dir is None:
            refresh(settings)
        source = open_source(
            data_dir if data_dir is not None else settings.data_dir,
            split, corpus, variant, "embedding" in self.columns,
            Path(cache_dir) if cache_dir is not None else settings.cache_dir, scores, version,
        )  # fmt: skip
        self.processed_dir = source.store.folder
        self.rows = Rows(source, dim)
        self.embedder: Embedder | None = None
        """The model that made the vectors; loaded when it is first needed."""
        if subset is not None:
            from data_pipeline.store.lookup import rows_of_selection

            self.rows = self.select(rows_of_selection(self.rows, subset)).rows
        if where is not None:
            self.rows = self.filter(where).rows

    # Displays

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        from data_pipeline.dataset.preview import describe

        return describe(self.rows, self.split, self.columns)

    def _repr_html_(self) -> str:
        from data_pipeline.dataset.preview import first_rows_html

        return facts_html("ELMDataset", self.display_facts()) + first_rows_html(self.rows)

    def __repr__(self) -> str:
        return facts_text("ELMDataset", self.display_facts())

    # Indexing

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
            is read from disk at its first use) and `embedding` of shape (dim,).

        Raises:
            IndexError: the index is out of range.
            TypeError: the index is not an integer.
        """
        if isinstance(index, slice):
            return list(self.__getitems__(range(*index.indices(len(self)))))
        try:
            index = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an index must be an integer or a slice, got {type(index).__name__}; get_batch takes several"
            ) from None
        if not 0 <= index < len(self):
            index = int(self.checked([index])[0])
        rows, sample = self.rows, Sample()
        row_of_files = index if rows.selection is None else int(rows.selection[index])
        for name in self.columns:
            if name == "text":
                sample[name] = rows.columns.text(row_of_files)
            elif name == "metadata":
                sample[name] = Metadata(rows, rows.metadata_names, row_of_files)
            elif name == "embedding":
                sample[name] = torch.from_numpy(rows.vector(index)).to(self._vector_dtype)
            else:
                sample[name] = index
        return sample

    def gather(self, index: IntArray) -> Batch:
        """See `BatchedDataset`."""
        rows, rows_of_files = self.rows, self.rows.of_files(index)
        columns: dict[str, Any] = {}
        for name in self.columns:
            if name == "text":
                columns[name] = rows.columns.texts(rows_of_files)
            elif name == "metadata":
                columns[name] = MetadataBatch(rows, rows.metadata_names, rows_of_files, index)
            elif name == "embedding":
                columns[name] = self._vectors(index)
            else:
                columns[name] = torch.from_numpy(index.copy())
        return Batch(columns, len(index))

    def prepare(self, index: IntArray, count: int = 1) -> None:
        """See `BatchedDataset`."""
        self.rows.prepare(index, count, "text" in self.columns, "embedding" in self.columns)

    # Blocks of rows

    def iter_batches(self, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
        """All rows in order as batches without tensors: vectors as arrays of shape (N, dim), texts as lists."""
        for start in range(0, len(self), batch_size):
            batch = self.get_batch(range(start, min(start + batch_size, len(self))))
            yield {name: to_array(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    def iter_embeddings(self, rows: int = 16_384) -> Iterator[NDArray[Any]]:
        """All vectors in order in blocks of `rows`: floats as they are stored, others decoded to float32."""
        return self.rows.iter_vectors(rows)

    # Views

    def select(self, rows: "Sequence[int] | Sequence[bool] | NDArray[Any]") -> "ELMDataset":
        """A dataset of some rows that reads from the same files.

        Args:
            rows: indices of the rows, in any order and possibly repeated; or a bool for every row.

        Raises:
            IndexError: an index is out of range.
            ValueError: there is not one bool for every row.
        """
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise ValueError(
                    f"the mask must have one bool for each of {len(self)} rows, it has shape {index.shape}"
                )
            index = np.flatnonzero(index)
        view = object.__new__(ELMDataset)
        view.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in _CACHED}
        view.rows = self.rows.select(self.checked(index))
        return view

    def filter(self, condition: "pl.Expr | str") -> "ELMDataset":
        """A dataset of the rows for which a condition over text, metadata and scores is true.

        `dataset.filter(pl.col("token_count") > 100)`, or in SQL, `dataset.filter("token_count > 100")`.
        Only the columns that the condition names are read.

        Raises:
            ValueError: the condition names an unknown column, or is not true or false for every row.
        """
        from data_pipeline.store.lookup import match_rows

        return self.select(match_rows(self.rows, condition))

    def subset(self, ids: "str | Path | pl.DataFrame | Sequence[str]") -> "ELMDataset":
        """A dataset of the rows with the given text ids, in their order.

        Args:
            ids: the ids; or a parquet, CSV, TSV or JSON Lines file, or a table, with a column `text_id`.

        Raises:
            SourceError: the file cannot be read, or has no such column.
            StoreError: an id is repeated, or not in this dataset.
        """
        from data_pipeline.store.lookup import read_listed_rows

        return self.select(read_listed_rows(self.rows, ids))

    def pairs(self, triples: "str | Path | pl.DataFrame", negatives: int | None = None) -> PairDataset:
        """A dataset of anchors with their positives and negatives, for contrastive training.

        Args:
            triples: a parquet, CSV, TSV or JSON Lines file, or a table, with the columns `query` (a text) or
                `anchor_id`; `positive_id`, or `positive_doc_ids` (lists; each id makes a pair); and, for
                negatives, `negative_id` or `hard_negative_doc_ids` (lists). Ids are text ids of this dataset.
            negatives: number of negatives of each pair, taken from the start of its list; None for
                one where the table has negatives.

        Raises:
            SourceError: the file cannot be read, a column is missing, or a row has fewer negatives.
            StoreError: an id is not in this dataset.
        """
        return PairDataset(self, *read_pairs(self.rows, triples, negatives))

    # Bulk access

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.rows.dim

    @property
    def embeddings(self) -> NDArray[Any]:
        """All vectors as they are stored, shape (rows, stored width): the files themselves, read-only, not copied.

        Raises:
            StoreError: the vectors are compressed, the dataset is a selection of rows, or its shards
                cannot be mapped as one array; `to_numpy()` copies.
        """
        return self.rows.mapped_vectors()

    def to_numpy(self) -> NDArray[Any]:
        """All vectors in the dtype of samples, shape (rows, dim), in memory."""
        return self.rows.all_vectors(numpy_dtype(self._vector_dtype))

    def to_hf(self) -> "datasets.Dataset":
        """A Hugging Face dataset with the columns text, metadata and `embedding`.

        Texts, and the float vectors of a dataset with all its rows, are not copied.
        """
        from data_pipeline.dataset.export import to_hf

        return to_hf(self.rows, self._vector_dtype if "embedding" in self.columns else None)

    @cached_property
    def metadata(self) -> "pl.DataFrame":
        """All columns but the text, one row for each paragraph; in memory."""
        from data_pipeline.store.lookup import read_frame

        return read_frame(self.rows, self.rows.metadata_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the ids and texts of all rows, in order."""
        return self.rows.fingerprint()

    @property
    def version(self) -> int:
        """Number of the version of the dataset."""
        return self.rows.source.store.version

    def get_statistics(self) -> dict[str, Any]:
        """Summary statistics of rows, documents, tokens, characters and, if loaded, vectors, which are read once."""
        from data_pipeline.dataset.statistics import compute_statistics

        return compute_statistics(self.rows, self.metadata, "embedding" in self.columns)

    # Vectors

    def interpolate_embeddings(
        self,
        i: int | Sequence[int],
        j: int | Sequence[int],
        alpha: "float | Sequence[float] | torch.Tensor",
        method: Method = "linear",
        normalize: bool = True,
    ) -> torch.Tensor:
        """Vectors between that of paragraph i (alpha 0) and that of paragraph j (alpha 1).

        Args:
            i: index of the start, or several indices.
            j: index of the end, or several indices.
            alpha: position between start and end, 0 to 1; one number for all, or one for each.
            method: `linear`, or `slerp` along the great circle at constant angular speed, with the
                length changing linearly.
            normalize: scale the results to length 1.

        Returns:
            Shape (dim,), or (N, dim) if one of the arguments has several values; single values are
            combined with all values of the others.

        Raises:
            IndexError: an index is out of range.
            ValueError: alpha or method is out of range, the path is undefined (slerp of opposite
                vectors, a result of length 0), or the arguments have different lengths.
        """
        shares = shares_of(alpha).cpu()
        starts, ends = self.checked(np.atleast_1d(i)), self.checked(np.atleast_1d(j))
        is_single = np.ndim(i) == np.ndim(j) == shares.ndim == 0
        try:
            starts, ends, _ = np.broadcast_arrays(starts, ends, np.atleast_1d(shares.numpy()))
            index = np.concatenate([starts, ends])
            self.rows.prepare(index, 1, texts=False, vectors=True)
            first, last = self._vectors(index).chunk(2)
            vectors = interpolate(first, last, shares, method, normalize)
        except ValueError as error:
            raise ValueError(f"rows {i} and {j}: {error}") from error
        return vectors[0] if is_single else vectors

    def search(self, query: "Query", k: int = 10) -> "SearchHits":
        """Find the k paragraphs whose vectors are nearest to a query by cosine.

        A text is embedded by the model that made the vectors, with its query prompt; the
        model is loaded at the first use. All vectors are read once.

        Args:
            query: a text, or a vector of shape (dim,).
            k: number of results; at most all rows.

        Returns:
            Samples with `index` and `score` (-1 to 1), best first.

        Raises:
            ValueError: the vector has another shape or no direction, or k is below 1.
            StoreError: the file of vectors does not say what model made them.
        """
        from data_pipeline.dataset.search import SearchHits, search

        best, scores = search(self.rows, query, k, self._load_embedder)
        return SearchHits(
            {"index": int(index), "score": float(score), **sample}
            for index, score, sample in zip(best, scores, self.__getitems__(best), strict=True)
        )

    # Verification

    def verify(self, level: "Level" = "hash", rows: int = 64, seed: int = 0) -> list[str]:
        """Check the files of the split.

        Args:
            level: `size` compares sizes, headers and the hashes in them with the manifests (also done
                when a file is opened); `hash` also checks every byte; `reembed` also embeds random rows
                again, which alone detects rows that were permuted before they were hashed, or vectors
                of another pooling. A fault in a share f of all rows is missed with probability (1 - f)^rows.
            rows: number of rows to embed again.
            seed: seed of the choice of rows.

        Returns:
            The checks that passed, one line each.

        Raises:
            StoreError: a check failed; one line for each fault.
            ValueError: there is no such level.
        """
        from data_pipeline.dataset.spot_check import parse_level

        level = parse_level(level)
        passed = self.rows.source.check_all()
        if level != "size":
            passed += self.rows.source.check_bytes()
        return passed + self.spot_check(rows, seed) if level == "reembed" else passed

    def spot_check(self, rows: int = 64, seed: int = 0) -> list[str]:
        """Embed random rows of the split again and compare; see `verify`. The model is loaded at the first use.

        Returns:
            The result, one line.

        Raises:
            ShardMismatchError: rows do not have the vector of their text.
            ValueError: rows is below 1.
        """
        from data_pipeline.dataset.spot_check import spot_check

        return spot_check(Rows(self.rows.source), rows, seed, self._load_embedder)

    canary = spot_check  # its former name

    # Internals

    def __getstate__(self) -> dict[str, Any]:
        """Names of the files instead of their content: a worker process opens them for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "metadata"} | {"embedder": None}

    def _load_embedder(self) -> "Embedder":
        from data_pipeline.embeddings.reload import load_maker

        if self.embedder is None:
            self.embedder = load_maker(self.rows.first_shard)
        return self.embedder

    def _vectors(self, index: IntArray) -> torch.Tensor:
        return convert_dtype(torch.from_numpy(self.rows.vectors(index)), self._vector_dtype)

    @cached_property
    def _vector_dtype(self) -> torch.dtype:
        return self.dtype or torch.from_numpy(np.empty(0, self.rows.dtype)).dtype


def _checked_columns(columns: Sequence[str] | None, load_embeddings: bool) -> tuple[str, ...]:
    if columns is None:
        return _DEFAULT_COLUMNS if load_embeddings else _DEFAULT_COLUMNS[:2]
    unknown = [name for name in columns if name not in COLUMNS]
    if isinstance(columns, str) or unknown or not columns:
        raise ValueError(f"columns must be some of {', '.join(COLUMNS)}; got {columns!r}")
    if "embedding" in columns and not load_embeddings:
        raise ValueError("columns has embedding, and load_embeddings is False; leave one of them out")
    return tuple(dict.fromkeys(columns))
