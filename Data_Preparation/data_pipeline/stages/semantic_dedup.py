"""Stage that writes a dataset without semantic duplicates, and without rows that repeat evaluation items.

    paragraphs and embeddings of a data folder -> the rows to drop -> paragraphs and embeddings of another folder

The source is never changed. Vectors are copied as they are stored, bit by bit; scores and selections are not copied,
since they belong to the rows of the source.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.config import Config
from data_pipeline.config.semantic_dedup import SemanticDedupConfig
from data_pipeline.download.evaluation_sets import open_evaluation_sets
from data_pipeline.errors import ConfigError, NotFoundError, ShardMismatchError, StoreError
from data_pipeline.preprocess import leakage
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.stages.base import Advance, Task, TaskResult, run_stage
from data_pipeline.stages.embed import opens
from data_pipeline.stages.preprocess import ParagraphOutput, PreparedParagraphs, is_processed_file
from data_pipeline.stages.semantic_marks import find_marks, read_marks
from data_pipeline.stages.split_output import SplitOutput
from data_pipeline.store import ParagraphStore, open_embedding_shard, paragraphs_sha256, write_manifest
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, ParagraphSplit, read_manifest
from data_pipeline.store.paragraphs import ParagraphShard, ParagraphWriter
from data_pipeline.store.reader import open_rows
from data_pipeline.types import SPLITS, EvaluationSet, IntArray, Split
from data_pipeline.utils import exclusive, sha256_of_file
from data_pipeline.utils.folders import new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path

_COPIED_ROWS = 8192
_FLUSHED_BLOCKS = 32  # copied blocks between two records of progress
# Settings of the decontamination of texts, which decide nothing here.
_OF_TEXTS = ("methods", "ngram_words", "min_words", "min_overlap")


@dataclass(frozen=True)
class SemanticDedupResult:
    """Result of semantic deduplication."""

    folder: Path
    """Data folder of the result."""
    manifest: ParagraphManifest
    rows: Mapping[Split, int]
    """Number of embedded rows of each split."""
    skipped: bool
    """Whether an earlier run wrote the result."""


def semantic_dedup(
    config: Config, dedup: SemanticDedupConfig, to_dir: Path, overwrite: bool = False
) -> SemanticDedupResult:
    """Write a dataset without semantic duplicates and without rows that repeat evaluation items.

    Finished work is skipped, and interrupted work resumes.

    Args:
        config: data folder, corpus and variant of the source; `decontamination` names evaluation sets, and says whether
            rows of train that repeat val or test are dropped.
        dedup: thresholds and clustering.
        to_dir: data folder of the result.
        overwrite: whether to replace a result that was made with other settings or is damaged.

    Raises:
        ConfigError: `to_dir` is the folder of the source.
        NotFoundError: the source has no paragraphs or no embeddings.
        StaleStageError: the result was made with other settings, and `overwrite` is false.
        StoreError: the source has no manifest, or is damaged.
    """
    if to_dir.resolve() == config.data_dir.resolve():
        raise ConfigError(
            f"to_dir is the folder of the source, {config.data_dir}, which is never changed. Name another folder."
        )
    target = config.model_copy(update={"data_dir": to_dir})
    stage = DedupedParagraphs(config, dedup, target.processed_dir, open_evaluation_sets(config.decontamination))
    with exclusive(target.processed_dir), exclusive(target.embeddings_dir):
        recover_folder(target.processed_dir, is_processed_file)
        prepared = run_stage(stage, overwrite=overwrite)
        stage.marks_path.unlink(missing_ok=True)
        store, skipped, rows = ParagraphStore(target.processed_dir), prepared.skipped, {}
        for split in stage.embedded:
            copied = run_stage(
                CopiedEmbeddings(stage, store, split, target.embeddings_dir, overwrite), overwrite=overwrite
            )
            rows[split] = copied.rows
            skipped &= copied.skipped
    return SemanticDedupResult(to_dir, prepared.manifest, rows, skipped)


@dataclass
class DedupedParagraphs:
    """Stage that writes the paragraphs that are kept; one task, since duplicates are found among all rows."""

    config: Config
    dedup: SemanticDedupConfig
    folder: Path
    evaluation_sets: Sequence[EvaluationSet]
    name: str = "Semantic deduplication"
    rows: int = 0
    output: ParagraphOutput = field(init=False)
    source: ParagraphStore = field(init=False)
    manifest: ParagraphManifest = field(init=False)
    embeddings: EmbeddingManifest = field(init=False)

    def __post_init__(self) -> None:
        self.source = ParagraphStore(self.config.processed_dir)
        embeddings = read_manifest(self.config.embeddings_dir, EmbeddingManifest)
        if embeddings is None or "train" not in embeddings["splits"]:
            raise NotFoundError(
                f"there are no embeddings for train in {self.config.embeddings_dir}. Make them with: elm embed"
            )
        if self.source.manifest is None:
            raise StoreError(
                f"{self.source.folder} has no manifest: an older pipeline wrote it. Make it again with: elm run"
            )
        self.manifest, self.embeddings = self.source.manifest, embeddings
        for split in self.dedup.dedup_splits:
            if split not in embeddings["splits"]:
                raise NotFoundError(
                    f"dedup_splits: there are no embeddings for {split} in {self.config.embeddings_dir}"
                )
        settings = {**self.manifest["settings"], "semantic_dedup": self._settings()}
        self.output = ParagraphOutput(self.folder, json.loads(json.dumps(settings)))

    @property
    def embedded(self) -> list[Split]:
        """Splits that have embeddings."""
        return [split for split in SPLITS if split in self.embeddings["splits"]]

    @property
    def marks_path(self) -> Path:
        """File with the rows to drop, which exists until the paragraphs are written."""
        return self.folder.with_name(f".{self.folder.name}.marks.parquet")

    @property
    def outputs(self) -> list[ParagraphOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return self.output.fingerprint

    def tasks(self) -> list[Task]:
        """Return the only task."""
        return [Task("paragraphs")]

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Write the paragraphs to a new folder, and replace the old one by it."""
        marks = read_marks(
            self.marks_path, self.fingerprint(), lambda: find_marks(self.config, self.dedup, self.evaluation_sets)
        )
        new = new_folder(self.folder)
        if new.exists():
            shutil.rmtree(new)
        new.mkdir(parents=True)
        dropped = _copy_ledger(self.source.folder / "dropped.parquet", new / "dropped.parquet")
        splits: dict[str, ParagraphSplit] = {
            split: self._write_split(split, marks, new, dropped) for split in self.source.splits
        }
        dropped.close()
        counts = self.manifest["counts"]
        kept = sum(entry["rows"] for entry in splits.values())
        if counts["kept"] != kept + marks.num_rows:
            raise StoreError(
                f"{self.source.folder} lists {counts['kept']} rows, {kept} were kept and {marks.num_rows} dropped: "
                "some were lost. This is a fault of this program; please report it. Nothing was replaced."
            )
        manifest: ParagraphManifest = {
            **self.manifest,
            "fingerprint": self.output.fingerprint,
            "settings": dict(self.output.settings),
            "upstream": "",
            "counts": {**counts, "kept": kept, "dropped": dict(dropped.counts.most_common())},
            "dropped_sha256": sha256_of_file(new / "dropped.parquet"),
            "splits": splits,
        }
        write_manifest(new, manifest)
        manifest["leakage"] = leakage(ParagraphStore(new), self.manifest["settings"]["preprocess"]["near_threshold"])
        write_manifest(new, manifest)
        fsync_path(new)
        replace_folder(self.folder, is_processed_file)
        return TaskResult(task.name, kept)

    def finish(self, results: Sequence[TaskResult]) -> PreparedParagraphs:
        """Read the manifest, which was published with the folder."""
        manifest = read_manifest(self.folder, ParagraphManifest)
        assert manifest is not None
        return PreparedParagraphs(manifest, skipped=not results)

    def _settings(self) -> dict[str, Any]:
        decontamination = self.config.decontamination
        settings = self.dedup.deciding()
        if decontamination.is_on:
            shared = {name: value for name, value in decontamination.deciding().items() if name not in _OF_TEXTS}
            sets = [dict(evaluation_set.identity) for evaluation_set in self.evaluation_sets]
            settings["decontamination"] = {"sets": sets, **shared}
        settings["source"] = {
            "fingerprint": self.manifest["fingerprint"],
            "paragraphs": {split: paragraphs_sha256(self.source.listed(split)) for split in self.source.splits},
            "embeddings": {
                split: [shard["sha256"] for shard in self.embeddings["splits"][split]["shards"]]
                for split in SPLITS
                if split in self.embeddings["splits"]
            },
        }
        return settings

    def _write_split(self, split: Split, marks: pa.Table, new: Path, dropped: DropLedger) -> ParagraphSplit:
        """Write the kept rows of a split, and write down the others."""
        shards = self.source.shards(split)
        schema = pq.read_schema(shards[0].path).remove_metadata()
        writer = ParagraphWriter(new, split, schema, self.manifest["settings"]["storage"]["shard_rows"])
        marks = marks.filter(pc.equal(marks["split"], split))
        marked: IntArray = marks["row"].to_numpy()
        entry: ParagraphSplit = {"rows": 0, "tokens": 0, "characters": 0, "shards": []}
        start = 0
        for shard in shards:
            for batch in shard.batches(schema.names):
                first, last = np.searchsorted(marked, [start, start + batch.num_rows])
                rows = marked[first:last] - start
                for row, mark in zip(rows.tolist(), marks.slice(first, last - first).to_pylist(), strict=True):
                    text_id, document_id = (str(batch[name][row].as_py()) for name in ("text_id", "document_id"))
                    dropped.add(
                        text_id, document_id, "semantic_dedup", mark["reason"], mark["duplicate_of"], mark["overlap"]
                    )
                keep = np.ones(batch.num_rows, np.bool_)
                keep[rows] = False
                kept_rows = pa.Table.from_batches([batch.filter(pa.array(keep))], schema)
                writer.write(kept_rows)
                entry["rows"] += kept_rows.num_rows
                entry["tokens"] += sum(kept_rows["token_count"].to_pylist())
                entry["characters"] += sum(kept_rows["char_count"].to_pylist())
                start += batch.num_rows
        entry["shards"] = [listed.to_json() for listed in writer.close()]
        return entry


def _copy_ledger(source: Path, target: Path) -> DropLedger:
    ledger = DropLedger(target, with_overlap=True)
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                ledger.add(**row)
    return ledger


@dataclass(frozen=True)
class CopiedSplit:
    """Result of copying the embeddings of a split."""

    rows: int
    skipped: bool


class CopiedEmbeddings:
    """Stage that copies the stored vectors of the kept rows of a split.

    Args:
        paragraphs: stage that wrote the paragraphs.
        store: paragraphs that were written.
        split: split to copy.
        folder: folder of the copied embeddings.
        overwrite: whether to discard unfinished work with other settings.
    """

    def __init__(
        self, paragraphs: DedupedParagraphs, store: ParagraphStore, split: Split, folder: Path, overwrite: bool
    ) -> None:
        self._paragraphs, self._split, self._overwrite = paragraphs, split, overwrite
        self._listed = paragraphs.embeddings["splits"][split]
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
        )
        self._kept: IntArray | None = None

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Copying embeddings of {self._split}"

    @property
    def rows(self) -> int:
        """Number of rows that are copied."""
        return self.output.rows

    @property
    def outputs(self) -> list[SplitOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return self.output.fingerprint

    def tasks(self) -> list[Task]:
        """Return one task for each file."""
        return self.output.tasks()

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Copy the vectors of one file, resuming where an earlier run stopped."""
        rows = open_rows(self._paragraphs.config, self._split, scores=[])
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
            calibration = self._paragraphs.embeddings.get("calibration")
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
            for row, existing in enumerate(_ids(self._paragraphs.source.listed(self._split))):
                if existing == text_id:
                    positions.append(row)
                    text_id = next(wanted, None)
            if text_id is not None:
                raise ShardMismatchError(
                    f"{self.output.paragraphs[0].path.parent} has the row {text_id!r}, which is not in "
                    f"{self._paragraphs.source.folder} in that order. Run again with --overwrite."
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
