"""The vectors of all passages: those of our own stores, or made once and kept in a work folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, Engine, Tokens, load_embedder, make_plan, spill, tokenize_with_prompt
from data_pipeline.embeddings.embed_to_file import PLANNED_ROWS, TOKENIZED_ROWS, FilePlan, Window, embed_to_file
from data_pipeline.embeddings.identity import identity_differences, with_recorded_probes
from data_pipeline.embeddings.plan import Plan
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ConfigError, CorruptShardError, ShardMismatchError, StoreError
from data_pipeline.retrieval.passages import Passages
from data_pipeline.store import Coding, open_embedding_shard
from data_pipeline.store.embeddings import unfinished_metadata
from data_pipeline.store.reader import Rows
from data_pipeline.types import IntArray
from data_pipeline.utils import exclusive, progress_bar, sha256_of_json


@dataclass(frozen=True)
class PassageVectors:
    """One vector for every passage, read when asked for."""

    rows: int
    dim: int
    where: str
    read: Callable[[IntArray], NDArray[Any]]
    """Rows, shape (N,) -> vectors of shape (N, dim), floats."""
    embedder: Embedder
    """That made them, and makes those of queries."""


def vectors_of(
    passages: Passages, work_dir: Path, embedding: EmbeddingConfig | None = None, embedder: Embedder | None = None
) -> PassageVectors:
    """The vectors of passages.

    Those of a dataset that was opened with its embeddings are used as they are. Others are computed once into
    `work_dir`, under a name with the hashes of the passages and the model, and a killed run resumes. Vectors of other
    passages or models stay beside them until they are deleted.

    Args:
        passages: what is searched.
        work_dir: for the vectors of passages that have none.
        embedding: names the embedder; None for the store's own.
        embedder: is used instead of loading one.

    Raises:
        ConfigError: the passages have no vectors, and no embedder is named.
        ShardMismatchError: the embedder named is not the one that made the store's vectors.
        SourceError, ModelError, MissingExtraError: the embedder can't be loaded, or gives no vector for a text.
    """
    rows = passages.dataset_rows
    if rows is not None and rows.source.with_embeddings:
        return _stored_vectors(rows, embedding, embedder)
    if embedder is None and embedding is None:
        raise ConfigError(
            f"{passages.where} has no vectors, and no embedder is named to make them. Set `embedding` (model_name, "
            "...), open the dataset with its embeddings, or use fusion: bm25."
        )
    if embedder is None:
        assert embedding is not None
        embedder = load_embedder(embedding)
    limits = (embedding.batch_tokens, embedding.batch_size) if embedding else (None, None)
    return _made_once(passages, work_dir, Engine(embedder, *limits), embedding.flush_s if embedding else 5.0)


def _stored_vectors(rows: Rows, embedding: EmbeddingConfig | None, embedder: Embedder | None) -> PassageVectors:
    first = rows.first_shard
    if embedder is None:
        embedder = load_maker(first) if embedding is None else load_embedder(embedding)
    for difference in identity_differences(first.metadata, embedder.identity.to_metadata()):
        raise ShardMismatchError(
            f"the vectors in {first.path} were made with {difference.field} {difference.recorded!r}, the embedder for "
            f"the queries has {difference.other!r}: scores would mean nothing. Leave `embedding` out to use the "
            "store's own."
        )

    def read(index: IntArray) -> NDArray[Any]:
        rows.prepare(index, 1, texts=False, vectors=True)
        return rows.vectors(index)

    return PassageVectors(len(rows), rows.dim, str(first.path.parent), read, embedder)


@dataclass(frozen=True)
class VectorFile:
    """File with the vectors of passages that a dataset does not have."""

    path: Path
    metadata: dict[str, str]
    """Identity of the embedder, and the fingerprint of the passages."""


def vector_file(passages: Passages, work_dir: Path, embedder: Embedder) -> VectorFile:
    """Return the file of the vectors of passages, which need not be there.

    Args:
        passages: what is searched.
        work_dir: folder of the file.
        embedder: makes the vectors.
    """
    metadata = embedder.identity.to_metadata() | {"passages": passages.fingerprint}
    # The vectors of the probe texts differ by rounding; they are compared when the file is opened.
    named_by = {name: value for name, value in metadata.items() if name != "probes"}
    path = work_dir / f"vectors-{sha256_of_json(named_by)[:20]}.safetensors"
    return VectorFile(path, with_recorded_probes(metadata, unfinished_metadata(path)))


def _made_once(passages: Passages, work_dir: Path, engine: Engine, flush_s: float) -> PassageVectors:
    identity = engine.embedder.identity
    metadata = identity.to_metadata() | {"passages": passages.fingerprint}
    path = vector_file(passages, work_dir, engine.embedder).path
    if not path.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(path):
            if not path.exists():
                with progress_bar(len(passages), "Embedding passages", "row") as bar:
                    file = vector_file(passages, work_dir, engine.embedder)
                    embed_passages(passages, file, engine, flush_s, bar.update)
    try:
        shard = open_embedding_shard(path)
        if (shard.rows, shard.dim) != (len(passages), identity.dim):
            raise CorruptShardError(f"{path} holds {shard.rows} vectors of {shard.dim} dimensions")
    except StoreError as error:
        raise CorruptShardError(
            f"{error}\n{path} is not what this package wrote there. Delete it; it is made again."
        ) from error
    for difference in identity_differences(shard.metadata, metadata):
        raise ShardMismatchError(
            f"the vectors in {path} were made with {difference.field} {difference.recorded}, the model "
            f"{identity.model} now has {difference.other}: it was changed behind its name. Delete the file; it is "
            "made again."
        )
    return PassageVectors(shard.rows, shard.dim, str(path), lambda rows: shard.stored[_slice(rows)], engine.embedder)


def _slice(rows: IntArray) -> IntArray | slice:
    """Neighbours as a slice: no copy of what is mapped."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def embed_passages(
    passages: Passages,
    file: VectorFile,
    engine: Engine,
    flush_s: float,
    advance: Callable[[int], object],
    span: tuple[int, int] | None = None,
) -> None:
    """Embed passages into a file, resuming where an earlier run stopped.

    Args:
        passages: what is searched.
        file: the file.
        engine: runs the embedder.
        flush_s: time after which finished work is flushed to disk, in seconds.
        advance: called with numbers of rows that are finished.
        span: first and exclusive last row; None for all. Several processes may fill a file at once.
    """
    first, last = span or (0, len(passages))
    is_empty = passages.is_empty[first:last]
    # An empty passage says nothing, and some models give no vector for it.
    plan = FilePlan(
        file.path, len(passages), Coding("float32"), file.metadata, row_name=lambda row: passages.ids([row])[0],
        span=span, zero_rows=first + np.flatnonzero(is_empty),
    )  # fmt: skip
    windows = _windows(passages, first + np.flatnonzero(~is_empty), file.path.parent, engine.embedder)
    embed_to_file(plan, windows, engine, advance=advance, flush_s=flush_s, overwrite=True)


def _windows(passages: Passages, rows: IntArray, folder: Path, embedder: Embedder) -> Iterator[Window]:
    def plan(window_rows: IntArray) -> Plan:
        return make_plan(spill(_tokenized(passages, window_rows, embedder), folder))

    for start in range(0, len(rows), PLANNED_ROWS):
        window_rows = rows[start : start + PLANNED_ROWS]
        yield Window(window_rows, partial(plan, window_rows))


def _tokenized(passages: Passages, rows: IntArray, embedder: Embedder) -> Iterator[Tokens]:
    prompt = embedder.identity.prompt
    for start in range(0, len(rows), TOKENIZED_ROWS):
        yield tokenize_with_prompt(embedder, passages.texts(rows[start : start + TOKENIZED_ROWS]), prompt)
