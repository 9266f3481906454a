"""Verification of a corpus, its embeddings, scores and selections."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from data_pipeline.config import Config
from data_pipeline.dataset import ELMDataset
from data_pipeline.dataset.spot_check import Level, parse_level
from data_pipeline.embeddings import Embedder
from data_pipeline.errors import DataPipelineError, NotFoundError, StoreError
from data_pipeline.store import (
    ParagraphStore,
    embedding_faults,
    fingerprint,
    open_scores,
    paragraph_faults,
    paragraphs_sha256,
    read_manifest,
    read_selection,
    score_faults,
    sparse_faults,
)
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES
from data_pipeline.store.manifest import EmbeddingManifest, SelectionManifest
from data_pipeline.store.paragraphs import earlier_sha256
from data_pipeline.types import Split
from data_pipeline.user_files import visible
from data_pipeline.utils import sha256_of_file
from data_pipeline.utils.displays import facts_html, facts_text


class Verification(NamedTuple):
    """Result of checking a corpus."""

    good: list[str]
    """Lines about valid files."""
    bad: list[str]
    """Lines about faults; empty if everything is in order."""

    def _repr_html_(self) -> str:
        rows = [*(("FAULT", line) for line in self.bad), *(("ok", line) for line in self.good)]
        title = f"{len(self.bad)} faults" if self.bad else "Everything is in order"
        return facts_html(title, rows)

    def __repr__(self) -> str:
        rows = [*(("FAULT", line) for line in self.bad), *(("ok", line) for line in self.good)]
        return facts_text(f"Verification: {len(self.bad)} faults", rows) if rows else "Verification of nothing"


def verify_corpus(config: Config, level: Level = "hash", rows: int = 64, seed: int = 0) -> Verification:
    """Check a corpus, its embeddings, scores and selections.

    Args:
        config: configuration with the folders, the corpus and the variant.
        level: `size` checks sizes, headers and the hashes in them against the manifests, in milliseconds; `hash` also
            checks every byte, count, norm and hash, with one paragraph shard and 60 bytes per row in memory; `reembed`
            also embeds a sample of rows again, which loads the model.
        rows: number of rows of each split to embed again.
        seed: random seed of the sample.

    Returns:
        Lines about valid files, and lines about faults.

    Raises:
        ValueError: the level is unknown.
        NotFoundError: the paragraphs or the variant do not exist.
    """
    level = parse_level(level)
    if config.embedding.variant is not None and not config.embeddings_dir.is_dir():
        raise NotFoundError(f"embedding.variant {config.embedding.variant!r}: no folder {config.embeddings_dir}")
    good: list[str] = []
    bad: list[str] = []
    try:
        store = ParagraphStore(config.processed_dir)
    except NotFoundError:
        raise
    except StoreError as error:
        return Verification(good, [str(error)])
    if store.manifest is None:
        bad.append(f"{store.folder} has no manifest: an older pipeline wrote it, and it cannot be verified")
        return Verification(good, bad)
    if level != "size":
        checked, faults = _hash_faults(config, store)
        good += checked
        bad += faults
    if level == "hash" or bad:
        return Verification(good, bad)
    embedder: Embedder | None = None
    for split in store.splits:
        try:
            dataset = ELMDataset(split=split, load_embeddings=_is_embedded(config, split), config=config)
            dataset.embedder = embedder
            good += dataset.verify("size") if level == "size" else dataset.spot_check(rows, seed)
            embedder = dataset.embedder
        except DataPipelineError as error:
            bad.append(str(error))
    return Verification(good, bad)


verify = verify_corpus
"""Former name of `verify_corpus`."""


def _hash_faults(config: Config, store: ParagraphStore) -> tuple[list[str], list[str]]:
    good: list[str] = []
    bad: list[str] = []
    seen: set[int] = set()
    for split in store.splits:
        faults = list(paragraph_faults(store, split, seen))
        bad += faults
        if not faults:
            rows = store.live_count(split)
            good.append(f"{split}: {rows:,} paragraphs: hashes, counts, columns and ids")
    bad += _count_faults(store)
    for split in store.splits:
        checked, faults = sparse_faults(config.sparse_dir, split, store.listed(split))
        good += checked
        bad += faults
    if not config.embeddings_dir.is_dir():
        return good, bad
    try:
        manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    except StoreError as error:
        return good, [*bad, str(error)]
    for split in store.splits:
        checked, faults = embedding_faults(config.embeddings_dir, manifest, store, split)
        good += checked
        bad += faults
    for split in store.splits:
        for look in (_score_faults, _selection_faults):
            checked, faults = look(config, store, split)
            good += checked
            bad += faults
    return good, bad


def _score_faults(config: Config, store: ParagraphStore, split: Split) -> tuple[list[str], list[str]]:
    good: list[str] = []
    bad: list[str] = []
    try:
        score_folders = open_scores(config.scores_dir, split)
    except StoreError as error:
        return good, [str(error)]
    for scores in score_folders:
        if scores.listed["corpus"] != config.corpus.name:
            continue
        faults = list(score_faults(scores, store.listed(split), store.deleted_rows(split)))
        bad += faults
        good += [] if faults else [f"{split}: scores of {scores.name}: hashes, alignment and values"]
    return good, bad


def _selection_faults(config: Config, store: ParagraphStore, split: Split) -> tuple[list[str], list[str]]:
    good: list[str] = []
    bad: list[str] = []
    shards = store.listed(split)
    paragraphs = [paragraphs_sha256(shards), *earlier_sha256(shards)]
    for folder in [
        path.parent for path in visible(config.selections_dir.glob("*/manifest.json"), config.selections_dir)
    ]:
        try:
            manifest = read_manifest(folder, SelectionManifest)
            listed = manifest["splits"].get(split) if manifest else None
            if listed is None or listed["about"]["corpus"] != config.corpus.name:
                continue
            ids = read_selection(folder, split, paragraphs)
        except StoreError as error:
            bad.append(str(error))
            continue
        good.append(f"{split}: selection {folder.name}: {len(ids):,} rows of these paragraphs")
    return good, bad


def _is_embedded(config: Config, split: Split) -> bool:
    manifest = read_manifest(config.embeddings_dir, EmbeddingManifest)
    return manifest is not None and split in manifest["splits"]


def _example_faults(path: Path, sha256: str | None) -> Iterator[str]:
    """Yield the fault of the examples of dropped rows, if a manifest lists them and they have one."""
    if sha256 is None:
        return
    if not path.is_file():
        yield f"{path}: no such file, and manifest.json lists it"
    elif sha256_of_file(path) != sha256:
        yield f"{path}: checksum mismatch with manifest.json"


def _count_faults(store: ParagraphStore) -> Iterator[str]:
    assert store.manifest is not None
    manifest = store.manifest
    counts = manifest["counts"]
    path = store.folder / DROPPED
    try:
        reasons = Counter(pq.read_table(path, columns=["reason"])["reason"].to_pylist())
    except (OSError, ValueError) as error:
        yield f"{path}: cannot be read: {error}"
        return
    if sha256_of_file(path) != manifest["dropped_sha256"]:
        yield f"{path}: checksum mismatch with manifest.json"
    yield from _example_faults(store.folder / DROPPED_EXAMPLES, manifest.get("dropped_examples_sha256"))
    dropped = reasons.total()
    kept = sum(store.live_count(split) for split in store.splits)
    if kept != counts["kept"] or dropped != counts["paragraphs"] - counts["kept"]:
        yield (
            f"{store.folder}: {kept} rows kept and {dropped} dropped, manifest.json expects {counts['kept']} "
            f"and {counts['paragraphs'] - counts['kept']}"
        )
    elif dict(reasons) != counts["dropped"]:
        yield f"{path}: has the reasons {dict(reasons)}, manifest.json expects {counts['dropped']}"
    listed = manifest.get("deleted")
    if listed is not None and sha256_of_file(store.folder / listed["file"]) != listed["sha256"]:
        yield f"{store.folder / listed['file']}: checksum mismatch with manifest.json"
    if fingerprint(manifest["settings"], manifest["upstream"]) != manifest["fingerprint"]:
        yield f"{store.folder / 'manifest.json'}: its settings do not match their fingerprint"
