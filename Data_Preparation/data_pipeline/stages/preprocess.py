"""Stage that writes the paragraphs of a corpus to `data/<corpus>_processed`.

All files are written to a new folder, which replaces the old one when it is complete.
"""

import json
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Config, CorpusConfig
from data_pipeline.download import Corpus
from data_pipeline.embeddings import tokenizer_sha256
from data_pipeline.errors import CorruptShardError, SourceError, StaleStageError, StoreError
from data_pipeline.preprocess.bad_records import RecordCounts
from data_pipeline.preprocess.decontamination import Decontamination
from data_pipeline.preprocess.growth import write_growth
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.row_filters import filters_identity
from data_pipeline.preprocess.units import Totals, UnitSource, read_counts
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, run_in_order, run_stage
from data_pipeline.stages.leakage import measure_leakage
from data_pipeline.stages.licenses import licenses_of, record_licenses
from data_pipeline.stages.paragraph_job import ParagraphJob, ledgers_of
from data_pipeline.stages.paragraph_steps import WriteShards, deciding_steps, reading_steps
from data_pipeline.store import ParagraphShard, ParagraphStore, write_manifest
from data_pipeline.store.documents import DOCUMENTS, document_tables
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES
from data_pipeline.store.hashing import digests_path
from data_pipeline.store.manifest import (
    AppendedSource,
    ParagraphManifest,
    ParagraphSplit,
    ShardEntry,
    check_fresh,
    fingerprint,
    read_manifest,
    read_manifest_to_replace,
    version_of,
)
from data_pipeline.store.versions import carry_versions, keep_embeddings, keep_version
from data_pipeline.types import SPLITS, EvaluationSet, IntArray
from data_pipeline.utils import atomic_write_json, sha256_of_file
from data_pipeline.utils.files import link_or_copy
from data_pipeline.utils.folders import new_folder, replace_folder
from data_pipeline.utils.system import fsync_path
from data_pipeline.utils.urls import without_secrets

logger = logging.getLogger(__name__)

_MUCH = 0.5  # of the tokens of a corpus

_SPLIT = "|".join(SPLITS)
_PROCESSED_FILE = re.compile(
    r"manifest\.json|\.versions|(dropped|dropped_examples|deleted|\.set_aside)\.parquet|\.documents\.arrow|"
    r"staging|staging new|unordered|documents|"
    rf"({_SPLIT})(-v\d+)?(-\d{{5}}-of-\d{{5}})?\.parquet|({_SPLIT})(-v\d+)?\.\d+\.tmp|\..*\.tmp|\.cache"
)


@dataclass(frozen=True)
class ParagraphOutput:
    """Output folder of the paragraphs of a corpus."""

    folder: Path
    """Path of the folder, `data/<corpus>_processed`."""
    settings: Mapping[str, Any]
    """Settings that decide the rows and their order, as JSON values."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the settings, which include the identity of the corpus."""
        return fingerprint(self.settings, "")

    def is_finished(self, overwrite: bool) -> bool:
        """Return whether the paragraphs are complete and were made with the same fingerprint."""
        try:
            manifest = read_manifest(self.folder, ParagraphManifest)
        except CorruptShardError:
            if not overwrite:
                raise
            return False
        if manifest is None:
            if any((self.folder / f"{split}.parquet").exists() for split in SPLITS) and not overwrite:
                raise StaleStageError(
                    f"{self.folder} holds paragraphs without a manifest, made by another version. Pass --overwrite to "
                    "replace them, use them without the corpus (elm run --skip-download), or set another data_dir."
                )
            return False
        if not overwrite:
            check_fresh(manifest, self.settings, "", self.folder)
        if manifest["fingerprint"] != self.fingerprint:
            return False
        try:
            ParagraphStore(self.folder).check()
        except StoreError:
            if not overwrite:
                raise
            return False
        return not overwrite or (self._has_right_bytes(manifest) and (self.folder / DOCUMENTS).exists())

    def _has_right_bytes(self, manifest: ParagraphManifest) -> bool:
        return all(
            sha256_of_file(self.folder / Path(shard["file"]).name) == shard["sha256"]
            for split in manifest["splits"].values()
            for shard in split["shards"]
        )


@dataclass(frozen=True)
class Source:
    """A corpus, and the settings that it is opened with."""

    corpus: Corpus
    config: CorpusConfig

    @property
    def settings(self) -> dict[str, Any]:
        """Settings and identity that decide the documents, as JSON values."""
        deciding = self.config.deciding()
        settings = {"source": deciding.pop("source"), "identity": dict(self.corpus.identity), **deciding}
        return dict(json.loads(json.dumps(settings)))

    def described(self) -> AppendedSource:
        """Return the entry in the manifest of paragraphs that the source was appended to."""
        return {"corpus": self.corpus.description, "settings": self.settings}

    def record(self, root: Path | None) -> dict[str, Any]:
        """Return the settings that the source can be opened with again; see `Documents.sources`.

        Args:
            root: folder that paths are recorded relative to; None for absolute paths.
        """
        config = self.config.model_dump(mode="json", exclude_defaults=True, exclude={"name", "on_changed"})
        if "path" in config:
            config["path"] = [_recorded(path, root) for path in self.config.path]
        return config


def _recorded(path: str, root: Path | None) -> str:
    """Path relative to a folder or absolute, or a URL without its secrets."""
    if "://" in path:
        return without_secrets(path)
    if root is None:
        return Path(os.path.abspath(path)).as_posix()
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # on another drive of Windows
        return str(Path(path).resolve())


@dataclass(frozen=True)
class CorpusParagraphs:
    """Stage that prepares the paragraphs of a corpus, in the steps of `paragraph_steps`."""

    config: Config
    corpus: Corpus
    tokenizer: Any
    evaluation_sets: Sequence[EvaluationSet] = ()
    open_appended: Callable[[], Sequence[Source]] = tuple
    """Opens the sources that were appended to the paragraphs, which are made again with them."""
    execute: Executor = run_in_order
    """Runs the tasks of the steps."""
    name: str = "Preparing paragraphs"
    rows: int = 0  # the steps show progress of their own
    unit: str = "row"
    output: ParagraphOutput = field(init=False)

    def __post_init__(self) -> None:
        settings = paragraph_settings(self.config, self.corpus, self.tokenizer, self.evaluation_sets)
        object.__setattr__(self, "output", ParagraphOutput(self.config.processed_dir, settings))

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
        """Write all paragraphs to a new folder, and replace the old one by it."""
        logger.info("reading %s", self.corpus.description)
        config = self.config
        previous = read_manifest_to_replace(self.output.folder, overwrite=True, kind=ParagraphManifest)
        if previous is not None and not _is_same_version(previous, self.output):
            keep_embeddings(config.data_dir / "embeddings", ParagraphStore(self.output.folder), config.storage.versions)
        sources = [Source(self.corpus, config.corpus), *self.open_appended()]
        decontamination = Decontamination(config.decontamination, self.evaluation_sets)
        manifest = write_paragraphs(config, self.tokenizer, sources, self.output, decontamination, self.execute)
        return TaskResult(task.name, manifest["counts"]["kept"])

    def finish(self, results: Sequence[TaskResult]) -> "PreparedParagraphs":
        """Read the manifest, which was published with the folder, and remove what an interrupted run left."""
        shutil.rmtree(work_folder(self.output.folder), ignore_errors=True)
        manifest = read_manifest(self.output.folder, ParagraphManifest)
        assert manifest is not None
        if not results and (given := self.config.corpus.license):  # it decides no bytes, so that nothing is made again
            recorded = licenses_of(manifest)
            record_licenses(manifest, [*recorded, given] if manifest.get("appended") else [given])
            if licenses_of(manifest) != recorded:
                write_manifest(self.output.folder, manifest)
        return PreparedParagraphs(manifest, skipped=not results)


@dataclass(frozen=True)
class PreparedParagraphs:
    """Result of preparing paragraphs."""

    manifest: ParagraphManifest
    skipped: bool
    """Whether an earlier run wrote the paragraphs."""


def write_paragraphs(
    config: Config,
    tokenizer: Any,
    sources: Sequence[Source],
    output: ParagraphOutput,
    decontamination: Decontamination | None = None,
    execute: Executor = run_in_order,
) -> ParagraphManifest:
    """Write the paragraphs of a corpus, or of several as one, to the parquet files of a processed folder.

    Memory grows with the corpus only by 12 bytes per row for duplicates, ids and the split, 8 bytes per row for near
    deduplication, and 8 bytes per row of the test split; for decontamination see `match_part`.

    Args:
        config: settings of the paragraphs.
        tokenizer: tokenizer that counts tokens.
        sources: corpora to read, in order, which have the same metadata.
        output: output folder, which is replaced when all files are written.
        decontamination: settings of decontamination, and the evaluation sets.
        execute: runs the tasks of the steps.

    Returns:
        The manifest of the folder.

    Raises:
        SourceError: the corpus cannot be read, has duplicate ids, or has no paragraph that passes the filters.
    """
    started = time.monotonic()
    work = work_folder(output.folder)
    job = ParagraphJob(config, tokenizer, _units(sources), sources[0].corpus.on_duplicate_id, work)
    _prepare_work(work, output, can_resume=all(source.config.source != "function" for source in sources))
    try:
        for step in reading_steps(job):
            run_stage(step, execute=execute)
        totals = _check_units(job, sources)
        for step in [*deciding_steps(job, decontamination or Decontamination()), WriteShards(job)]:
            run_stage(step, execute=execute)
    except SourceError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    new = new_folder(output.folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    manifest = _write_manifest(job, new, sources, totals, output)
    seconds, kept = time.monotonic() - started, manifest["counts"]["kept"]
    logger.info("%s paragraphs written in %.1f s (tokens counted by %s)", f"{kept:,}", seconds, totals.token_counter)
    for name, entry in manifest["splits"].items():
        if entry["rows"] == 0:
            logger.warning("the split %s is empty, since the corpus is small for these ratios", name)
    # Leakage is measured on the written files, as a user reads them.
    manifest["leakage"] = measure_leakage(new, config.preprocess.near_threshold, execute)
    if (number := _keep_versions(output, new, config.storage.versions)) > 1:
        manifest["version"] = number
    write_manifest(new, manifest)
    fsync_path(new)
    replace_folder(output.folder, is_processed_file)
    shutil.rmtree(work)
    return manifest


def work_folder(folder: Path) -> Path:
    """Return the folder that the steps share while they make the paragraphs of a folder."""
    return folder.with_name(f".{folder.name}.work")


def _units(sources: Sequence[Source]) -> tuple[UnitSource, ...]:
    return tuple(
        UnitSource(unit, number, dict(source.corpus.metadata), source.corpus.max_bad_share, is_first=place == 0)
        for number, source in enumerate(sources)
        for place, unit in enumerate(source.corpus.units())
    )


def _prepare_work(work: Path, output: ParagraphOutput, can_resume: bool) -> None:
    """Keep what an interrupted run of the same version of this package left, if it was made with the same settings."""
    made = {"fingerprint": output.fingerprint, "package_version": version("elm-data-preparation")}
    record = work / "job.json"
    if can_resume and record.exists() and json.loads(record.read_bytes()) == made:
        logger.info("going on with the work of an interrupted run in %s", work)
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    atomic_write_json(record, made)


def _check_units(job: ParagraphJob, sources: Sequence[Source]) -> Totals:
    """Check what was read; returns the counts of all units.

    Raises:
        SourceError: there are too many bad records, or no paragraph passed the filters.
    """
    totals, records = Totals(), [RecordCounts() for _ in sources]
    for unit, folder in zip(job.units, job.unit_folders, strict=True):
        counts = read_counts(folder)
        totals.add(counts)
        records[unit.source].add(counts.records)
    for source, counted in zip(sources, records, strict=True):
        counted.check(source.corpus.max_bad_share)
        counted.log()
    if not totals.read.rows:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in totals.dropped.most_common())
        share, max_tokens = totals.long_share, job.config.preprocess.max_tokens
        raise SourceError(
            f"none of the paragraphs of {sources[0].corpus.description} passed the filters "
            f"({totals.read.documents:,} documents; dropped: {reasons or 'nothing, there were none'})"
            + (f". {too_long_advice(share, max_tokens)}" if share > _MUCH else "")
        )
    return totals


def _write_manifest(
    job: ParagraphJob, new: Path, sources: Sequence[Source], totals: Totals, output: ParagraphOutput
) -> ParagraphManifest:
    """Complete the new folder but for its leakage and versions, and return its manifest."""
    files = WriteShards(job)
    (new / ".cache").mkdir()
    splits: dict[str, ParagraphSplit] = {}
    for split, entries in files.entries().items():
        for entry in entries:
            link_or_copy(files.folder / entry.file, new / entry.file)
            digests = digests_path(files.folder, entry.texts_sha256)
            if not (copied := new / ".cache" / digests.name).exists():  # another file may have the same texts
                link_or_copy(digests, copied)
        splits[split] = described_split(new, entries)
    assigned, listed = files.assigned, (document_tables(folder / "documents.arrow") for folder in job.unit_folders)
    recorded = [source.record(job.config.sources_root) for source in sources]
    documents = totals.read.documents
    write_growth(new, files.staging, assigned, files.schema, chain.from_iterable(listed), documents, recorded)
    dropped = DropLedger(new / DROPPED, job.config.decontamination.is_on)
    for path in [*(folder / DROPPED for folder in job.unit_folders), *ledgers_of(job)]:
        dropped.copy_file(path)
    dropped.close()
    kept = int(assigned.keep.sum())
    _check_totals(totals.read.paragraphs, kept, dropped.counts, splits)
    manifest: ParagraphManifest = {
        "stage": "preprocess",
        "fingerprint": output.fingerprint,
        "settings": dict(output.settings),
        "upstream": "",
        "corpus": " and ".join(source.corpus.description for source in sources),
        "counts": {
            "documents": documents,
            "paragraphs": totals.read.paragraphs,
            "kept": kept,
            "dropped": dict(dropped.counts.most_common()),
            "token_counter": totals.token_counter,
        },
        "dropped_sha256": sha256_of_file(new / DROPPED),
        "dropped_examples_sha256": sha256_of_file(new / DROPPED_EXAMPLES),
        "splits": splits,
    }
    record_licenses(manifest, (source.corpus.license for source in sources))
    if sources[1:]:
        manifest["appended"] = [source.described() for source in sources[1:]]
    if totals.personal_data:
        manifest["counts"]["personal_data"] = dict(totals.personal_data.most_common())
    if totals.long_share > _MUCH:
        manifest["counts"]["too_long_token_share"] = round(totals.long_share, 4)
    write_manifest(new, manifest)
    return manifest


def _keep_versions(output: ParagraphOutput, new: Path, count: int) -> int:
    """Link the earlier versions of a folder into the one that replaces it; returns the number of the new version."""
    previous = read_manifest_to_replace(output.folder, overwrite=True, kind=ParagraphManifest)
    if previous is None:
        return 1
    number = version_of(previous)
    is_same = _is_same_version(previous, output)
    carry_versions(output.folder, new, count if is_same else count - 1)
    if is_same:
        return number
    if count:
        keep_version(output.folder, previous, number, new)
    return number + 1


def _is_same_version(previous: ParagraphManifest, output: ParagraphOutput) -> bool:
    """Return whether paragraphs are replaced by the same ones, because they are damaged."""
    return previous["fingerprint"] == output.fingerprint and "changes" not in previous


def paragraph_settings(
    config: Config, corpus: Corpus, tokenizer: Any, evaluation_sets: Sequence[EvaluationSet]
) -> dict[str, Any]:
    """Return the settings that decide the paragraphs, as JSON values."""
    settings = {
        "corpus": Source(corpus, config.corpus).settings,
        "preprocess": config.preprocess.deciding(),
        "split": config.split.deciding(),
        "storage": config.storage.deciding(),
        "tokenizer": tokenizer_sha256(tokenizer),
    }
    if filters := filters_identity(config.filters):
        settings["filters"] = filters
    if config.decontamination.is_on:
        sets = [dict(evaluation_set.identity) for evaluation_set in evaluation_sets]
        settings["decontamination"] = {"sets": sets, **config.decontamination.deciding()}
    return dict(json.loads(json.dumps(settings)))


def too_long_advice(share: float, max_tokens: int) -> str:
    """Describe how to keep text of which much was dropped because its paragraphs are too long.

    Args:
        share: share of the tokens that were dropped, 0 to 1.
        max_tokens: maximum length of a paragraph.
    """
    return (
        f"{share:.0%} of the tokens are in paragraphs of more than {max_tokens:,} tokens (preprocess.max_tokens). Cut "
        "documents into chunks (preprocess.unit: chunk) or long paragraphs only (preprocess.too_long: chunk)"
    )


def described_split(
    store_folder: Path, entries: Sequence[ShardEntry], deleted: IntArray | None = None
) -> ParagraphSplit:
    """Make the manifest entry of a split: its shards, and the sums over the rows that are not deleted.

    Args:
        store_folder: folder of the files.
        entries: manifest entries of the shards, in order.
        deleted: row numbers of deleted rows, ascending; None for none.
    """
    shards = [ParagraphShard(**asdict(entry), path=store_folder / entry.file) for entry in entries]
    sums = {}
    for column in ("token_count", "char_count"):
        numbers = np.concatenate([shard.numbers(column) for shard in shards])
        sums[column] = int(numbers.sum() - (0 if deleted is None else numbers[deleted].sum()))
    rows = sum(entry.rows for entry in entries) - (0 if deleted is None else len(deleted))
    return {
        "rows": rows,
        "tokens": sums["token_count"],
        "characters": sums["char_count"],
        "shards": [entry.to_json() for entry in entries],
    }


def _check_totals(paragraphs: int, kept: int, dropped: Counter[str], splits: Mapping[str, ParagraphSplit]) -> None:
    """Check that every paragraph is in a split or in `dropped.parquet`."""
    written = sum(entry["rows"] for entry in splits.values())
    if paragraphs != kept + dropped.total() or kept != written:
        raise StoreError(
            f"{paragraphs} paragraphs were read, {kept} kept, {written} written and {dropped.total()} dropped: some "
            "were lost. This is a fault of this program; please report it. Nothing was replaced."
        )


def is_processed_file(name: str) -> bool:
    """Return whether this package or the original pipeline writes a file of this name to a processed folder."""
    return _PROCESSED_FILE.fullmatch(name) is not None
