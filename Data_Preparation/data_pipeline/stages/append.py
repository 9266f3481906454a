"""Growth of a dataset: documents that its sources have got, or that changed, without touching the rows that stay.

The files of the paragraphs keep their names and bytes; new rows are written to files of their own, and rows that went
are listed as deleted. All is written to a new folder, with links to the files that stay, which replaces the old one
when it is complete.
"""

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipeline.config import Config, CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.errors import ConfigError, NotFoundError, SourceError, StaleStageError
from data_pipeline.preprocess import TokenCounter, load_fast_library
from data_pipeline.preprocess.bad_records import RecordCounts, usable_documents
from data_pipeline.preprocess.changes import Changes, NewOrder
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS
from data_pipeline.preprocess.decontamination import Decontamination
from data_pipeline.preprocess.growth import Candidates, stage_again, write_growth
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.passes import Assignment, stage_candidates, write_splits
from data_pipeline.preprocess.row_filters import load_filters
from data_pipeline.stages.appended_ledger import copy_ledger
from data_pipeline.stages.base import Executor, run_in_order, run_stage
from data_pipeline.stages.leakage import measure_leakage
from data_pipeline.stages.licenses import licenses_of, record_licenses
from data_pipeline.stages.paragraph_job import ParagraphJob, ledgers_of, read_assignment
from data_pipeline.stages.paragraph_steps import deciding_steps
from data_pipeline.stages.preprocess import Source, described_split, paragraph_settings, work_folder
from data_pipeline.store import ParagraphStore, write_manifest
from data_pipeline.store.documents import Documents, DocumentWriter, read_documents
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES
from data_pipeline.store.manifest import (
    ParagraphManifest,
    ShardEntry,
    fingerprint,
    read_manifest_to_replace,
    setting_changes,
)
from data_pipeline.store.paragraphs import DELETED, write_deleted
from data_pipeline.store.versions import carry_versions, keep_embeddings, keep_version
from data_pipeline.types import SPLITS, EvaluationSet, IntArray, Split
from data_pipeline.utils import progress_bar, sha256_of_file
from data_pipeline.utils.files import link_or_copy
from data_pipeline.utils.folders import new_folder
from data_pipeline.utils.system import fsync_path

logger = logging.getLogger(__name__)

_WHERE = ("source", "hf_dataset_name", "hf_dataset_config", "function")
"""Settings of a source that tell where it is, beside its paths."""


@dataclass(frozen=True)
class Growth:
    """What an append found and wrote."""

    manifest: ParagraphManifest
    documents: Mapping[str, int]
    """Numbers of documents `added`, `changed`, `gone` and `unchanged`."""
    rows: Mapping[Split, Mapping[str, int]]
    """Numbers of rows `added` and `removed`, by split."""
    is_written: bool
    """Whether there is a new folder, which waits to replace the present one."""


@dataclass(frozen=True)
class Appended:
    """Paragraphs that grow by the documents of a source.

    Args:
        config: settings, which must be those of the paragraphs but for the source.
        source: the source; one that the paragraphs were made of is compared with what they have of it.
        tokenizer: tokenizer that counts tokens.
        evaluation_sets: evaluation sets of decontamination.
        execute: runs the tasks of stages.

    Raises:
        NotFoundError: there are no paragraphs.
        StoreError: the paragraphs do not record their documents.
        ConfigError: rows of all splits would move.
        StaleStageError: the paragraphs were made with other settings.
    """

    config: Config
    source: Source
    tokenizer: Any
    evaluation_sets: Sequence[EvaluationSet] = ()
    execute: Executor = run_in_order

    def write(self) -> Growth:
        """Write the grown paragraphs to a new folder beside the present one.

        Raises:
            SourceError: the source cannot be read, documents changed and that is an error, or no row would be left.
        """
        started = time.monotonic()
        config, folder = self.config, self.config.processed_dir
        store, manifest = self._open()
        documents = Documents(folder)
        number = source_number(documents.sources, self.source.record(config.sources_root))
        new = new_folder(folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        dropped = DropLedger(new / DROPPED, with_overlap=config.decontamination.is_on)
        order, found, personal = self._read_source(documents, number, dropped, new)
        copy_ledger(folder, dropped, documents, order, manifest, number)
        schema = pq.read_schema(store.listed(store.splits[0])[0].path).remove_metadata()
        staged = new / "staging new" if (new / "staging new").exists() else None
        candidates = stage_again(store, documents, order.renumbered, staged, order.new_numbers, schema, new)
        assigned = self._decide(candidates, manifest, dropped)
        stays = candidates.stays(assigned)
        gone, shards = _rows_that_went(store, candidates, stays), self._write_rows(candidates, assigned, stays, schema)
        sources = _with_source(documents.sources, number, self.source.record(config.sources_root))
        records = order.tables(documents.table, read_documents(new / "documents"))
        write_growth(new, candidates.staging, assigned, schema, records, len(order.origins), sources)
        for name in ("staging", "staging new", "documents"):
            (new / name).unlink(missing_ok=True)
        rows = {
            split: {
                "added": sum(entry.rows for entry in shards.get(split, [])),
                "removed": len(gone[split]) - len(store.deleted_rows(split)),
            }
            for split in store.splits
        }
        grown = self._manifest(manifest, number, assigned, dropped, found, rows, personal, len(order.origins))
        if not any(sum(counts.values()) for counts in rows.values()):
            return self._keep_rows(manifest, grown, new, found, rows)
        self._add_files(store, shards, gone, grown)
        logger.info("%s paragraphs in %.1f s", f"{grown['counts']['kept']:,}", time.monotonic() - started)
        return Growth(grown, found, rows, is_written=True)

    def _read_source(
        self, documents: Documents, number: int, dropped: DropLedger, new: Path
    ) -> tuple[NewOrder, dict[str, int], dict[str, int]]:
        """Stage the rows of new documents; returns the order of all, numbers of documents, and personal data found."""
        on_changed = self.config.corpus.on_changed
        listed = DocumentWriter(new / "documents")
        changes = Changes(documents, number, on_changed, listed)
        personal = self._stage_new(changes, dropped, new)
        listed.close()
        order = changes.finish()
        found = {
            "added": listed.count - (changes.changed if on_changed == "replace" else 0),
            "changed": changes.changed,
            "gone": changes.gone,
            "unchanged": changes.unchanged,
        }
        return order, found, personal

    def _decide(self, candidates: Candidates, manifest: ParagraphManifest, dropped: DropLedger) -> Assignment:
        """Decide which of all rows are kept, and in which split."""
        config = self.config
        decontamination = Decontamination(config.decontamination, self.evaluation_sets)
        on_duplicate_id = str(manifest["settings"]["corpus"].get("on_duplicate_id", "fail"))
        work = work_folder(config.processed_dir)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        job = ParagraphJob(config, self.tokenizer, (), on_duplicate_id, work, candidates.file)
        for step in deciding_steps(job, decontamination):
            run_stage(step, execute=self.execute)
        assigned = read_assignment(job)
        for path in ledgers_of(job):
            dropped.copy_file(path)
        dropped.close()
        shutil.rmtree(work)
        if not assigned.keep.any():
            raise SourceError("no row would be left in the dataset; nothing was changed")
        return assigned

    def _write_rows(
        self, candidates: Candidates, assigned: Assignment, stays: NDArray[np.bool_], schema: pa.Schema
    ) -> dict[Split, list[ShardEntry]]:
        """Write the rows that are kept, and are not where they were, to shards of the new version."""
        folder, written = self.config.processed_dir, assigned.keep & ~stays
        number = ParagraphStore(folder).version + 1
        stems: dict[Split, str] = {
            split: f"{split}-v{number:04d}"
            for index, split in enumerate(SPLITS)
            if (written & (assigned.positions == index)).any()
        }
        shard_rows = self.config.storage.shard_rows
        return write_splits(candidates.staging, written, assigned, schema, shard_rows, stems, new_folder(folder))

    def _add_files(
        self,
        store: ParagraphStore,
        shards: Mapping[Split, Sequence[ShardEntry]],
        gone: Mapping[Split, IntArray],
        grown: ParagraphManifest,
    ) -> None:
        """Complete the new folder: the files that stay, the deleted rows, the earlier versions, and the manifest."""
        config, folder, new = self.config, store.folder, new_folder(store.folder)
        assert store.manifest is not None
        _link_shards(store, new)
        for split in store.splits:
            entries = [*_entries(store, split), *shards.get(split, [])]
            grown["splits"][split] = described_split(new, entries, gone[split])
        if any(len(numbers) for numbers in gone.values()):
            grown["deleted"] = write_deleted(new, gone)
        write_manifest(new, grown)
        grown["leakage"] = measure_leakage(new, config.preprocess.near_threshold, self.execute)
        count = config.storage.versions
        keep_embeddings(config.data_dir / "embeddings", store, count)
        carry_versions(folder, new, count - 1)
        if count:
            keep_version(folder, store.manifest, store.version, new)
        grown["version"], grown["parent"] = store.version + 1, store.version
        write_manifest(new, grown)
        fsync_path(new)

    def _open(self) -> tuple[ParagraphStore, ParagraphManifest]:
        """Open the paragraphs, and check that they were made with the same settings."""
        config, folder = self.config, self.config.processed_dir
        store = ParagraphStore(folder)
        if store.manifest is None:
            raise NotFoundError(f"{folder} has no manifest.json: an older pipeline wrote it. Run elm run --overwrite.")
        store.check()
        if config.split.method == "paragraph":
            raise ConfigError(
                "split.method is paragraph, which shuffles all rows, so that rows of all splits would move. Set "
                "split.method: document and run again with --overwrite"
            )
        own = paragraph_settings(config, self.source.corpus, self.tokenizer, self.evaluation_sets)
        recorded = dict(store.manifest["settings"])
        own_corpus, corpus = own.pop("corpus"), recorded.pop("corpus")
        changes = setting_changes(recorded, own)
        if own_corpus.get("metadata_fields", {}) != corpus.get("metadata_fields", {}):
            changes.append(
                f"corpus.metadata_fields was {corpus.get('metadata_fields')!r}, now {own_corpus['metadata_fields']!r}"
            )
        if changes:
            raise StaleStageError(
                f"{folder} was made with other settings:\n  " + "\n  ".join(changes) + "\nA dataset grows by its own "
                "settings. Append with those, or make it again with: elm run --overwrite"
            )
        return store, store.manifest

    def _stage_new(self, changes: Changes, dropped: DropLedger, new: Path) -> dict[str, int]:
        """Stage the rows of new documents in `staging new`; returns the counts of personal data."""
        config, corpus = self.config, self.source.corpus
        logger.info("reading %s", corpus.description)
        library = load_fast_library(self.tokenizer) if config.preprocess.fast_tokens == "auto" else None
        counter = TokenCounter(self.tokenizer, library)
        filters = load_filters(config.filters, corpus.metadata, CHUNK_COLUMNS if config.preprocess.cuts else ())
        records, metadata, staged = RecordCounts(), dict(corpus.metadata), new / "staging new"
        with progress_bar(None, "Reading", "B") as bar:
            documents = usable_documents(corpus.read, corpus.max_bad_share, dropped, records, bar.update)
            documents = changes.new_documents(documents)
            stage_candidates(documents, metadata, counter, config.preprocess, staged, dropped, filters)
        records.check(corpus.max_bad_share)
        records.log()
        return filters.counts()

    def _manifest(
        self,
        manifest: ParagraphManifest,
        number: int,
        assigned: Assignment,
        dropped: DropLedger,
        found: Mapping[str, int],
        rows: Mapping[Split, Mapping[str, int]],
        personal: Mapping[str, int],
        documents: int,
    ) -> ParagraphManifest:
        """Return the manifest of the grown paragraphs, but for its splits, leakage and version."""
        grown: ParagraphManifest = {**manifest, "splits": dict(manifest["splits"])}
        settings, appended = dict(manifest["settings"]), list(manifest.get("appended", []))
        if number == 0:
            settings["corpus"] = self.source.settings
            grown["corpus"] = self.source.corpus.description
        elif number <= len(appended):
            appended[number - 1] = self.source.described()
        else:
            appended.append(self.source.described())
        is_only_source = number == 0 and not appended
        earlier = [] if is_only_source else licenses_of(manifest)
        record_licenses(grown, [*earlier, self.source.corpus.license])
        grown["settings"], grown["fingerprint"] = settings, fingerprint(settings, "")
        if appended:
            grown["appended"] = appended
        kept = int(assigned.keep.sum())
        grown["counts"] = {
            "documents": documents,
            "paragraphs": kept + dropped.counts.total(),
            "kept": kept,
            "dropped": dict(dropped.counts.most_common()),
            "token_counter": manifest["counts"]["token_counter"],
        }
        # Documents that were replaced have been counted too.
        if all_personal := Counter(manifest["counts"].get("personal_data", {})) + Counter(personal):
            grown["counts"]["personal_data"] = dict(all_personal.most_common())
        new = new_folder(self.config.processed_dir)
        grown["dropped_sha256"] = sha256_of_file(new / DROPPED)
        grown["dropped_examples_sha256"] = sha256_of_file(new / DROPPED_EXAMPLES)
        grown["changes"] = {"documents": dict(found), "rows": {split: dict(counts) for split, counts in rows.items()}}
        return grown

    def _keep_rows(
        self,
        manifest: ParagraphManifest,
        grown: ParagraphManifest,
        new: Path,
        found: Mapping[str, int],
        rows: Mapping[Split, Mapping[str, int]],
    ) -> Growth:
        """Record what was read, where no row changes: there is no new version, only new lists of what was left out."""
        folder = self.config.processed_dir
        is_same = not (found["added"] or found["changed"] or found["gone"])
        if is_same and all(grown.get(name) == manifest.get(name) for name in ("settings", "appended", "license")):
            shutil.rmtree(new)
            return Growth(manifest, found, rows, is_written=False)
        _link_shards(ParagraphStore(folder), new)
        if (folder / DELETED).exists():
            link_or_copy(folder / DELETED, new / DELETED)
        carry_versions(folder, new, self.config.storage.versions)
        grown.pop("changes")
        if "changes" in manifest:
            grown["changes"] = manifest["changes"]
        write_manifest(new, grown)
        fsync_path(new)
        return Growth(grown, found, rows, is_written=True)


def open_appended(folder: Path, source: Source, root: Path | None) -> list[Source]:
    """Open the sources that were appended to the paragraphs in a folder, to make these again.

    Args:
        folder: processed folder.
        source: first source of the new paragraphs; those that were appended to another one are left out.
        root: see `Config.sources_root`.

    Raises:
        StoreError: the paragraphs do not record their sources.
        SourceError: a source cannot be read.
    """
    manifest = read_manifest_to_replace(folder, overwrite=True, kind=ParagraphManifest)
    if manifest is None or not manifest.get("appended"):
        return []
    recorded = Documents(folder).sources
    if source_number(recorded[:1], source.record(root)) != 0:
        logger.warning("the sources that were appended to %s are left out, since it gets another source", folder)
        return []
    opened = []
    for settings in recorded[1:]:
        config = CorpusConfig(**settings)
        paths = tuple(path if "://" in path else os.path.normpath(folder.parent / path) for path in config.path)
        config = config.model_copy(update={"path": paths})
        opened.append(Source(open_corpus(config), config))
    return opened


def source_number(sources: Sequence[Mapping[str, Any]], source: Mapping[str, Any]) -> int:
    """Return the number of a source among those of a dataset; one that it does not have yet gets the next number.

    It is the same source if it is read from the same place, also if further paths have been added to it.
    """
    wanted = CorpusConfig(**source)
    for number, recorded in enumerate(sources):
        known = CorpusConfig(**recorded)
        if all(getattr(known, name) == getattr(wanted, name) for name in _WHERE) and set(known.path) <= set(
            wanted.path
        ):
            return number
    return len(sources)


def _with_source(
    sources: Sequence[Mapping[str, Any]], number: int, source: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    return [*sources[:number], source, *sources[number + 1 :]]


def _entries(store: ParagraphStore, split: Split) -> list[ShardEntry]:
    assert store.manifest is not None
    return [ShardEntry(**record) for record in store.manifest["splits"][split]["shards"]]


def _rows_that_went(store: ParagraphStore, candidates: Candidates, stays: NDArray[np.bool_]) -> dict[Split, IntArray]:
    """Row numbers of the files that no candidate has any more, ascending, by split."""
    gone: dict[Split, IntArray] = {}
    for split in store.splits:
        is_left = np.zeros(sum(shard.rows for shard in store.listed(split)), np.bool_)
        is_left[candidates.rows[stays & (candidates.splits == SPLITS.index(split))]] = True
        gone[split] = np.flatnonzero(~is_left)
    return gone


def _link_shards(store: ParagraphStore, new: Path) -> None:
    for split in store.splits:
        for shard in store.listed(split):
            link_or_copy(shard.path, new / shard.path.name)
    for path in (store.folder / ".cache").glob("texts-*"):
        (new / ".cache").mkdir(exist_ok=True)
        if not (new / ".cache" / path.name).exists():  # a new shard may have the texts of one that stays
            link_or_copy(path, new / ".cache" / path.name)
