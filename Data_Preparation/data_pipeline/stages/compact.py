"""Compaction of a dataset that has grown: its rows in the order of their documents, in as few files as they need.

Deleted rows are left out, vectors are copied as they are stored. The new files have names of their own, so that a
reader sees the dataset as it was until the folder of the paragraphs is exchanged.
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.config import Config
from data_pipeline.errors import StoreError
from data_pipeline.preprocess.growth import stage_again
from data_pipeline.preprocess.passes import Assignment, write_splits
from data_pipeline.stages.base import run_stage
from data_pipeline.stages.copied_embeddings import CopiedEmbeddings
from data_pipeline.stages.preprocess import described_split, is_processed_file
from data_pipeline.store import ParagraphStore, write_manifest
from data_pipeline.store.documents import DOCUMENTS, SET_ASIDE, Documents
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES
from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, contents_of, read_manifest
from data_pipeline.store.versions import (
    carry_versions,
    embedding_folders,
    exclusive_vectors,
    keep_embeddings,
    keep_version,
)
from data_pipeline.types import SPLITS, IntArray, Split
from data_pipeline.utils import exclusive
from data_pipeline.utils.files import link_or_copy
from data_pipeline.utils.folders import discarded_on_error, new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path, remove_unused

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compaction:
    """What a compaction would do."""

    deleted: int
    """Number of deleted rows in the files."""
    deleted_bytes: int
    """Size of these rows and their vectors, about; the version before keeps them until `elm gc`."""
    files: int
    """Number of files of paragraphs."""
    files_after: int
    made_again: list[str]
    """Folders of scores, selections and sparse vectors, which are to be made again, since rows move."""


def plan_compaction(config: Config) -> Compaction | None:
    """Find out what a compaction would do; None if it would change nothing.

    Raises:
        NotFoundError: there are no paragraphs.
    """
    store = ParagraphStore(config.processed_dir)
    deleted, size, files, after = 0, 0.0, 0, 0
    for split in store.splits:
        shards, gone = store.listed(split), len(store.deleted_rows(split))
        rows = sum(shard.rows for shard in shards)
        paths = [shard.path for shard in shards] + [path for path, _ in _vectors(config, store, split)]
        size += gone / max(1, rows) * sum(path.stat().st_size for path in paths if path.is_file())
        deleted, files = deleted + gone, files + len(shards)
        after += max(1, -(-(rows - gone) // config.storage.shard_rows))
    if not deleted and files <= after:
        return None
    folders = [config.scores_dir, config.selections_dir]
    made_again = [f"{path.parent.parent.name}/{path.parent.name}" for folder in folders
                  for path in sorted(folder.glob("*/manifest.json"))]  # fmt: skip
    made_again += ["sparse"] if (config.sparse_dir / "manifest.json").exists() else []
    return Compaction(deleted, int(size), files, after, made_again)


def compact(config: Config) -> int:
    """Write the rows of a dataset to as few files as they need, without the deleted ones.

    Returns:
        The number of the new version, or of the present one if there was nothing to do.

    Raises:
        StoreError: files are damaged, or the paragraphs do not record their documents.
    """
    folder = config.processed_dir
    with exclusive(folder), exclusive_vectors(config.data_dir / "embeddings"), discarded_on_error(folder):
        recover_folder(folder, is_processed_file)
        store = ParagraphStore(folder)
        if plan_compaction(config) is not None:
            rows = _write_paragraphs(config, store)
            new = ParagraphStore(new_folder(folder))
            keep_embeddings(config.data_dir / "embeddings", store, config.storage.versions)
            for variant in _variants(config):
                _copy_vectors(variant, store, new, rows)
            replace_folder(folder, is_processed_file)
            store = ParagraphStore(folder)
        for variant in _variants(config):  # also after a crash
            _remove_vectors_of_other_rows(variant.embeddings_dir, store)
    return store.version


def _write_paragraphs(config: Config, store: ParagraphStore) -> dict[Split, IntArray]:
    """Write the new folder; returns the row in the old files of each new row, by split."""
    folder, new = store.folder, new_folder(store.folder)
    store.check()
    assert store.manifest is not None
    documents = Documents(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    schema = pq.read_schema(store.listed(store.splits[0])[0].path).remove_metadata()
    every = np.arange(len(documents))
    candidates = stage_again(store, documents, every, None, every[:0], schema, new)
    keep = candidates.splits >= 0
    assigned = Assignment(keep, candidates.splits, candidates.stored_ids)
    number = store.version + 1
    stems: dict[Split, str] = {split: f"{split}-v{number:04d}" for split in store.splits}
    shards = write_splits(candidates.staging, keep, assigned, schema, config.storage.shard_rows, stems, new)
    (new / "staging").unlink()
    for name in (DROPPED, DROPPED_EXAMPLES, DOCUMENTS, SET_ASIDE):
        if name != DROPPED_EXAMPLES or (folder / name).exists():  # earlier versions of this package wrote none
            link_or_copy(folder / name, new / name)
    changes = {"rows": {split: {"added": 0, "removed": 0} for split in store.splits}}
    manifest: ParagraphManifest = {**store.manifest, "version": number, "parent": store.version, "changes": changes}
    manifest.pop("deleted", None)
    manifest["splits"] = {split: described_split(new, entries) for split, entries in shards.items()}
    count = config.storage.versions
    carry_versions(folder, new, count - 1)
    if count:
        keep_version(folder, store.manifest, store.version, new)
    write_manifest(new, manifest)
    fsync_path(new)
    return {split: candidates.rows[keep & (candidates.splits == SPLITS.index(split))] for split in store.splits}


def _variants(config: Config) -> Iterator[Config]:
    """Configs of the embeddings and of all variants that exist."""
    root = config.data_dir / "embeddings"
    for folder in embedding_folders(root):
        variant = None if folder == root else folder.name
        yield config.model_copy(update={"embedding": config.embedding.model_copy(update={"variant": variant})})


def _copy_vectors(config: Config, store: ParagraphStore, new: ParagraphStore, rows: dict[Split, IntArray]) -> None:
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    for split in store.splits:
        entry = manifest["splits"].get(split) if manifest else None
        if manifest is None or entry is None or entry["corpus"] != store.corpus:
            continue
        wanted = {shard.content for shard in store.listed(split)}
        if not wanted <= set(contents_of(entry["shards"])):
            logger.warning("%s lacks vectors of %s, which are to be made with elm embed", config.embeddings_dir, split)
            continue
        copied = CopiedEmbeddings(config, manifest, new, split, config.embeddings_dir, True, rows[split], True)
        run_stage(copied, overwrite=True)
        manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)


def _remove_vectors_of_other_rows(folder: Path, store: ParagraphStore) -> None:
    """Remove the files of vectors whose paragraphs are no longer there, where those that are there have theirs."""
    manifest = read_manifest(folder, EmbeddingManifest)
    if manifest is None:
        return
    gone: list[Path] = []
    for split in store.splits:
        entry = manifest["splits"].get(split)
        if entry is None or entry["corpus"] != store.corpus:
            continue
        names = {f"{split}_embeddings" + shard.path.stem.removeprefix(split) for shard in store.listed(split)}
        others = [record for record in entry["shards"] if Path(record["file"]).stem not in names]
        if len(others) == len(entry["shards"]) - len(names) and others:
            entry["shards"] = [record for record in entry["shards"] if record not in others]
            gone += [folder / Path(record["file"]).name for record in others]
    for path in gone:
        if path.exists():
            remove_unused(path)
    if gone:  # last, so that a crash leaves them listed
        write_manifest(folder, manifest)


def _vectors(config: Config, store: ParagraphStore, split: Split) -> Iterator[tuple[Path, str]]:
    """Files of vectors of a split, of all variants."""
    for variant in _variants(config):
        try:
            manifest = read_manifest(variant.embeddings_dir, EmbeddingManifest)
        except StoreError:
            continue
        entry = manifest["splits"].get(split) if manifest else None
        if entry is not None and entry["corpus"] == store.corpus:
            for record in entry["shards"]:
                yield variant.embeddings_dir / Path(record["file"]).name, record["sha256"]
