"""Stage that makes the sparse vectors of the paragraph shards of a split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

from data_pipeline.config.sparse import SparseConfig
from data_pipeline.embeddings.sparse.encoder import SparseEncoder
from data_pipeline.embeddings.sparse.to_file import SparseFile, embed_to_sparse_file
from data_pipeline.errors import ShardMismatchError, StoreError
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, WorkerPlace, run_in_order, run_stage
from data_pipeline.stages.embed import row_id
from data_pipeline.stages.split_output import SplitOutput, SplitStage
from data_pipeline.store import ColumnHash, ParagraphShard, ParagraphStore, paragraphs_sha256
from data_pipeline.store.manifest import ShardRecord, SparseManifest
from data_pipeline.store.sparse import open_sparse_shard, sparse_precision
from data_pipeline.types import Split

BLOCK_ROWS = 8192
"""Rows of a block, which is computed whole: a killed run repeats no more than one."""


@dataclass(frozen=True)
class SparseResult:
    """Result of making the sparse vectors of one split."""

    rows: int
    width: int
    """Number of words of the model's vocabulary."""
    files: list[Path]
    skipped: bool
    """Whether an earlier run finished the split."""


@dataclass(frozen=True)
class SparseSplit(SplitStage):
    """Stage that makes the sparse vectors of one split."""

    encoder: SparseEncoder
    output: SplitOutput
    config: SparseConfig | None = None
    """Settings that the model is loaded with; None if other processes cannot load it."""
    on_device = True

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Sparse vectors of {self.output.split}"

    def portable(self) -> "SparseRecipe":
        """Return the stage as other processes get it."""
        assert self.config is not None
        return SparseRecipe(self.output, self.config)

    def for_worker(self, place: WorkerPlace) -> Self:
        """Return the stage itself, in the process that loaded the model."""
        del place
        return self

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Make the sparse vectors of one shard."""
        shard, path = self.output.paragraphs[task.index], self.output.paths[task.index]
        metadata = self._metadata(shard)
        if _is_written(path, shard, metadata):
            # A crash came after the file was published and before the manifest recorded it.
            advance(shard.rows)
            return TaskResult(task.name, shard.rows, skipped=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = SparseFile(path, shard.rows, metadata, row_name=lambda row: row_id(shard, row))
        embed_to_sparse_file(file, _blocks(shard), self.encoder, advance)
        return TaskResult(task.name, shard.rows)

    def finish(self, results: Sequence[TaskResult]) -> SparseResult:
        """Write the manifest."""
        width = self.encoder.identity.dim
        if results:
            self.output.record({"dim": width}, {"stage": "sparse", "splits": {}})
        return SparseResult(self.rows, width, self.output.paths, skipped=not results)

    def _metadata(self, shard: ParagraphShard) -> dict[str, str]:
        return {
            **{name: str(value) for name, value in self.output.settings.items()},
            "split": self.output.split,
            "package_version": version("elm-data-preparation"),
            "ids_sha256": shard.ids_sha256,
            "texts_sha256": shard.texts_sha256,
        }


@dataclass(frozen=True)
class SparseRecipe(SplitStage):
    """The stage `SparseSplit` as other processes get it."""

    output: SplitOutput
    config: SparseConfig
    name = "Sparse vectors"

    def portable(self) -> Self:
        """Return the recipe."""
        return self

    def for_worker(self, place: WorkerPlace) -> SparseSplit:
        """Load the model on the device of a worker."""
        from data_pipeline.embeddings.sparse.load import load_sparse_encoder  # which imports torch

        config = self.config.model_copy(update={"device": place.device}) if place.device else self.config
        return SparseSplit(load_sparse_encoder(config), self.output, config)

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Refuse: a worker runs the stage that `for_worker` makes."""
        raise NotImplementedError

    def finish(self, results: Sequence[TaskResult]) -> None:
        """Leave the manifest to the process that waits for the workers."""


def make_sparse_vectors(
    store: ParagraphStore,
    split: Split,
    encoder: SparseEncoder,
    folder: Path,
    overwrite: bool = False,
    config: SparseConfig | None = None,
    execute: Executor = run_in_order,
) -> SparseResult:
    """Make the sparse vectors of a split, resuming where an earlier run stopped.

    Args:
        store: paragraphs of the corpus.
        split: split to encode.
        encoder: the model.
        folder: `data/sparse`, or the folder of a variant.
        overwrite: whether to replace vectors that were made with other settings or are damaged.
        config: settings that other processes load the model with; None to use this process only.
        execute: runs the tasks.

    Raises:
        StaleStageError: the split was encoded with other settings, and `overwrite` is false.
        ModelError: a vector cannot be computed.
        ShardMismatchError: the paragraphs changed while they were read.
    """
    shards = store.listed(split)
    output = SplitOutput(
        folder=folder,
        split=split,
        manifest_type=SparseManifest,
        stem=f"{split}_sparse",
        ending=".safetensors",
        settings={**encoder.identity.to_metadata(), "precision": sparse_precision(encoder.identity.dtype)},
        upstream=paragraphs_sha256(shards),
        corpus=store.corpus,
        paragraphs=shards,
        is_whole=_opens,
        remakes_damaged=True,
    )
    execute = run_in_order if config is None else execute
    return run_stage(SparseSplit(encoder, output, config), overwrite=overwrite, execute=execute)


def _opens(path: Path, record: ShardRecord) -> bool:
    """Return whether a file has a valid header and the right size."""
    del record
    try:
        open_sparse_shard(path)
    except StoreError:
        return False
    return True


def _is_written(path: Path, shard: ParagraphShard, metadata: dict[str, str]) -> bool:
    try:
        existing = open_sparse_shard(path)
    except StoreError:
        return False
    return existing.rows == shard.rows and existing.metadata == metadata


def _blocks(shard: ParagraphShard) -> Iterator[tuple[int, list[str]]]:
    """Texts of a shard in blocks, with the row of the first.

    Raises:
        ShardMismatchError: the file has changed since it was opened.
    """
    seen_ids, seen_texts = ColumnHash(), ColumnHash()
    start = 0
    for batch in shard.batches(["text_id", "text"], BLOCK_ROWS):
        ids, texts = batch["text_id"].to_pylist(), batch["text"].to_pylist()
        seen_ids.update(ids)
        seen_texts.update(texts)
        yield start, texts
        start += len(texts)
    if (seen_ids.hexdigest(), seen_texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        raise ShardMismatchError(f"{shard.path} was changed while it was being encoded, or is damaged. Run again.")
