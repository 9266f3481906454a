"""Stage that embeds the paragraph shards of a split."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import (
    Embedder,
    EncodeStats,
    Engine,
    Identity,
    Tokens,
    make_plan,
    spill,
    tokenize_with_prompt,
)
from data_pipeline.embeddings.autotune import tune
from data_pipeline.embeddings.calibration import calibrated_coding
from data_pipeline.embeddings.embed_to_file import TOKENIZED_ROWS, FilePlan, Known, Window, embed_to_file
from data_pipeline.embeddings.plan import Plan
from data_pipeline.errors import ShardMismatchError, StaleStageError, StoreError
from data_pipeline.stages.api_costs import check_cost, cost_of, usage_since
from data_pipeline.stages.base import Advance, Task, TaskResult, run_at_once, run_in_order, run_stage
from data_pipeline.stages.recorded_probes import identity_with_recorded_probes
from data_pipeline.stages.reuse import Found, Reuse
from data_pipeline.stages.split_output import SplitOutput
from data_pipeline.store import Coding, ColumnHash, ParagraphShard, ParagraphStore, open_embedding_shard
from data_pipeline.store.manifest import EmbeddingManifest, ShardRecord, read_manifest
from data_pipeline.types import IntArray, Split
from data_pipeline.utils import sha256_of_json

logger = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 2
"""Shards whose requests share the slots of a server, so that none idles at the end of a shard."""


@dataclass(frozen=True)
class SplitResult:
    """Result of embedding one split."""

    rows: int
    dim: int
    files: list[Path]
    tally: EncodeStats
    skipped: bool
    """Whether an earlier run finished the split."""


def stored_precision(embedder: Embedder, config: EmbeddingConfig) -> str:
    """Return the precision of the stored vectors: that of the config, or by default that of the model."""
    if config.precision != "auto":
        return config.precision
    return "float32" if embedder.identity.dtype == "float32" else "float16"


def embed_split(
    store: ParagraphStore,
    split: Split,
    embedder: Embedder,
    config: EmbeddingConfig,
    folder: Path,
    overwrite: bool = False,
    reuse: Reuse | None = None,
) -> SplitResult:
    """Embed the shards of a split into a folder, resuming where an earlier run stopped.

    Args:
        store: paragraphs of the corpus.
        split: split to embed.
        embedder: embedding model.
        config: settings of the embedder.
        folder: `data/embeddings`, or the folder of a variant.
        overwrite: whether to replace vectors that were made with other settings or are damaged; finished work with
            the same settings is kept.
        reuse: finds vectors that exist already; None to compute all.

    Raises:
        StaleStageError: the split was embedded with other settings, and `overwrite` is false.
        ModelError: a vector cannot be computed.
        ShardMismatchError: a stored token count differs from that of the tokenizer.
        BudgetSpentError: the vectors would cost more than they may.
    """
    stage = open_stage(store, split, embedder, config, folder, overwrite, reuse)
    remote = embedder.runtime.remote
    execute = run_at_once(_SHARDS_AT_ONCE, remote.interrupt) if remote else run_in_order
    return run_stage(stage, overwrite=overwrite, execute=execute)


def open_stage(
    store: ParagraphStore,
    split: Split,
    embedder: Embedder,
    config: EmbeddingConfig,
    folder: Path,
    overwrite: bool,
    reuse: Reuse | None = None,
) -> "SplitEmbeddings":
    """Make the stage that embeds a split; see `embed_split`."""
    shards = store.listed(split)
    identity = identity_with_recorded_probes(embedder.identity, folder, split, overwrite)
    output = SplitOutput(
        folder=folder,
        split=split,
        manifest_type=EmbeddingManifest,
        stem=f"{split}_embeddings",
        ending=".safetensors",
        settings={**identity.to_metadata(), "precision": stored_precision(embedder, config)},
        upstream=sha256_of_json([[shard.ids_sha256, shard.texts_sha256] for shard in shards]),
        corpus=store.corpus,
        paragraphs=shards,
        is_whole=opens,
        remakes_damaged=True,
    )
    return SplitEmbeddings(store, embedder, identity, config, output, overwrite, reuse)


def opens(path: Path, record: ShardRecord) -> bool:
    """Return whether an embedding file has a valid header and the right size."""
    del record
    try:
        open_embedding_shard(path)
    except StoreError:
        return False
    return True


@dataclass
class SplitEmbeddings:
    """Stage that embeds one split."""

    store: ParagraphStore
    embedder: Embedder
    identity: Identity
    """Identity that is recorded: that of the embedder, but for rounding of the probe texts' vectors."""
    config: EmbeddingConfig
    output: SplitOutput
    overwrite: bool
    reuse: Reuse | None = None
    engine: Engine = field(init=False)
    coding: Coding = field(init=False)
    _special_tokens: int | None = field(init=False)
    """Number of tokens added to every text; None if the stored counts are of another tokenizer."""
    _prepared: bool = field(default=False, init=False)
    _plans: dict[int, Future["_ShardPlan"]] = field(default_factory=dict, init=False)
    _planner: ThreadPoolExecutor = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Held by one of several tasks that run at once, while it prepares."""

    def __post_init__(self) -> None:
        self.engine = Engine(self.embedder, self.config.batch_tokens, self.config.batch_size)
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")
        remote = self.embedder.runtime.remote
        self._usage_before = replace(remote.usage) if remote else None

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Embedding {self.output.split}"

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        return self.output.rows

    @property
    def outputs(self) -> list[SplitOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return self.output.fingerprint

    def tasks(self) -> list[Task]:
        """Return one task for each paragraph shard."""
        return self.output.tasks()

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Embed one shard, while the next one is planned in a thread."""
        shard, path = self.output.paragraphs[task.index], self.output.paths[task.index]
        with self._lock:
            self._prepare()
            planned = self._planned(task.index)
            del self._plans[task.index]
            self._planned_ahead(task.index)
        plan = planned.result()
        facts = {"truncated": plan.truncated}
        if self._is_written(path, shard):
            # A crash came after the file was published and before the manifest recorded it.
            advance(shard.rows)
            return TaskResult(task.name, shard.rows, skipped=True, facts=facts)
        file = FilePlan(path, shard.rows, self.coding, self._metadata(shard), row_name=lambda row: row_id(shard, row))
        copied = np.zeros(shard.rows, np.bool_)
        embed_to_file(
            file,
            self._windows(shard, path, plan, copied),
            self.engine,
            advance=advance,
            known=self._known(plan, copied),
            flush_s=self.config.flush_s,
            overwrite=self.overwrite,
        )
        with self.engine.lock:
            self.engine.tally.reused += int(copied.sum())
        return TaskResult(task.name, shard.rows, facts=facts)

    def finish(self, results: Sequence[TaskResult]) -> SplitResult:
        """Write the manifest."""
        dim, tally = self.embedder.identity.dim, self.engine.tally
        if not results:
            manifest = read_manifest(self.output.folder, EmbeddingManifest)
            truncated = manifest["splits"][self.output.split]["truncated"] if manifest else 0
            return SplitResult(self.rows, dim, self.output.paths, EncodeStats(truncated=truncated), skipped=True)
        truncated = sum(result.facts["truncated"] for result in results)
        self.output.record({"dim": dim, "truncated": truncated}, {"stage": "embeddings", "splits": {}})
        tally.usage = usage_since(self._usage_before, self.embedder.runtime.remote, self.name)
        return SplitResult(self.rows, dim, self.output.paths, tally, skipped=False)

    def _prepare(self) -> None:
        """Prepare the first task: the folder, the calibration of int8 and float8, and the check for unlisted files."""
        if self._prepared:
            return
        output, folder = self.output, self.output.folder
        manifest = read_manifest(folder, EmbeddingManifest)
        is_new = manifest is None or output.split not in manifest["splits"]
        folder.mkdir(parents=True, exist_ok=True)
        precision = stored_precision(self.embedder, self.config)
        self.coding = calibrated_coding(
            precision, self.store, self.embedder, output.settings, folder, manifest, self.overwrite
        )
        self._special_tokens = _special_tokens(self.store, self.embedder)
        if (remote := self.embedder.runtime.remote) is not None:
            unwritten = [
                shard
                for shard, path in zip(output.paragraphs, output.paths, strict=True)
                if not self._is_written(path, shard)
            ]
            check_cost(remote, ((shard, self._rows_without_vector(shard)) for shard in unwritten), self.name)
        if is_new and not self.overwrite:
            self._reject_unlisted_files()
        self._prepared = True

    def _rows_without_vector(self, shard: ParagraphShard) -> IntArray:
        if self.reuse is None:
            return np.arange(shard.rows)
        return self.reuse.find(shard, self.coding, self._token_counts(shard)).missing

    def _reject_unlisted_files(self) -> None:
        for shard, path in zip(self.output.paragraphs, self.output.paths, strict=True):
            if path.exists() and not self._is_written(path, shard):
                raise StaleStageError(
                    f"{path} exists and was not made with these settings (no manifest lists it). "
                    "Pass --overwrite to replace it, or set embedding.variant to keep both."
                )

    def _is_written(self, path: Path, shard: ParagraphShard) -> bool:
        """Return whether a file is finished and was made with these settings, by its header."""
        try:
            existing = open_embedding_shard(path)
        except StoreError:
            return False
        expected = {**self._metadata(shard), **self.coding.to_metadata()}
        return existing.rows == shard.rows and existing.metadata == expected

    def _metadata(self, shard: ParagraphShard) -> dict[str, str]:
        return {
            **self.identity.to_metadata(),
            "attention": self.embedder.runtime.attention,
            "split": self.output.split,
            "package_version": version("elm-data-preparation"),
            "ids_sha256": shard.ids_sha256,
            "texts_sha256": shard.texts_sha256,
        }

    def _planned_ahead(self, index: int) -> None:
        """Plan the shard that is next, also after those that run at once with this one."""
        ahead = _SHARDS_AT_ONCE if self.embedder.runtime.remote else 1
        if index + ahead < len(self.output.paragraphs):
            self._planned(index + ahead)

    def _planned(self, index: int) -> Future["_ShardPlan"]:
        if index not in self._plans:
            self._plans[index] = self._planner.submit(self._plan, self.output.paragraphs[index])
        return self._plans[index]

    def _known(self, plan: "_ShardPlan", copied: NDArray[np.bool_]) -> Iterator[Known]:
        """Read the vectors that exist already, and mark their rows in `copied`."""
        if self.reuse is None or plan.found is None:
            return
        for rows, vectors, is_coded in self.reuse.read(plan.found, self.coding):
            copied[rows] = True
            yield Known(rows, vectors, is_coded)

    def _windows(
        self, shard: ParagraphShard, path: Path, plan: "_ShardPlan", copied: NDArray[np.bool_]
    ) -> Iterator[Window]:
        """Rows to compute: those without a vector, and those whose vector could not be copied after all."""
        yield Window(plan.rows, lambda: self._announced(plan.plan, path))
        left = np.setdiff1d(np.flatnonzero(~copied), plan.rows)
        if len(left):
            yield Window(left, lambda: make_plan(spill(self._tokenized(shard, left), self.output.folder)))

    def _plan(self, shard: ParagraphShard) -> "_ShardPlan":
        started = time.perf_counter()
        tally = self.engine.tally
        found, counts = None, self._token_counts(shard)
        if self.reuse is not None:
            found = self.reuse.find(shard, self.coding, counts)
        rows = np.arange(shard.rows) if found is None else found.missing
        plan = make_plan(spill(self._tokenized(shard, rows), self.output.folder))
        truncated = int(plan.tokens.truncated.sum())
        if found is not None:
            truncated += self._truncated_among(shard, np.flatnonzero(found.sources >= 0), counts)
        with self.engine.lock:
            tally.planning_s += time.perf_counter() - started
            tally.truncated += truncated
            tally.repeated += len(plan.tokens) - len(plan.order)
        return _ShardPlan(rows, plan, found, truncated)

    def _truncated_among(self, shard: ParagraphShard, rows: IntArray, counts: IntArray | None) -> int:
        """Number of rows whose text is longer than the limit of the model."""
        if counts is not None:
            return int((counts[rows] > self.embedder.identity.max_length).sum())
        return sum(int(tokens.truncated.sum()) for tokens in self._tokenized(shard, rows))

    def _token_counts(self, shard: ParagraphShard) -> IntArray | None:
        """Tokens of each text of a shard, special tokens included; None if the stored counts do not say.

        The tokens of a prompt are not counted among them, so they say nothing where there is one.
        """
        if self.reuse is None or self._special_tokens is None or self.embedder.identity.prompt:
            return None
        return shard.numbers("token_count") + self._special_tokens

    def _tokenized(self, shard: ParagraphShard, rows: IntArray) -> Iterator[Tokens]:
        """Tokenize rows of a shard, ascending, in batches of its rows.

        Raises:
            ShardMismatchError: a stored token count is wrong, or the file has changed since it was opened.
        """
        if not len(rows):
            return
        seen_ids, seen_texts = ColumnHash(), ColumnHash()
        prompt = self.embedder.identity.prompt
        columns = ["text_id", "text", "token_count"]
        start = 0
        for batch in shard.batches(columns, TOKENIZED_ROWS):
            seen_ids.update(batch["text_id"].to_pylist())
            seen_texts.update(batch["text"].to_pylist())
            first, last = np.searchsorted(rows, [start, start + batch.num_rows])
            batch, start = batch.take(pa.array(rows[first:last] - start)), start + batch.num_rows
            if not batch.num_rows:
                continue
            names, texts, counts = (batch[column].to_pylist() for column in columns)
            tokens = tokenize_with_prompt(self.embedder, texts, prompt)
            if self._special_tokens is not None:
                own_counts = tokens.lengths - self._special_tokens
                wrong = np.flatnonzero((own_counts != np.array(counts)) & ~tokens.truncated)
                if len(wrong):
                    raise ShardMismatchError(
                        f"{shard.path} says that {names[wrong[0]]} has {counts[wrong[0]]} tokens, its tokenizer finds "
                        f"{own_counts[wrong[0]]}. Set preprocess.fast_tokens to off, run again with --overwrite, "
                        "and please report this text."
                    )
            yield tokens
        if (seen_ids.hexdigest(), seen_texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
            raise ShardMismatchError(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")

    def _announced(self, plan: Plan, path: Path) -> Plan:
        """Return the plan after measuring the machine, if needed, and logging the amount of work."""
        engine = self.engine
        with self._lock:
            if not engine.flops_per_s:  # once per split, since the result holds for all shards
                tuned = tune(self.embedder, plan, self.config.batch_tokens, self.config.threads)
                engine.batch_tokens, engine.flops_per_s = tuned.batch_tokens, tuned.flops_per_s
        summary = plan.summary(self.embedder.runtime, engine.batch_tokens, engine.batch_size)
        expected = f", about {_duration(summary.flops / engine.flops_per_s)}" if engine.flops_per_s else ""
        logger.info(
            "%s: %s%s", path.name, summary.line(), expected + cost_of(self.embedder.runtime.remote, summary.tokens)
        )
        return plan


@dataclass(frozen=True)
class _ShardPlan:
    """What is to be done for a shard."""

    rows: IntArray
    """Rows to compute, ascending."""
    plan: Plan
    """Plan of their texts."""
    found: Found | None
    """Vectors that exist already; None if none were looked for."""
    truncated: int
    """Number of texts of the shard that are longer than the limit of the model."""


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def row_id(shard: ParagraphShard, row: int) -> str:
    """Return the id of a row for a message; reads the file up to it."""
    for batch in shard.batches(["text_id"]):
        if row < batch.num_rows:
            return str(batch["text_id"][row].as_py())
        row -= batch.num_rows
    raise IndexError(f"{shard.path} has no row {row}")


def _special_tokens(store: ParagraphStore, embedder: Embedder) -> int | None:
    counted_with = store.manifest["settings"].get("tokenizer") if store.manifest else None
    if counted_with != embedder.identity.tokenizer or embedder.identity.prompt:
        return None
    return int(embedder.tokenize([""]).lengths.sum())
