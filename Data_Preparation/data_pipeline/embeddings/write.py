"""Paragraph shards -> embedding shards, resumable at any moment."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.base import Embedder, Tokenized
from data_pipeline.embeddings.engine import Engine, Tally
from data_pipeline.errors import ModelError, ShardMismatch, StaleStage, StoreError
from data_pipeline.store import (
    ColumnHash,
    EmbeddingWriter,
    ParagraphShard,
    ParagraphStore,
    ShardEntry,
    check_fresh,
    fingerprint,
    open_embedding_shard,
    read_manifest,
    shard_name,
    write_manifest,
)
from data_pipeline.types import Float32Array, IntArray, Split
from data_pipeline.utils import progress_bar, sha256_of_file, sha256_of_json

logger = logging.getLogger(__name__)

# Rows planned together: enough that batches hold hardly any padding, few enough that memory
# does not grow with the corpus. Part of what makes a resumed run repeat the same batches.
_WINDOW_ROWS = 8192


@dataclass(frozen=True)
class SplitResult:
    """What became of one split."""

    rows: int
    dim: int
    files: list[Path]
    tally: Tally
    skipped: bool
    """It was finished before."""


def stored_dtype(embedder: Embedder, config: EmbeddingConfig) -> str:
    """Of the stored vectors: half precision for half-precision models unless asked otherwise."""
    if config.store_dtype != "auto":
        return config.store_dtype
    return "float32" if embedder.identity.dtype == "float32" else "float16"


@dataclass(frozen=True)
class _Job:
    """What the shards of a split have in common."""

    embedder: Embedder
    engine: Engine
    metadata: Mapping[str, str]
    dtype: str
    flush_s: float
    overwrite: bool
    special_tokens: int | None
    """Tokens added to every text, where the stored counts are this tokenizer's; else None."""
    hashes: Mapping[str, str]
    """Of the files that a manifest says this very job has finished."""


def embed_split(
    store: ParagraphStore,
    split: Split,
    embedder: Embedder,
    config: EmbeddingConfig,
    folder: Path,
    overwrite: bool = False,
) -> SplitResult:
    """Embed a split's shards into a folder, going on where an earlier run stopped.

    Args:
        store: the paragraphs.
        folder: `data/embeddings`, or a variant of it.
        overwrite: replace what was made with other settings or is damaged; finished work
            with the same settings is kept all the same.

    Returns:
        What was written.

    Raises:
        StaleStage: the folder holds this split, made with other settings, and not `overwrite`.
        ModelError: a vector cannot be computed.
        ShardMismatch: a stored token count is not this tokenizer's.
    """
    identity, dtype = embedder.identity, stored_dtype(embedder, config)
    shards = store.shards(split)
    settings = {**identity.to_metadata(), "store_dtype": dtype}
    upstream = sha256_of_json([[shard.ids_sha256, shard.texts_sha256] for shard in shards])
    manifest = read_manifest(folder) or {"stage": "embeddings", "splits": {}}
    files = [
        folder / shard_name(f"{split}_embeddings", ".safetensors", index, len(shards)) for index in range(len(shards))
    ]
    rows = sum(shard.rows for shard in shards)
    known = manifest["splits"].get(split)
    if known and not overwrite:
        check_fresh(known, settings, upstream, folder / f"{split}_embeddings")
    same_work = known is not None and known["fingerprint"] == fingerprint(settings, upstream)
    if same_work and _intact(folder, known, overwrite):
        return SplitResult(rows, identity.dim, files, Tally(truncated=known["truncated"]), skipped=True)
    job = _Job(
        embedder=embedder,
        engine=Engine(embedder, config.batch_size, config.batch_tokens),
        metadata={
            **identity.to_metadata(),
            "attention": embedder.attention,
            "split": split,
            "package_version": version("elm-data-preparation"),
        },
        dtype=dtype,
        flush_s=config.flush_s,
        overwrite=overwrite,
        special_tokens=_special_tokens(store, embedder),
        hashes={shard["file"]: shard["sha256"] for shard in known["shards"]} if same_work else {},
    )
    entries = []
    with progress_bar(rows, f"embedding {split}", "row") as bar:
        for shard, final in zip(shards, files, strict=True):
            if final.exists() and known is None and not overwrite and not _is_finished(final, shard, job):
                raise StaleStage(
                    f"{final} is there already and was not made with these settings (no manifest speaks of it). "
                    "Pass --overwrite to replace it, or --embedding.variant NAME to keep both."
                )
            _embed_shard(shard, final, job, bar.update)
            entry = ShardEntry(final.name, shard.rows, sha256_of_file(final), shard.ids_sha256, shard.texts_sha256)
            entries.append(entry.to_json())
    _sweep(folder, split, files)
    manifest["splits"][split] = {
        "fingerprint": fingerprint(settings, upstream),
        "settings": settings,
        "upstream": upstream,
        "corpus": store.folder.name.removesuffix("_processed"),
        "rows": rows,
        "dim": identity.dim,
        "truncated": job.engine.tally.truncated,
        "shards": entries,
    }
    write_manifest(folder, manifest)
    return SplitResult(rows, identity.dim, files, job.engine.tally, skipped=False)


def _embed_shard(shard: ParagraphShard, final: Path, job: _Job, advance: Callable[[int], object]) -> None:
    if _is_finished(final, shard, job):
        # A crash came after the file got its name and before the manifest spoke of it.
        for _, tokenized in _windows(shard, job):
            job.engine.tally.truncated += sum(tokenized.truncated)
        advance(shard.rows)
        return
    dim = job.embedder.identity.dim
    writer = EmbeddingWriter(final, shard.rows, dim, job.dtype, _metadata(shard, job), job.overwrite)
    if finished := int(writer.done.sum()):
        logger.info("%s: %d of %d rows are there already, going on", final.name, finished, shard.rows)
    try:
        _fill(writer, shard, job, advance)
        writer.finish()
    except ShardMismatch:
        # Rows were made from other texts than the header says; no later run may take them up.
        writer.discard()
        raise
    finally:
        writer.close()


def _fill(writer: EmbeddingWriter, shard: ParagraphShard, job: _Job, advance: Callable[[int], object]) -> None:
    """Write the rows of a shard that are not there yet."""
    engine = job.engine
    last_flush = time.monotonic()
    start = 0
    for names, tokenized in _windows(shard, job):
        engine.tally.truncated += sum(tokenized.truncated)
        for batch in engine.plan(tokenized.ids):
            # A batch is repeated whole, so that its vectors are those of an undisturbed run.
            if writer.done[start + batch].all():
                advance(len(batch))
                continue
            for rows, vectors in engine.run(tokenized.ids, batch, names):
                if job.dtype == "float16":
                    _check_float16(vectors, rows, names)
                writer.write(start + rows, vectors)
                advance(len(rows))
            if time.monotonic() - last_flush > job.flush_s:
                writer.flush()
                last_flush = time.monotonic()
        start += len(names)


def _windows(shard: ParagraphShard, job: _Job) -> Iterator[tuple[list[str], Tokenized]]:
    """Ids and tokens of a shard, a window of rows at a time.

    Raises:
        ShardMismatch: a stored token count is wrong, or the file is not the one that was opened.
    """
    seen_ids, seen_texts = ColumnHash(), ColumnHash()
    prompt = job.embedder.identity.prompt
    columns = ["text_id", "text", "token_count"]
    for batch in shard.batches(columns, _WINDOW_ROWS):
        names, texts, counts = (batch[column].to_pylist() for column in columns)
        seen_ids.update(names)
        seen_texts.update(texts)
        tokenized = job.embedder.tokenize([prompt + text for text in texts] if prompt else texts)
        if job.special_tokens is not None:
            for name, count, ids, cut in zip(names, counts, tokenized.ids, tokenized.truncated, strict=True):
                if not cut and len(ids) - job.special_tokens != count:
                    raise ShardMismatch(
                        f"{shard.path} says that {name} has {count} tokens, its tokenizer finds "
                        f"{len(ids) - job.special_tokens}. Run the pipeline again with --overwrite "
                        "--preprocess.fast_tokens off, and please report this text."
                    )
        yield names, tokenized
    if (seen_ids.hexdigest(), seen_texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        raise ShardMismatch(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")


def _check_float16(vectors: Float32Array, rows: IntArray, names: Sequence[str]) -> None:
    outside = np.abs(vectors).max(axis=1) > np.finfo(np.float16).max
    if outside.any():
        raise ModelError(
            f"the vector of {names[int(rows[outside][0])]} is too large for float16. "
            "Use --embedding.store_dtype float32, or --embedding.normalize."
        )


def _special_tokens(store: ParagraphStore, embedder: Embedder) -> int | None:
    counted_with = store.manifest["settings"].get("tokenizer") if store.manifest else None
    if counted_with != embedder.identity.tokenizer or embedder.identity.prompt:
        return None
    return len(embedder.tokenize([""]).ids[0])


def _metadata(shard: ParagraphShard, job: _Job) -> dict[str, str]:
    return {**job.metadata, "ids_sha256": shard.ids_sha256, "texts_sha256": shard.texts_sha256}


def _is_finished(final: Path, shard: ParagraphShard, job: _Job) -> bool:
    """Whether a file is what this job would write, by its header and, where it is known, its hash."""
    try:
        found = open_embedding_shard(final)
    except StoreError:
        return False
    if found.rows != shard.rows or found.metadata != _metadata(shard, job) or found.dtype != job.dtype:
        return False
    return final.name not in job.hashes or sha256_of_file(final) == job.hashes[final.name]


def _intact(folder: Path, known: Mapping[str, Any], thorough: bool) -> bool:
    """Whether the files a manifest speaks of are there; thoroughly, by their hashes."""
    for shard in known["shards"]:
        path = folder / Path(shard["file"]).name
        try:
            open_embedding_shard(path)
        except StoreError:
            return False
        if thorough and sha256_of_file(path) != shard["sha256"]:
            return False
    return True


def _sweep(folder: Path, split: Split, files: list[Path]) -> None:
    """Remove what earlier runs of this split left: other numbers of shards, unfinished work."""
    finished = (f"{split}_embeddings.safetensors", f"{split}_embeddings-?????-of-?????.safetensors")
    unfinished = [f".{name}.*" for name in finished] + [f"..{name}.*" for name in finished]
    for pattern in (*finished, *unfinished):
        for path in folder.glob(pattern):
            if path not in files:
                path.unlink()
