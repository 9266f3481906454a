"""The finished data set, for training loops: text, vector and metadata of every paragraph."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from data_pipeline.collate import ELMCollator
from data_pipeline.config import Config, EmbeddingConfig
from data_pipeline.embeddings import Embedder, encode, load_embedder
from data_pipeline.errors import CorruptShard, ShardMismatch, StoreError
from data_pipeline.interpolation import Method, interpolate
from data_pipeline.settings import load_config
from data_pipeline.store import (
    EmbeddingShard,
    Manifest,
    ParagraphShard,
    ParagraphStore,
    open_embedding_shard,
    read_manifest,
    shard_name,
)
from data_pipeline.types import SPLITS, Float32Array, Split

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
_MAKE_EMBEDDINGS = "Make them with: python Data_Preparation/scripts/run_embedding_only.py"


class ELMDataset(Dataset[Sample]):
    """A split's paragraphs with their embeddings, row by row.

    Vectors are read through a memory map, so opening takes milliseconds and several
    processes share one copy; texts are read at the first use. The files are checked when
    they are opened: an embedding file must carry the hash of the very ids beside it.

    Args:
        data_dir: the `data` folder; None for that of `config`, or else of the environment
            (`ELM_DATA_DIR`) and the defaults.
        split: `train`, `val` or `test`.
        load_embeddings: False for texts and metadata only.
        corpus: which `<corpus>_processed` folder; None for the only one, or the one that the
            embeddings were made from.
        variant: which folder under `data/embeddings`; None for that folder itself.
        dtype: of the vectors handed out.
        config: for its `data_dir`, `corpus.name` and `embedding.variant`, where those are not given.

    Raises:
        StoreError: something is missing; the message says what to run.
        ShardMismatch: embeddings and paragraphs do not belong together.
        CorruptShard: a file is truncated or altered.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        split: Split = "train",
        load_embeddings: bool = True,
        *,
        corpus: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
        config: Config | None = None,
    ) -> None:
        if split not in SPLITS:
            raise StoreError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        self.split: Split = split
        self.dtype = dtype
        root = Path(data_dir) if data_dir is not None else (config or load_config()).data_dir
        if config is not None:
            corpus = corpus or config.corpus.name
            variant = variant or config.embedding.variant
        self._folder = root / "embeddings" / variant if variant else root / "embeddings"
        self._manifest = read_manifest(self._folder) if load_embeddings else None
        store = ParagraphStore(_processed_folder(root, corpus, _corpus_of(self._manifest, split)))
        self.processed_dir = store.folder
        self._paragraphs = store.shards(split)
        self._shards = self._open_embeddings(store) if load_embeddings else None
        ends = np.cumsum([0, *(shard.rows for shard in self._paragraphs)])
        self._starts = ends[:-1]
        self._rows = int(ends[-1])
        self._embedder: Embedder | None = None

    def __len__(self) -> int:
        """Number of paragraphs."""
        return self._rows

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """One sample, or the samples of a slice.

        Returns:
            `text`, `metadata` (text_id, token_count, char_count, document_id, ...) and, if
            loaded, `embedding` of shape (dim,).

        Raises:
            IndexError: the index is out of range.
        """
        if isinstance(index, slice):
            return self.__getitems__(list(range(*index.indices(len(self)))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of several indices; the stock DataLoader fetches its batches with it."""
        rows = self._checked(indices)
        records = self._table.take(rows).to_pylist()
        samples: list[Sample] = [{"text": record.pop("text"), "metadata": record} for record in records]
        if self._shards is not None:
            for sample, vector in zip(samples, self._vectors(rows), strict=True):
                sample["embedding"] = vector
        return samples

    def get_batch(self, indices: Sequence[int]) -> Sample:
        """Several samples as one: lists of texts and metadata, and vectors of shape (N, dim).

        Raises:
            IndexError: an index is out of range.
        """
        rows = self._checked(indices)
        records = self._table.take(rows).to_pylist()
        batch: Sample = {"text": [record.pop("text") for record in records], "metadata": records}
        if self._shards is not None:
            batch["embedding"] = self._vectors(rows)
        return batch

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self._loaded[0].dim

    @cached_property
    def metadata(self) -> pl.DataFrame:
        """All columns but the text, one row a paragraph."""
        return pl.DataFrame(pl.from_arrow(self._table.drop_columns(["text"])))

    def interpolate_embeddings(
        self,
        i: int,
        j: int,
        alpha: float,
        method: Method = "linear",
        normalize: bool = True,
    ) -> torch.Tensor:
        """A vector on the way from paragraph i (alpha 0) to paragraph j (alpha 1).

        Args:
            i: index of the start.
            j: index of the end.
            alpha: how far, 0 to 1.
            method: `linear`, or `slerp` along the great circle at constant angular speed, the
                length going evenly from one to the other.
            normalize: scale the result to length 1.

        Returns:
            Shape (dim,).

        Raises:
            IndexError: an index is out of range.
            ValueError: alpha or method is out of range, or the way is undefined
                (slerp of opposite vectors, a result of length 0).
        """
        start, end = self._vectors(self._checked([i, j]))
        try:
            return interpolate(start, end, alpha, method, normalize)
        except ValueError as error:
            raise ValueError(f"rows {i} and {j}: {error}") from error

    def get_dataloader(
        self, batch_size: int = 32, shuffle: bool = False, num_workers: int = 0, seed: int = 0, **kwargs: Any
    ) -> "DataLoader[Sample]":
        """A DataLoader whose batches are those of `ELMCollator`.

        Args:
            batch_size: rows in a batch; the last one may be smaller.
            shuffle: in an order that follows from `seed`, another one every epoch.
            num_workers: processes that read ahead.
            seed: of the order.
            kwargs: further arguments of torch's DataLoader.
        """
        kwargs.setdefault("collate_fn", ELMCollator())
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(
            self, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, generator=generator, **kwargs
        )

    def get_statistics(self) -> dict[str, Any]:
        """Numbers of the split: rows, documents, tokens, characters and, if loaded, vectors."""
        table = self.metadata
        statistics: dict[str, Any] = {"split": self.split, "rows": len(self)}
        if "document_id" in table.columns:
            statistics["documents"] = table["document_id"].n_unique()
        for column in ("token_count", "char_count"):
            values = table[column]
            statistics[column] = {"total": int(values.sum() or 0)}
            if len(self):
                numbers = {"min": values.min(), "mean": values.mean(), "median": values.median(), "max": values.max()}
                statistics[column] |= numbers
        if self._shards is not None:
            total, squares, count = 0.0, 0.0, 0
            for block in self.iter_embeddings():
                norms = np.linalg.norm(block.astype(np.float32), axis=1).astype(np.float64)
                total, squares, count = total + norms.sum(), squares + (norms**2).sum(), count + len(norms)
            mean = total / count if count else 0.0
            statistics["embedding"] = {
                "dim": self.dim,
                "precision": self._shards[0].coding.precision,
                "norm_mean": mean,
                "norm_std": float(np.sqrt(max(0.0, squares / count - mean**2))) if count else 0.0,
            }
        return statistics

    def iter_embeddings(self, rows: int = 16_384) -> Iterator[np.ndarray[tuple[int, int], Any]]:
        """All vectors in order, `rows` at a time: floats as they are stored, others decoded to float32."""
        for shard in self._loaded:
            for start in range(0, shard.rows, rows):
                yield shard.vectors(slice(start, start + rows))

    def search(self, query: "str | Sequence[float] | np.ndarray[Any, Any] | torch.Tensor", k: int = 10) -> list[Sample]:
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
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        vector = self._query_vector(query)
        scores = np.zeros(len(self), dtype=np.float32)
        start = 0
        for block in self.iter_embeddings():
            block = block.astype(np.float32)
            norms = np.linalg.norm(block, axis=1)
            scores[start : start + len(block)] = block @ vector / np.where(norms > 0, norms, 1)
            start += len(block)
        best = np.argsort(-scores, kind="stable")[:k]
        samples = self.__getitems__(best.tolist())
        return [
            {"index": int(index), "score": float(scores[index]), **sample}
            for index, sample in zip(best, samples, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Files are named, not copied: a worker process opens them for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in {"_table", "metadata"}} | {
            "_embedder": None
        }

    @cached_property
    def _table(self) -> pa.Table:
        # Not by polars: its threads do not survive a fork, and a DataLoader's worker would hang.
        tables = []
        try:
            for shard in self._paragraphs:
                with pq.ParquetFile(shard.path) as file:
                    tables.append(file.read())
            return pa.concat_tables(tables).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise CorruptShard(f"the paragraphs in {self.processed_dir} cannot be read: {error}") from error

    @property
    def _loaded(self) -> list[EmbeddingShard]:
        if self._shards is None:
            raise StoreError("this data set was opened with load_embeddings=False")
        return self._shards

    def _checked(self, indices: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        rows = np.array([int(index) for index in indices], dtype=np.int64)
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            raise IndexError(f"index {rows[outside][0]} is out of range: {self.split} has {len(self)} rows")
        return np.where(rows < 0, rows + len(self), rows)

    def _vectors(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
        shards = self._loaded
        coding = shards[0].coding
        gathered = np.empty((len(rows), self.dim), dtype=coding.dtype if coding.is_float else np.float32)
        places = np.searchsorted(self._starts, rows, side="right") - 1
        for place in np.unique(places):
            here = places == place
            gathered[here] = shards[place].vectors(rows[here] - self._starts[place])
        return torch.from_numpy(gathered).to(self.dtype)

    def _open_embeddings(self, store: ParagraphStore) -> list[EmbeddingShard]:
        opened = []
        for index, paragraphs in enumerate(self._paragraphs):
            name = shard_name(f"{self.split}_embeddings", ".safetensors", index, len(self._paragraphs))
            path = self._folder / name
            if not path.exists():
                raise StoreError(f"there are no embeddings for {self.split}: {path} is missing. {_MAKE_EMBEDDINGS}")
            shard = open_embedding_shard(path)
            _check_alignment(shard, paragraphs)
            opened.append(shard)
        if "ids_sha256" not in opened[0].metadata or store.manifest is None:
            logger.warning(
                "%s was written by an older pipeline without row hashes: that its rows belong to %s cannot be proved",
                self._folder, store.folder,
            )  # fmt: skip
        return opened

    def _query_vector(self, query: "str | Sequence[float] | np.ndarray[Any, Any] | torch.Tensor") -> Float32Array:
        if isinstance(query, str):
            vector = encode(self._query_embedder(), [query], query=True)[0]
        else:
            vector = np.asarray(query, dtype=np.float32)
        if vector.shape != (self.dim,):
            raise ValueError(f"the query vector must have shape ({self.dim},), got {vector.shape}")
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            raise ValueError("the query vector has no direction: its length is 0 or not finite")
        return np.asarray(vector / length, dtype=np.float32)

    def _query_embedder(self) -> Embedder:
        if self._embedder is None:
            made_by = self._loaded[0].metadata
            if "pooling" not in made_by:
                raise StoreError(f"{self._folder} does not say how its vectors were made; search with a vector instead")
            self._embedder = load_embedder(_config_of(made_by))
            found = self._embedder.identity.to_metadata()
            for name in ("revision", "tokenizer", "pooling", "dim"):
                if found[name] != made_by[name]:
                    raise ShardMismatch(
                        f"the vectors in {self._folder} were made with {name} {made_by[name]!r}, the model "
                        f"{found['model']} now has {found[name]!r}: scores would mean nothing. {_MAKE_EMBEDDINGS}"
                    )
        return self._embedder


def _check_alignment(shard: EmbeddingShard, paragraphs: ParagraphShard) -> None:
    for name, expected in (("ids_sha256", paragraphs.ids_sha256), ("texts_sha256", paragraphs.texts_sha256)):
        found = shard.metadata.get(name, expected)
        if shard.rows != paragraphs.rows or found != expected:
            raise ShardMismatch(
                f"{shard.path} was not made from {paragraphs.path}: it has {shard.rows} rows and {name} {found[:12]}, "
                f"the paragraphs have {paragraphs.rows} and {expected[:12]}. {_MAKE_EMBEDDINGS} --overwrite"
            )


def _corpus_of(manifest: Manifest | None, split: Split) -> str | None:
    entry = (manifest or {"splits": {}})["splits"].get(split)
    return str(entry["corpus"]) if entry else None


def _processed_folder(root: Path, named: str | None, embedded: str | None) -> Path:
    if named is not None:
        return root / f"{named}_processed"
    there = sorted(path for path in root.glob("*_processed") if path.is_dir())
    if embedded is not None and root / f"{embedded}_processed" in there:
        return root / f"{embedded}_processed"
    if len(there) == 1:
        return there[0]
    names = ", ".join(path.name.removesuffix("_processed") for path in there)
    if there:
        raise StoreError(f"{root} holds several corpora ({names}); say which: ELMDataset(..., corpus=NAME)")
    raise StoreError(f"{root} holds no paragraphs. Make them with: python Data_Preparation/scripts/run_pipeline.py")


def _config_of(metadata: Mapping[str, str]) -> EmbeddingConfig:
    """The settings that made a file's vectors, as far as queries need them."""
    revision = metadata["revision"]
    packaged = "==" in revision
    of_hub = not packaged and not revision.startswith("sha256:")
    return EmbeddingConfig(
        model_name=metadata["model"],
        weights="package" if packaged else "hub",
        revision=revision if of_hub else None,
        pooling=metadata["pooling"],
        normalize=metadata["normalized"] == "true",
        prompt=metadata["prompt"],
        max_length=int(metadata["max_length"]),
        dim=int(metadata["dim"]),
    )
