"""Paragraph shards -> embedding shards, resumable at any moment."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.autotune import tune
from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.calibration import calibrated_coding
from data_pipeline.embeddings.engine import EncodeStats, Engine
from data_pipeline.embeddings.plan import Plan, make_plan
from data_pipeline.embeddings.tokens import Tokens, spill
from data_pipeline.errors import ModelError, ShardMismatch, StaleStage, StoreError
from data_pipeline.store import (
    CALIBRATED,
    Coding,
    ColumnHash,
    EmbeddingWriter,
    ParagraphShard,
    ParagraphStore,
    check_fresh,
    entry_of,
    fingerprint,
    open_embedding_shard,
    read_manifest,
    shard_name,
    write_manifest,
)
from data_pipeline.types import Float32Array, IntArray, Split
from data_pipeline.utils import progress_bar, sha256_of_file, sha256_of_json
from data_pipeline.utils.system import remove_unused

logger = logging.getLogger(__name__)

# Rows that are tokenised together: enough for all cores, few enough to be forgotten soon.
_TOKENIZE_ROWS = 8192


@dataclass(frozen=True)
class SplitResult:
    """What became of one split."""

    rows: int
    dim: int
    files: list[Path]
    tally: EncodeStats
    skipped: bool
    """It was finished before."""


def stored_precision(embedder: Embedder, config: EmbeddingConfig) -> str:
    """Of the stored vectors: half precision for half-precision models unless asked otherwise."""
    if config.precision != "auto":
        return config.precision
    return "float32" if embedder.identity.dtype == "float32" else "float16"


@dataclass(frozen=True)
class _Job:
    """What the shards of a split have in common."""

    embedder: Embedder
    engine: Engine
    config: EmbeddingConfig
    metadata: Mapping[str, str]
    coding: Coding
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
    identity, precision = embedder.identity, stored_precision(embedder, config)
    shards = store.listed(split)
    settings = {**identity.to_metadata(), "precision": precision}
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
        return SplitResult(rows, identity.dim, files, EncodeStats(truncated=known["truncated"]), skipped=True)
    folder.mkdir(parents=True, exist_ok=True)
    job = _Job(
        embedder=embedder,
        engine=Engine(embedder, config.batch_tokens, config.batch_size),
        config=config,
        metadata={
            **identity.to_metadata(),
            "attention": embedder.runtime.attention,
            "split": split,
            "package_version": version("elm-data-preparation"),
        },
        coding=calibrated_coding(precision, store, embedder, settings, folder, manifest, overwrite),
        overwrite=overwrite,
        special_tokens=_special_tokens(store, embedder),
        hashes={shard["file"]: shard["sha256"] for shard in known["shards"]} if same_work else {},
    )
    if known is None and not overwrite:
        _refuse_strangers(shards, files, job)
    entries = []
    with progress_bar(rows, f"embedding {split}", "row") as bar:
        for shard, final, plan in zip(shards, files, _plans(shards, folder, job), strict=True):
            _embed_shard(shard, plan, final, job, bar.update)
            entries.append(entry_of(final, shard.rows, shard.ids_sha256, shard.texts_sha256).to_json())
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
    if not any(entry["settings"].get("precision") in CALIBRATED for entry in manifest["splits"].values()):
        manifest.pop("calibration", None)  # of vectors that were replaced
    write_manifest(folder, manifest)
    return SplitResult(rows, identity.dim, files, job.engine.tally, skipped=False)


def _refuse_strangers(shards: list[ParagraphShard], files: list[Path], job: _Job) -> None:
    for shard, final in zip(shards, files, strict=True):
        if final.exists() and not _is_finished(final, shard, job):
            raise StaleStage(
                f"{final} is there already and was not made with these settings (no manifest speaks of it). "
                "Pass --overwrite to replace it, or --embedding.variant NAME to keep both."
            )


def _plans(shards: list[ParagraphShard], folder: Path, job: _Job) -> Iterator[Plan]:
    """Each shard's plan; the next one is made while a shard is computed."""
    with ThreadPoolExecutor(1, thread_name_prefix="plan") as pool:
        coming = pool.submit(_plan, shards[0], folder, job)
        for following in [*shards[1:], None]:
            plan = coming.result()
            if following is not None:
                coming = pool.submit(_plan, following, folder, job)
            yield plan


def _plan(shard: ParagraphShard, folder: Path, job: _Job) -> Plan:
    started = time.perf_counter()
    plan = make_plan(spill(_tokenized(shard, job), folder))
    tally = job.engine.tally
    tally.planning_s += time.perf_counter() - started
    tally.truncated += int(plan.tokens.truncated.sum())
    tally.repeated += len(plan.tokens) - len(plan.order)
    return plan


def _tokenized(shard: ParagraphShard, job: _Job) -> Iterator[Tokens]:
    """Tokens of a shard, some rows at a time.

    Raises:
        ShardMismatch: a stored token count is wrong, or the file is not the one that was opened.
    """
    seen_ids, seen_texts = ColumnHash(), ColumnHash()
    prompt = job.embedder.identity.prompt
    columns = ["text_id", "text", "token_count"]
    for batch in shard.batches(columns, _TOKENIZE_ROWS):
        names, texts, counts = (batch[column].to_pylist() for column in columns)
        seen_ids.update(names)
        seen_texts.update(texts)
        tokens = job.embedder.tokenize([prompt + text for text in texts] if prompt else texts)
        if job.special_tokens is not None:
            found = tokens.lengths - job.special_tokens
            wrong = np.flatnonzero((found != np.array(counts)) & ~tokens.truncated)
            if len(wrong):
                raise ShardMismatch(
                    f"{shard.path} says that {names[wrong[0]]} has {counts[wrong[0]]} tokens, its tokenizer finds "
                    f"{found[wrong[0]]}. Run the pipeline again with --overwrite "
                    "--preprocess.fast_tokens off, and please report this text."
                )
        yield tokens
    if (seen_ids.hexdigest(), seen_texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        raise ShardMismatch(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")


def _embed_shard(shard: ParagraphShard, plan: Plan, final: Path, job: _Job, advance: Callable[[int], object]) -> None:
    if _is_finished(final, shard, job):
        # A crash came after the file got its name and before the manifest spoke of it.
        advance(shard.rows)
        return
    dim = job.embedder.identity.dim
    writer = EmbeddingWriter(final, shard.rows, dim, job.coding, _metadata(shard, job), job.overwrite)
    if finished := int(writer.done.sum()):
        logger.info("%s: %d of %d rows are there already, going on", final.name, finished, shard.rows)
        advance(finished)
    try:
        _announce(plan, final, job)
        try:
            _fill(writer, plan, shard, job, advance)
        finally:
            writer.flush()  # also where something failed: what is finished stays
        writer.finish()
    finally:
        writer.close()


def _announce(plan: Plan, final: Path, job: _Job) -> None:
    """Choose what is measured, and say what will be done."""
    engine = job.engine
    if not engine.flops_per_s:  # once a split: what one shard tells of the machine holds for the others
        tuned = tune(job.embedder, plan, job.config.batch_tokens, job.config.threads)
        engine.batch_tokens, engine.flops_per_s = tuned.batch_tokens, tuned.flops_per_s
    summary = plan.summary(job.embedder.runtime, engine.batch_tokens, engine.batch_size)
    expected = f", about {_duration(summary.flops / engine.flops_per_s)}" if engine.flops_per_s else ""
    logger.info("%s: %s%s", final.name, summary.line(), expected)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _fill(
    writer: EmbeddingWriter, plan: Plan, shard: ParagraphShard, job: _Job, advance: Callable[[int], object]
) -> None:
    """Write the rows of a shard that are not there yet."""
    last_flush = time.monotonic()
    for rows, vectors in job.engine.run(plan, lambda row: _name_of(shard, row), writer.done):
        if job.coding.precision == "float16":
            _check_float16(vectors, rows, shard)
        new = int((~writer.done[rows]).sum())
        writer.write(rows, vectors)
        advance(new)
        if time.monotonic() - last_flush > job.config.flush_s:
            writer.flush()
            last_flush = time.monotonic()


def _name_of(shard: ParagraphShard, row: int) -> str:
    """Id of a row, for a message; reads the file up to it."""
    for batch in shard.batches(["text_id"]):
        if row < batch.num_rows:
            return str(batch["text_id"][row].as_py())
        row -= batch.num_rows
    raise IndexError(f"{shard.path} has no row {row}")


def _check_float16(vectors: Float32Array, rows: IntArray, shard: ParagraphShard) -> None:
    outside = np.abs(vectors).max(axis=1) > np.finfo(np.float16).max
    if outside.any():
        raise ModelError(
            f"the vector of {_name_of(shard, int(rows[outside][0]))} is too large for float16. "
            "Use --embedding.precision float32, or --embedding.normalize."
        )


def _special_tokens(store: ParagraphStore, embedder: Embedder) -> int | None:
    counted_with = store.manifest["settings"].get("tokenizer") if store.manifest else None
    if counted_with != embedder.identity.tokenizer or embedder.identity.prompt:
        return None
    return len(embedder.tokenize([""]).ids)


def _metadata(shard: ParagraphShard, job: _Job) -> dict[str, str]:
    return {**job.metadata, "ids_sha256": shard.ids_sha256, "texts_sha256": shard.texts_sha256}


def _is_finished(final: Path, shard: ParagraphShard, job: _Job) -> bool:
    """Whether a file is what this job would write, by its header and, where it is known, its hash."""
    try:
        found = open_embedding_shard(final)
    except StoreError:
        return False
    expected = {**_metadata(shard, job), **job.coding.to_metadata()}
    if found.rows != shard.rows or found.metadata != expected:
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
                remove_unused(path)
