"""Stage that copies stored vectors to another data folder, for the rows of it that the source has too.

Vectors are copied as they are stored, bit by bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Config
from data_pipeline.errors import ShardMismatchError, StoreError
from data_pipeline.stages.base import Advance, Task, TaskResult
from data_pipeline.stages.embed import opens
from data_pipeline.stages.split_output import SplitOutput, SplitStage
from data_pipeline.store import ParagraphStore, open_embedding_shard, paragraphs_sha256, write_manifest
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.store.manifest import EmbeddingManifest, read_manifest
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.store.reader import open_rows
from data_pipeline.types import IntArray, Split

_COPIED_ROWS = 8192
_FLUSHED_BLOCKS = 32  # copied blocks between two records of progress


@dataclass(frozen=True)
class CopiedSplit:
    """Result of copying the embeddings of a split."""

    rows: int
    skipped: bool


class CopiedEmbeddings(SplitStage):
    """Stage that copies the stored vectors of the kept rows of a split.

    Args:
        config: settings of the source.
        embeddings: manifest of the embeddings of the source.
        store: paragraphs of the result, in the order of the source.
        split: split to copy.
        folder: folder of the copied embeddings.
        overwrite: whether to discard unfinished work with other settings.
        source_rows: row number in the files of the source of each row of the result, shape (N,); None to find them by
            their ids.
        keeps_listed: see `SplitOutput.keeps_listed`.
    """

    def __init__(
        self,
        config: Config,
        embeddings: EmbeddingManifest,
        store: ParagraphStore,
        split: Split,
        folder: Path,
        overwrite: bool,
        source_rows: IntArray | None = None,
        keeps_listed: bool = False,
    ) -> None:
        self._config, self._embeddings, self._split, self._overwrite = config, embeddings, split, overwrite
        self._listed = embeddings["splits"][split]
        shards = store.listed(split)
        self.output = SplitOutput(
            folder=folder,
            split=split,
            manifest_type=EmbeddingManifest,
            stem=f"{split}_embeddings",
            ending=".safetensors",
            settings=self._listed["settings"],
            upstream=paragraphs_sha256(shards),
            corpus=self._listed["corpus"],
            paragraphs=shards,
            is_whole=opens,
            remakes_damaged=True,
            keeps_listed=keeps_listed,
        )
        self._kept = source_rows

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Copying embeddings of {self._split}"

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Copy the vectors of one file, resuming where an earlier run stopped."""
        rows = open_rows(self._config, self._split, scores=[])
        first, shard, path = rows.first_shard, self.output.paragraphs[task.index], self.output.paths[task.index]
        hashes = {"ids_sha256": shard.ids_sha256, "texts_sha256": shard.texts_sha256}
        metadata = {**first.metadata, **hashes}
        if _is_written(path, shard.rows, metadata):
            advance(shard.rows)
            return TaskResult(task.name, shard.rows, skipped=True)
        start = sum(other.rows for other in self.output.paragraphs[: task.index])
        source_rows = self._kept_rows()[start : start + shard.rows]
        writer = EmbeddingWriter(path, shard.rows, first.dim, first.coding, metadata, self._overwrite)
        advance(int(writer.done.sum()))
        for number, target_rows in enumerate(_blocks(np.flatnonzero(~writer.done)), start=1):
            block = source_rows[target_rows]
            rows.prepare(block, 1, texts=False, vectors=True)
            writer.write_stored(target_rows, rows.stored.gather(block))
            if number % _FLUSHED_BLOCKS == 0:
                writer.flush()
            advance(len(target_rows))
        writer.finish()
        return TaskResult(task.name, shard.rows)

    def finish(self, results: Sequence[TaskResult]) -> CopiedSplit:
        """Write the manifest."""
        if results:
            calibration = self._embeddings.get("calibration")
            empty: dict[str, Any] = {"stage": "embeddings", "splits": {}}
            existing = read_manifest(self.output.folder, EmbeddingManifest)
            if calibration is not None:
                empty["calibration"] = calibration
                if existing is not None and existing.get("calibration") != calibration:
                    write_manifest(self.output.folder, {**existing, "calibration": calibration})
            # The number of truncated texts is that of the source, an upper limit.
            facts = {"dim": self._listed["dim"], "truncated": self._listed["truncated"]}
            self.output.record(facts, empty)
        return CopiedSplit(self.rows, skipped=not results)

    def _kept_rows(self) -> IntArray:
        """Row numbers in the source of the rows that are kept, by their ids."""
        if self._kept is None:
            wanted = _ids(self.output.paragraphs)
            text_id = next(wanted, None)
            positions = []
            source = ParagraphStore(self._config.processed_dir)
            for row, existing in enumerate(_ids(source.listed(self._split))):
                if existing == text_id:
                    positions.append(row)
                    text_id = next(wanted, None)
            if text_id is not None:
                raise ShardMismatchError(
                    f"{self.output.paragraphs[0].path.parent} has the row {text_id!r}, which is not in "
                    f"{source.folder} in that order. Run again with --overwrite."
                )
            self._kept = np.array(positions, np.int64)
        return self._kept


def _ids(shards: Sequence[ParagraphShard]) -> Iterator[str]:
    for shard in shards:
        for batch in shard.batches(["text_id"]):
            yield from batch["text_id"].to_pylist()


def _blocks(rows: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(rows), _COPIED_ROWS):
        yield rows[start : start + _COPIED_ROWS]


def _is_written(path: Path, rows: int, metadata: Mapping[str, str]) -> bool:
    try:
        existing = open_embedding_shard(path)
    except StoreError:
        return False
    return existing.rows == rows and existing.metadata == metadata
