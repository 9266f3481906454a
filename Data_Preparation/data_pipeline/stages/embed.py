"""Stage that embeds the paragraph shards of a split."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import (
    Embedder,
    EncodeStats,
    Engine,
    Identity,
)
from data_pipeline.embeddings.autotune import tune
from data_pipeline.embeddings.calibration import calibrated_coding
from data_pipeline.embeddings.embed_to_file import ExistingVectors, FilePlan, Window, embed_to_file
from data_pipeline.embeddings.plan import Plan
from data_pipeline.errors import StaleStageError, StoreError
from data_pipeline.stages.api_costs import check_cost, cost_of, usage_since
from data_pipeline.stages.base import (
    Advance,
    Executor,
    Task,
    TaskResult,
    WorkerPlace,
    run_at_once,
    run_in_order,
    run_stage,
    workers_of,
)
from data_pipeline.stages.embed_workers import EmbeddingRecipe, block_rows, tally_since, with_workers
from data_pipeline.stages.recorded_probes import identity_with_recorded_probes
from data_pipeline.stages.reuse import Reuse
from data_pipeline.stages.shard_plans import ShardPlan, ShardPlanner, special_tokens_of
from data_pipeline.stages.split_output import SplitOutput, SplitStage
from data_pipeline.store import Coding, ParagraphShard, ParagraphStore, open_embedding_shard, paragraphs_sha256
from data_pipeline.store.manifest import EmbeddingManifest, ShardRecord, read_manifest
from data_pipeline.types import Split
from data_pipeline.utils import human_time
from data_pipeline.utils.displays import Displayed

logger = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 2
"""Shards whose requests share the slots of a server, so that none idles at the end of a shard."""


@dataclass(frozen=True, repr=False)
class SplitResult(Displayed):
    """Result of embedding one split."""

    rows: int
    dim: int
    files: list[Path]
    tally: EncodeStats
    skipped: bool
    """Whether an earlier run finished the split."""
    new_rows: int = 0
    """Number of rows of the files that this run wrote."""

    def display_text(self) -> str:
        """Describe the result in a line."""
        speed = f"{self.tally.tokens_per_s:,.0f} tokens/s" if self.tally.seconds else "copied"
        return f"{self.rows:,} rows x {self.dim}, {'finished before' if self.skipped else speed}"

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        return [("embeddings", self.display_text()), *(("file", str(path)) for path in self.files)]


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
    execute: Executor = run_in_order,
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
        execute: runs the tasks, if no server computes the vectors.

    Raises:
        StaleStageError: the split was embedded with other settings, and `overwrite` is false.
        ModelError: a vector cannot be computed.
        ShardMismatchError: a stored token count differs from that of the tokenizer.
        BudgetSpentError: the vectors would cost more than they may.
    """
    stage = open_stage(store, split, embedder, config, folder, overwrite, reuse)
    remote = embedder.runtime.remote
    if remote:
        execute = run_at_once(_SHARDS_AT_ONCE, remote.interrupt)
    elif (workers := workers_of(execute)) > 1:
        row_bytes = Coding(stored_precision(embedder, config)).row_bytes(embedder.identity.dim)
        stage.block_rows = block_rows(stage.rows, workers, row_bytes)
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
        upstream=paragraphs_sha256(shards),
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
class SplitEmbeddings(SplitStage):
    """Stage that embeds one split."""

    store: ParagraphStore
    embedder: Embedder
    identity: Identity
    """Identity that is recorded: that of the embedder, but for rounding of the probe texts' vectors."""
    config: EmbeddingConfig
    output: SplitOutput
    overwrite: bool
    reuse: Reuse | None = None
    block_rows: int | None = None
    """Rows of a task; None for those of a shard."""
    is_worker: bool = field(default=False, init=False)
    """Whether it is that of a worker, whose tallies are added up elsewhere."""
    attention: str = field(init=False)
    on_device = True
    saves_rows = True
    engine: Engine = field(init=False)
    coding: Coding = field(init=False)
    _shard_planner: ShardPlanner = field(init=False)
    _prepared: bool = field(default=False, init=False)
    _plans: dict[Task, Future[ShardPlan]] = field(default_factory=dict, init=False)
    _planner: ThreadPoolExecutor = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Held by one of several tasks that run at once, while it prepares."""

    def __post_init__(self) -> None:
        self.engine = Engine(self.embedder, self.config.batch_tokens, self.config.batch_size)
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self.attention = self.embedder.runtime.attention
        remote = self.embedder.runtime.remote
        self._usage_before = replace(remote.usage) if remote else None

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Embedding {self.output.split}"

    def tokens_done(self) -> int:
        """Return the number of tokens that this process has computed."""
        return self.engine.tally.tokens

    def tasks(self) -> list[Task]:
        """Return one task for each file, or for each block of rows of a file."""
        whole = super().tasks()
        if self.block_rows is None:
            return whole
        return [block for task in whole for block in self._blocks(task, self.block_rows)]

    def _blocks(self, task: Task, size: int) -> list[Task]:
        rows = self.output.paragraphs[task.index].rows
        starts = range(0, rows, size) if rows > size else ()
        return [replace(task, name=f"{task.name}-{n}", rows=(n, min(n + size, rows))) for n in starts] or [task]

    def portable(self) -> EmbeddingRecipe:
        """Return the stage as other processes get it, after the calibration."""
        self._prepare()
        roots = self.reuse.roots if self.reuse else None
        recipe = (self.store, self.identity, self.config, self.output, self.overwrite, self.coding)
        return EmbeddingRecipe(*recipe, self.attention, roots, type(self))

    def for_worker(self, place: WorkerPlace) -> "SplitEmbeddings":
        """Return the stage itself, in the process that loaded the model."""
        del place
        return self

    def take_over(self, coding: Coding, attention: str) -> None:
        """Make it the stage of a worker.

        Args:
            coding: coding of the stored vectors, which may have been calibrated.
            attention: attention that the header of a file names.
        """
        self.coding, self.attention, self.is_worker = coding, attention, True
        special_tokens = special_tokens_of(self.store, self.embedder)
        self._shard_planner = ShardPlanner(self.embedder, coding, self.output.folder, special_tokens, self.reuse)
        self._prepared = True

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Embed one shard or block, while the next shard is planned in a thread."""
        shard, path = self.output.paragraphs[task.index], self.output.paths[task.index]
        with self._lock:
            self._prepare()
            planned = self._planned(task)
            del self._plans[task]
            if task.rows is None and not self.is_worker:
                self._planned_ahead(task.index)
        plan = planned.result()
        first, last = task.rows or (0, shard.rows)
        facts: dict[str, Any] = {"truncated": plan.truncated}
        if self._is_written(path, shard):
            # A crash came after the file was published and before the manifest recorded it.
            advance(last - first)
            return TaskResult(task.name, last - first, skipped=True, facts=facts)
        metadata = self._metadata(shard)
        file = FilePlan(path, shard.rows, self.coding, metadata, lambda row: row_id(shard, row), task.rows)
        copied = np.zeros(shard.rows, np.bool_)
        before = replace(self.engine.tally, recomputed=dict(self.engine.tally.recomputed))
        embed_to_file(
            file,
            self._windows(shard, path, plan, copied, (first, last)),
            self.engine,
            advance=advance,
            existing=self._existing(plan, copied),
            flush_s=self.config.flush_s,
            overwrite=self.overwrite,
        )
        with self.engine.lock:
            self.engine.tally.reused += int(copied.sum())
        if self.is_worker:
            facts["tally"] = tally_since(before, self.engine.tally)
        return TaskResult(task.name, last - first, facts=facts)

    def finish(self, results: Sequence[TaskResult]) -> SplitResult:
        """Write the manifest."""
        dim = self.embedder.identity.dim
        tally = with_workers(self.engine.tally, (result.facts.get("tally", {}) for result in results))
        if not results:
            manifest = read_manifest(self.output.folder, EmbeddingManifest)
            truncated = manifest["splits"][self.output.split]["truncated"] if manifest else 0
            return SplitResult(self.rows, dim, self.output.paths, EncodeStats(truncated=truncated), skipped=True)
        truncated = sum(result.facts["truncated"] for result in results)
        if self.output.finished_files():  # of the rows before the split grew
            manifest = read_manifest(self.output.folder, EmbeddingManifest)
            truncated += manifest["splits"][self.output.split]["truncated"] if manifest else 0
        self.output.record({"dim": dim, "truncated": truncated}, {"stage": "embeddings", "splits": {}})
        tally.usage = usage_since(self._usage_before, self.embedder.runtime.remote, self.name)
        new_rows = sum(result.rows for result in results if not result.skipped)
        return SplitResult(self.rows, dim, self.output.paths, tally, skipped=False, new_rows=new_rows)

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
        special_tokens = special_tokens_of(self.store, self.embedder)
        self._shard_planner = ShardPlanner(self.embedder, self.coding, folder, special_tokens, self.reuse)
        if (remote := self.embedder.runtime.remote) is not None:
            unwritten = [
                shard
                for shard, path in zip(output.paragraphs, output.paths, strict=True)
                if not self._is_written(path, shard)
            ]
            check_cost(remote, ((shard, self._shard_planner.rows_to_compute(shard)) for shard in unwritten), self.name)
        if is_new and not self.overwrite:
            self._reject_unlisted_files()
        self._prepared = True

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
            "attention": self.attention,
            "split": self.output.split,
            "package_version": version("elm-data-preparation"),
            "ids_sha256": shard.ids_sha256,
            "texts_sha256": shard.texts_sha256,
        }

    def _planned_ahead(self, index: int) -> None:
        """Plan the shard that is next, also after those that run at once with this one."""
        ahead = _SHARDS_AT_ONCE if self.embedder.runtime.remote else 1
        following = next((task for task in self._every_task if task.index == index + ahead), None)
        if following is not None:
            self._planned(following)

    @cached_property
    def _every_task(self) -> list[Task]:
        return self.tasks()

    def _planned(self, task: Task) -> Future[ShardPlan]:
        if task not in self._plans:
            self._plans[task] = self._planner.submit(self._plan, self.output.paragraphs[task.index], task.rows)
        return self._plans[task]

    def _existing(self, plan: ShardPlan, copied: NDArray[np.bool_]) -> Iterator[ExistingVectors]:
        """Read the vectors that exist already, and mark their rows in `copied`."""
        if self.reuse is None or plan.found is None:
            return
        for rows, vectors, is_coded in self.reuse.read(plan.found, self.coding):
            copied[rows] = True
            yield ExistingVectors(rows, vectors, is_coded)

    def _windows(
        self, shard: ParagraphShard, path: Path, plan: ShardPlan, copied: NDArray[np.bool_], span: tuple[int, int]
    ) -> Iterator[Window]:
        """Rows to compute: those without a vector, and those whose vector could not be copied after all."""
        yield Window(plan.rows, lambda: self._announced(plan.plan, path))
        left = np.setdiff1d(span[0] + np.flatnonzero(~copied[slice(*span)]), plan.rows)
        if len(left):
            yield Window(left, lambda: self._shard_planner.plan_rows(shard, left))

    def _plan(self, shard: ParagraphShard, span: tuple[int, int] | None) -> ShardPlan:
        started, tally = time.perf_counter(), self.engine.tally
        plan = self._shard_planner.plan(shard, span)
        with self.engine.lock:
            tally.planning_s += time.perf_counter() - started
            tally.truncated += plan.truncated
            tally.repeated += len(plan.plan.tokens) - len(plan.plan.order)
        return plan

    def _announced(self, plan: Plan, path: Path) -> Plan:
        """Return the plan after measuring the machine, if needed, and logging the amount of work."""
        engine = self.engine
        with self._lock:
            if not engine.flops_per_s:  # once per split, since the result holds for all shards
                tuned = tune(self.embedder, plan, self.config.batch_tokens, self.config.threads)
                engine.batch_tokens, engine.flops_per_s = tuned.batch_tokens, tuned.flops_per_s
        summary = plan.summary(self.embedder.runtime, engine.batch_tokens, engine.batch_size)
        expected = f", about {human_time(summary.flops / engine.flops_per_s)}" if engine.flops_per_s else ""
        logger.info(
            "%s: %s%s", path.name, summary.line(), expected + cost_of(self.embedder.runtime.remote, summary.tokens)
        )
        return plan


def row_id(shard: ParagraphShard, row: int) -> str:
    """Return the id of a row for a message; reads the file up to it."""
    for batch in shard.batches(["text_id"]):
        if row < batch.num_rows:
            return str(batch["text_id"][row].as_py())
        row -= batch.num_rows
    raise IndexError(f"{shard.path} has no row {row}")
