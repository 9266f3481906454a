"""Stage that writes a dataset without semantic duplicates, and without rows that repeat evaluation items.

    paragraphs and embeddings of a data folder -> the rows to drop -> paragraphs and embeddings of another folder

The source is never changed. Vectors are copied as they are stored, bit by bit; scores and selections are not copied,
since they belong to the rows of the source.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
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
from data_pipeline.errors import ConfigError, NotFoundError, StoreError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.stages.base import Advance, Task, TaskResult, run_stage
from data_pipeline.stages.copied_embeddings import CopiedEmbeddings
from data_pipeline.stages.leakage import measure_leakage
from data_pipeline.stages.preprocess import ParagraphOutput, PreparedParagraphs, is_processed_file
from data_pipeline.stages.semantic_marks import find_marks, read_marks
from data_pipeline.store import ParagraphStore, paragraphs_sha256, write_manifest
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES, read_dropped_examples
from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, ParagraphSplit, read_manifest
from data_pipeline.store.paragraphs import ParagraphWriter
from data_pipeline.types import SPLITS, EvaluationSet, IntArray, Split
from data_pipeline.utils import exclusive, sha256_of_file
from data_pipeline.utils.displays import Displayed
from data_pipeline.utils.folders import new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path

# Settings of the decontamination of texts, which decide nothing here.
_OF_TEXTS = ("methods", "ngram_words", "min_words", "min_overlap")


@dataclass(frozen=True, repr=False)
class SemanticDedupResult(Displayed):
    """Result of semantic deduplication."""

    folder: Path
    """Data folder of the result."""
    manifest: ParagraphManifest
    rows: Mapping[Split, int]
    """Number of embedded rows of each split."""
    skipped: bool
    """Whether an earlier run wrote the result."""

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        dropped = self.manifest["counts"]["dropped"]
        return [
            ("folder", str(self.folder)),
            ("dropped", ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "none"),
            *((split, f"{entry['rows']:,} rows") for split, entry in self.manifest["splits"].items()),
        ]


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
            copy = CopiedEmbeddings(config, stage.embeddings, store, split, target.embeddings_dir, overwrite)
            copied = run_stage(copy, overwrite=overwrite)
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
    unit: str = "row"
    output: ParagraphOutput = field(init=False)
    source: ParagraphStore = field(init=False)
    manifest: ParagraphManifest = field(init=False)
    embeddings: EmbeddingManifest = field(init=False)

    def __post_init__(self) -> None:
        self.source = ParagraphStore(self.config.processed_dir)
        if any(self.source.live_rows(split) is not None for split in self.source.splits):
            raise StoreError(f"{self.source.folder} has deleted rows, which cannot be copied. Run elm compact first")
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
        dropped = _copy_ledger(self.source.folder, new)
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
            "dropped_sha256": sha256_of_file(new / DROPPED),
            "dropped_examples_sha256": sha256_of_file(new / DROPPED_EXAMPLES),
            "splits": splits,
        }
        write_manifest(new, manifest)
        manifest["leakage"] = measure_leakage(new, self.manifest["settings"]["preprocess"]["near_threshold"])
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
                    of_row = [str(batch[name][row].as_py()) for name in ("text_id", "document_id", "text")]
                    text_id, document_id, text = of_row
                    about = mark["reason"], mark["duplicate_of"], text, mark["overlap"]
                    dropped.add(text_id, document_id, "semantic_dedup", *about)
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
    ledger = DropLedger(target / DROPPED, with_overlap=True)
    with pq.ParquetFile(source / DROPPED, pre_buffer=False) as file:
        for batch in file.iter_batches():
            ledger.copy(pa.Table.from_batches([batch]))
    if (examples := read_dropped_examples(source)) is not None:
        ledger.examples.merge(examples)
    return ledger
