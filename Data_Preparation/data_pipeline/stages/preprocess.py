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
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Config, CorpusConfig, PreprocessConfig, SplitConfig
from data_pipeline.download import Corpus
from data_pipeline.embeddings import tokenizer_sha256
from data_pipeline.errors import CorruptShardError, SourceError, StaleStageError, StoreError
from data_pipeline.preprocess import TokenCounter, leakage, load_fast_library
from data_pipeline.preprocess.bad_records import usable_documents
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS
from data_pipeline.preprocess.decontamination import Decontamination
from data_pipeline.preprocess.growth import write_growth
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.passes import decide_rows, schema_of_rows, stage_candidates, write_splits
from data_pipeline.preprocess.row_filters import Filters, filters_identity, load_filters
from data_pipeline.preprocess.staging import Staging
from data_pipeline.stages.base import Advance, Task, TaskResult
from data_pipeline.store import ParagraphShard, ParagraphStore, write_manifest
from data_pipeline.store.documents import DOCUMENTS, DocumentWriter, document_tables
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
from data_pipeline.utils import sha256_of_file
from data_pipeline.utils.folders import new_folder, replace_folder
from data_pipeline.utils.system import fsync_path
from data_pipeline.utils.urls import without_secrets

logger = logging.getLogger(__name__)

_MUCH = 0.5  # of the tokens of a corpus

_SPLIT = "|".join(SPLITS)
_PROCESSED_FILE = re.compile(
    r"manifest\.json|\.versions|(dropped|deleted|\.set_aside)\.parquet|\.documents\.arrow|"
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

    def record(self, data_dir: Path) -> dict[str, Any]:
        """Return the settings that the source can be opened with again; see `Documents.sources`."""
        config = self.config.model_dump(mode="json", exclude_defaults=True, exclude={"name", "on_changed"})
        if "path" in config:
            config["path"] = [_relative(path, data_dir) for path in self.config.path]
        return config


def _relative(path: str, folder: Path) -> str:
    """Path relative to a folder, or a URL without its secrets."""
    if "://" in path:
        return without_secrets(path)
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return str(Path(path).resolve())


@dataclass(frozen=True)
class CorpusParagraphs:
    """Stage that prepares the paragraphs of a corpus; one task, since duplicates are found among all rows."""

    config: Config
    corpus: Corpus
    tokenizer: Any
    evaluation_sets: Sequence[EvaluationSet] = ()
    open_appended: Callable[[], Sequence[Source]] = tuple
    """Opens the sources that were appended to the paragraphs, which are made again with them."""
    name: str = "Preparing paragraphs"
    rows: int = 0  # the passes show progress of their own
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
        library = load_fast_library(self.tokenizer) if config.preprocess.fast_tokens == "auto" else None
        counter, shard_rows = TokenCounter(self.tokenizer, library), config.storage.shard_rows
        filters = load_filters(config.filters, self.corpus.metadata, CHUNK_COLUMNS if config.preprocess.cuts else ())
        decontamination = Decontamination(config.decontamination, self.evaluation_sets)
        previous = read_manifest_to_replace(self.output.folder, overwrite=True, kind=ParagraphManifest)
        if previous is not None and not _is_same_version(previous, self.output):
            keep_embeddings(config.data_dir / "embeddings", ParagraphStore(self.output.folder), config.storage.versions)
        sources = [Source(self.corpus, config.corpus), *self.open_appended()]
        manifest = write_paragraphs(
            [source.corpus for source in sources],
            counter,
            config.preprocess,
            config.split,
            shard_rows,
            self.output,
            filters,
            decontamination,
            config.storage.versions,
            sources,
        )
        return TaskResult(task.name, manifest["counts"]["kept"])

    def finish(self, results: Sequence[TaskResult]) -> "PreparedParagraphs":
        """Read the manifest, which was published with the folder."""
        manifest = read_manifest(self.output.folder, ParagraphManifest)
        assert manifest is not None
        return PreparedParagraphs(manifest, skipped=not results)


@dataclass(frozen=True)
class PreparedParagraphs:
    """Result of preparing paragraphs."""

    manifest: ParagraphManifest
    skipped: bool
    """Whether an earlier run wrote the paragraphs."""


def write_paragraphs(
    corpora: Sequence[Corpus],
    counter: TokenCounter,
    config: PreprocessConfig,
    split: SplitConfig,
    shard_rows: int,
    output: ParagraphOutput,
    filters: Filters | None = None,
    decontamination: Decontamination | None = None,
    versions: int = 0,
    sources: Sequence[Source] = (),
) -> ParagraphManifest:
    """Write the paragraphs of a corpus, or of several as one, to the parquet files of a processed folder.

    Memory grows with the corpus only by 12 bytes per row for duplicates, ids and the split, about 3.4 kB per row
    for near deduplication, and 8 bytes per row of the test split; for decontamination see `decontaminate`.

    Args:
        corpora: corpora to read, in order, which have the same metadata.
        counter: counter of tokens.
        config: settings of cutting, cleaning and filtering.
        split: settings of the split assignment.
        shard_rows: maximum number of rows in a file.
        output: output folder, which is replaced when all files are written.
        filters: filters of the section `filters`; None for none.
        decontamination: settings of decontamination, and the evaluation sets.
        versions: number of earlier versions to keep.
        sources: the corpora with their configs, which are recorded; empty to record none.

    Returns:
        The manifest of the folder.

    Raises:
        SourceError: the corpus cannot be read, has duplicate ids, or has no paragraph that passes the filters.
    """
    started = time.monotonic()
    filters, decontamination = filters or Filters(), decontamination or Decontamination()
    new = new_folder(output.folder)
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    dropped = DropLedger(new / "dropped.parquet", with_overlap=decontamination.config.is_on)
    listed = DocumentWriter(new / "documents")
    documents = chain.from_iterable(
        listed.watch(usable_documents(corpus, dropped), number) for number, corpus in enumerate(corpora)
    )
    read = stage_candidates(documents, corpora, counter, config, new / "staging", dropped, filters)
    listed.close()
    long_share = read.long_tokens / max(1, read.tokens)
    if not (new / "staging").exists():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.counts.most_common())
        raise SourceError(
            f"none of the paragraphs of {corpora[0].description} passed the filters "
            f"({read.documents:,} documents; dropped: {reasons or 'nothing, there were none'})"
            + (f". {too_long_advice(long_share, config.max_tokens)}" if long_share > _MUCH else "")
        )
    staging = Staging(new / "staging")
    assigned = decide_rows(staging, config, split, corpora[0].on_duplicate_id, decontamination, dropped)
    schema = schema_of_rows(staging, corpora[0].metadata)
    shards = write_splits(staging, assigned.keep, assigned, schema, shard_rows, {name: name for name in SPLITS}, new)
    splits: dict[str, ParagraphSplit] = {name: described_split(new, entries) for name, entries in shards.items()}
    recorded = [source.record(output.folder.parent) for source in sources]
    write_growth(new, staging, assigned, schema, document_tables(new / "documents"), listed.count, recorded)
    (new / "staging").unlink()
    (new / "documents").unlink()
    dropped.close()
    kept = int(assigned.keep.sum())
    _check_totals(read.paragraphs, kept, dropped.counts, splits)
    manifest: ParagraphManifest = {
        "stage": "preprocess",
        "fingerprint": output.fingerprint,
        "settings": dict(output.settings),
        "upstream": "",
        "corpus": " and ".join(corpus.description for corpus in corpora),
        "counts": {
            "documents": read.documents,
            "paragraphs": read.paragraphs,
            "kept": kept,
            "dropped": dict(dropped.counts.most_common()),
            "token_counter": counter.method,
        },
        "dropped_sha256": sha256_of_file(new / "dropped.parquet"),
        "splits": splits,
    }
    if sources[1:]:
        manifest["appended"] = [source.described() for source in sources[1:]]
    if personal := filters.counts():
        manifest["counts"]["personal_data"] = personal
    if long_share > _MUCH:
        manifest["counts"]["too_long_token_share"] = round(long_share, 4)
    write_manifest(new, manifest)
    seconds = time.monotonic() - started
    logger.info("%s paragraphs written in %.1f s (tokens counted by %s)", f"{kept:,}", seconds, counter.method)
    for name, entry in splits.items():
        if entry["rows"] == 0:
            logger.warning("the split %s is empty, since the corpus is small for these ratios", name)
    # Leakage is measured on the written files, as a user reads them.
    manifest["leakage"] = leakage(ParagraphStore(new), config.near_threshold)
    if (number := _keep_versions(output, new, versions)) > 1:
        manifest["version"] = number
    write_manifest(new, manifest)
    fsync_path(new)
    replace_folder(output.folder, is_processed_file)
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
