"""The vectors of all passages: those of our own stores, or made once and kept in a work folder."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, Engine, Tokens, load_embedder, make_plan, spill
from data_pipeline.embeddings.reload import load_maker
from data_pipeline.errors import ConfigError, CorruptShard, ShardMismatch, StoreError
from data_pipeline.retrieval.passages import Passages
from data_pipeline.store import Coding, EmbeddingWriter, open_embedding_shard
from data_pipeline.types import IntArray
from data_pipeline.utils import exclusive, progress_bar, sha256_of_json

logger = logging.getLogger(__name__)

_PLANNED_ROWS = 262_144  # tokenised and sorted together: many for dense packs, few enough for any memory
_TOKENIZED_ROWS = 8192  # at a time: enough for all cores
_FLUSH_S = 5.0  # of finished work, at most, is repeated after a crash


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
    passages: Passages,
    work_dir: Path,
    embedding: EmbeddingConfig | None = None,
    embedder: Embedder | None = None,
) -> PassageVectors:
    """The vectors of some passages.

    Those of a data set that was opened with its embeddings are used as they are. Others are computed once: they
    lie in `work_dir` under a name that has the passages' and the model's hashes in it, and a run that was killed
    goes on from what is there. Those of other passages or models stay beside them until somebody deletes them.

    Args:
        passages: what is searched.
        work_dir: for the vectors of passages that have none.
        embedding: names the embedder; None for the store's own.
        embedder: is used instead of loading one.

    Raises:
        ConfigError: the passages have no vectors, and no embedder is named.
        ShardMismatch: the embedder named is not the one that made the store's vectors.
        SourceError, ModelError, MissingExtra: the embedder can't be loaded, or gives no vector for a text.
    """
    dataset = passages.dataset
    if dataset is not None and dataset.rows.source.with_embeddings:
        return _of_store(passages, embedding, embedder)
    if embedder is None and embedding is None:
        raise ConfigError(
            f"{passages.where} has no vectors, and no embedder is named to make them. Set `embedding` (model_name, "
            "...), open the data set with its embeddings, or use fusion: bm25."
        )
    if embedder is None:
        assert embedding is not None
        embedder = load_embedder(embedding)
    limits = (embedding.batch_tokens, embedding.batch_size) if embedding else (None, None)
    return _made(passages, work_dir, embedder, Engine(embedder, *limits))


def _of_store(passages: Passages, embedding: EmbeddingConfig | None, embedder: Embedder | None) -> PassageVectors:
    dataset = passages.dataset
    assert dataset is not None
    first = dataset.rows.first_shard
    if embedder is None and embedding is None:
        embedder = dataset.embedder or load_maker(first)
    elif embedder is None:
        assert embedding is not None
        embedder = load_embedder(embedding)
    found = embedder.identity.to_metadata()
    for name in ("revision", "tokenizer", "pooling", "dim", "task"):
        before = first.metadata.get(name, found.get(name, ""))
        if before != found.get(name, ""):
            raise ShardMismatch(
                f"the vectors in {first.path} were made with {name} {before!r}, the embedder for the queries has "
                f"{found.get(name, '')!r}: scores would mean nothing. Leave `embedding` out to use the store's own."
            )
    dim = dataset.dim

    def read(rows: IntArray) -> NDArray[Any]:
        dataset.rows.prepare(rows, 1, texts=False, vectors=True)
        return dataset.rows.vectors(rows)

    return PassageVectors(len(dataset), dim, str(first.path.parent), read, embedder)


def _made(passages: Passages, work_dir: Path, embedder: Embedder, engine: Engine) -> PassageVectors:
    metadata = embedder.identity.to_metadata() | {"passages": passages.fingerprint}
    path = work_dir / f"vectors-{sha256_of_json(metadata)[:20]}.safetensors"
    if not path.exists():
        work_dir.mkdir(parents=True, exist_ok=True)
        with exclusive(path):
            if not path.exists():
                _embed(passages, path, metadata, embedder, engine)
    try:
        shard = open_embedding_shard(path)
        if (shard.rows, shard.dim) != (len(passages), embedder.identity.dim):
            raise CorruptShard(f"{path} holds {shard.rows} vectors of {shard.dim} dimensions")
    except StoreError as error:
        raise CorruptShard(
            f"{error}\n{path} is not what this package wrote there. Delete it; it is made again."
        ) from error
    return PassageVectors(shard.rows, shard.dim, str(path), lambda rows: shard.stored[_slice(rows)], embedder)


def _slice(rows: IntArray) -> IntArray | slice:
    """Neighbours as a slice: no copy of what is mapped."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _embed(passages: Passages, path: Path, metadata: dict[str, str], embedder: Embedder, engine: Engine) -> None:
    dim = embedder.identity.dim
    writer = EmbeddingWriter(path, len(passages), dim, Coding("float32"), metadata, overwrite=True)
    empty = np.flatnonzero(passages.is_empty)
    wanted = np.flatnonzero(~passages.is_empty)
    try:
        if (there := int(writer.done.sum())) > 0:
            logger.info("%s: %d of %d passages are there already, going on", path.name, there, len(passages))
        # Nothing is said by a text that is not there, and some models give no vector for it.
        writer.write(empty, np.zeros((len(empty), dim), np.float32))
        with progress_bar(len(passages), "embedding passages", "row") as bar:
            bar.update(int(writer.done.sum()))
            try:
                for start in range(0, len(wanted), _PLANNED_ROWS):
                    _fill(
                        writer,
                        path.parent,
                        passages,
                        wanted[start : start + _PLANNED_ROWS],
                        embedder,
                        engine,
                        bar.update,
                    )
            finally:
                writer.flush()  # also where something failed: what is finished stays
        writer.finish()
    finally:
        writer.close()


def _fill(
    writer: EmbeddingWriter,
    folder: Path,
    passages: Passages,
    rows: IntArray,
    embedder: Embedder,
    engine: Engine,
    advance: Callable[[int], object],
) -> None:
    """Compute the vectors of some rows that are not there yet; identical texts share one."""
    if writer.done[rows].all():
        return
    plan = make_plan(spill(_tokenized(passages, rows, embedder), folder))
    last = time.monotonic()
    for places, vectors in engine.run(plan, partial(_name, passages, rows), writer.done[rows]):
        found = rows[places]
        advance(int((~writer.done[found]).sum()))
        writer.write(found, vectors)
        if time.monotonic() - last > _FLUSH_S:
            writer.flush()
            last = time.monotonic()


def _tokenized(passages: Passages, rows: IntArray, embedder: Embedder) -> Iterator[Tokens]:
    prompt = embedder.identity.prompt
    for start in range(0, len(rows), _TOKENIZED_ROWS):
        yield embedder.tokenize([prompt + text for text in passages.texts(rows[start : start + _TOKENIZED_ROWS])])


def _name(passages: Passages, rows: IntArray, place: int) -> str:
    return passages.ids([int(rows[place])])[0]
