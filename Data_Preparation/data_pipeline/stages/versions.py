"""Versions of a dataset: what they are, how two differ, return to an earlier one, and room for others."""

import hashlib
import itertools
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import Config
from data_pipeline.errors import SourceError
from data_pipeline.stages.preprocess import is_processed_file, work_folder
from data_pipeline.store import ParagraphStore, write_manifest
from data_pipeline.store.manifest import EmbeddingManifest, read_manifest, setting_changes
from data_pipeline.store.text_digests import text_digests
from data_pipeline.store.versions import (
    carry_versions,
    embedding_folders,
    exclusive_vectors,
    keep_embeddings,
    keep_version,
    list_versions,
    open_version,
    own_bytes,
    remove_version,
    sweep_versions,
    version_folder,
)
from data_pipeline.types import Split
from data_pipeline.utils import exclusive
from data_pipeline.utils.files import link_or_copy
from data_pipeline.utils.folders import new_folder, recover_folder, replace_folder
from data_pipeline.utils.system import fsync_path

_DAY_S = 86_400


@dataclass(frozen=True)
class Version:
    """One version of a dataset."""

    number: int
    is_present: bool
    rows: dict[str, int]
    """Number of rows of each split."""
    made: datetime
    """Time when its manifest was written, in UTC."""
    model: str
    """Model of its vectors; empty if it has none."""
    own_bytes: int
    """Size of the files that no other version has."""
    parent: int | None = None
    """Number of the version that it was made from; None for one of a run."""
    added: int = 0
    """Number of rows that came since its parent, if it is one of `elm append`."""
    removed: int = 0


@dataclass(frozen=True)
class Difference:
    """What changed from one version to another."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    """Numbers of rows `added`, `removed` and `changed` (same id, other text), by split."""
    settings: list[str] = field(default_factory=list)
    """Settings that differ, with both values."""
    vectors: list[str] = field(default_factory=list)
    """Settings of the vectors that differ, with both values."""
    leakage: tuple[Any, Any] = (None, None)
    """Share of test rows with a near duplicate in train, before and after."""


def describe_versions(config: Config) -> list[Version]:
    """Describe the versions of a dataset, the oldest first.

    Raises:
        NotFoundError: there are no paragraphs.
    """
    store = ParagraphStore(config.processed_dir)
    numbers = [*list_versions(config.processed_dir), store.version]
    return [_describe(config, number, number == store.version) for number in numbers]


def compare_versions(config: Config, before: int, after: int) -> Difference:
    """Compare two versions of a dataset.

    Args:
        config: configuration with the folders.
        before: number of one version.
        after: number of the other.

    Raises:
        NotFoundError: a version is not kept.
    """
    old, new = (open_version(config.processed_dir, number) for number in (before, after))
    difference = Difference()
    for split in dict.fromkeys([*old.splits, *new.splits]):
        difference.rows[split] = _compare_rows(_rows_of(old, split), _rows_of(new, split))
    manifests: list[dict[str, Any]] = [dict(store.manifest or {}) for store in (old, new)]
    difference.settings.extend(setting_changes(*(manifest.get("settings", {}) for manifest in manifests)))
    vectors = [_vector_settings(config, number) for number in (before, after)]
    difference.vectors.extend(setting_changes(*vectors))
    shares = [(manifest.get("leakage") or {}).get("near_duplicate_in_train") for manifest in manifests]
    return Difference(difference.rows, difference.settings, difference.vectors, (shares[0], shares[1]))


def roll_back(config: Config, number: int) -> int:
    """Make an earlier version the present one again, under a new number; the present one is kept.

    Returns:
        The new number.

    Raises:
        NotFoundError: the version is not kept.
        SourceError: it is the present one.
    """
    folder = config.processed_dir
    with exclusive(folder):
        recover_folder(folder, is_processed_file)
        _sweep(config)
        store = ParagraphStore(folder)
        if number == store.version:
            raise SourceError(f"version {number} of {folder} is the present one")
        earlier = open_version(config.processed_dir, number)
        earlier.check()
        assert store.manifest is not None
        assert earlier.manifest is not None
        new = new_folder(folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for path in sorted(earlier.folder.iterdir()):
            if path.is_file() and path.name != "manifest.json":
                link_or_copy(path, new / path.name)
        count = max(config.storage.versions, 1)
        carry_versions(folder, new, count - 1)
        keep_version(folder, store.manifest, store.version, new)
        next_number = store.version + 1
        write_manifest(new, {**earlier.manifest, "version": next_number, "parent": number})
        fsync_path(new)
        with exclusive_vectors(config.data_dir / "embeddings"):
            _restore_embeddings(config, store, number, count)
            replace_folder(folder, is_processed_file)
    return next_number


def find_garbage(config: Config, keep: int) -> list[tuple[Path, int]]:
    """Find earlier versions beyond the latest ones: folders of paragraphs or embeddings, and numbers of versions.

    Args:
        config: configuration with the folders.
        keep: number of earlier versions to keep.
    """
    present = ParagraphStore(config.processed_dir).version
    folders = [config.processed_dir, *embedding_folders(config.data_dir / "embeddings")]
    return [(folder, number) for folder in folders for number in list_versions(folder) if number < present - keep]


def find_leftovers(config: Config) -> list[Path]:
    """Find what interrupted runs left: unfinished paragraphs, and folders of workers that no one touched for a day."""
    work = work_folder(config.processed_dir)
    old = time.time() - _DAY_S
    crews = [crew for crew in sorted(config.crews_dir.glob("*")) if all(_mtime(path) < old for path in crew.rglob("*"))]
    return [*([work] if work.is_dir() else []), *crews]


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # the workers are there
        return math.inf


def remove_garbage(config: Config, keep: int) -> int:
    """Remove what `find_garbage` and `find_leftovers` find; returns the number of bytes that are free now.

    Raises:
        StoreError: another process is making the paragraphs.
    """
    with exclusive(config.processed_dir):
        garbage, leftovers = find_garbage(config, keep), find_leftovers(config)
        size = own_bytes(version_folder(folder, number) for folder, number in garbage)
        size += sum(bytes_in(folder) for folder in leftovers)
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)
        for folder, number in garbage:
            remove_version(folder, number)
        _sweep(config)
    return size


def bytes_in(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sweep(config: Config) -> None:
    for folder in (config.processed_dir, *embedding_folders(config.data_dir / "embeddings")):
        sweep_versions(folder)


def _describe(config: Config, number: int, is_present: bool) -> Version:
    store = open_version(config.processed_dir, number)
    manifest = store.folder / "manifest.json"
    made = datetime.fromtimestamp(manifest.stat().st_mtime, UTC) if manifest.is_file() else datetime.now(UTC)
    embeddings = _embeddings_of(config, number)
    rows: dict[str, int] = {split: store.live_count(split) for split in store.splits}
    model = next((settings["model"] for settings in _vector_settings(config, number).values()), "")
    own = 0 if is_present else own_bytes([store.folder, embeddings])
    changes = store.manifest.get("changes", {}).get("rows", {}).values() if store.manifest else ()
    added, removed = (sum(counts[name] for counts in changes) for name in ("added", "removed"))
    parent = store.manifest.get("parent") if store.manifest else None
    return Version(number, is_present, rows, made, str(model), own, parent, added, removed)


def _embeddings_of(config: Config, number: int) -> Path:
    present = number == ParagraphStore(config.processed_dir).version
    return config.embeddings_dir if present else version_folder(config.embeddings_dir, number)


def _vector_settings(config: Config, number: int) -> dict[str, Any]:
    manifest = read_manifest(_embeddings_of(config, number), EmbeddingManifest)
    return {split: dict(entry["settings"]) for split, entry in manifest["splits"].items()} if manifest else {}


def _rows_of(store: ParagraphStore, split: Split) -> Iterator[tuple[str, bytes]]:
    if split not in store.splits:
        return
    digests = np.concatenate([text_digests(shard) for shard in store.listed(split)])
    for batch, rows in store.live_batches(split, ["text_id"]):
        for text_id, row in zip(batch["text_id"].to_pylist(), rows.tolist(), strict=True):
            yield text_id, digests[row].tobytes()


def _compare_rows(old: Iterator[tuple[str, bytes]], new: Iterator[tuple[str, bytes]]) -> Counter[str]:
    """Numbers of rows added, removed and changed; 16 bytes in memory for each row."""
    before, after = _hashes(old), _hashes(new)
    ids_before, ids_after = np.unique(before["id"]), np.unique(after["id"])
    common = np.intersect1d(ids_before, ids_after)
    same = len(np.intersect1d(before, after))
    return Counter(
        added=len(ids_after) - len(common), removed=len(ids_before) - len(common), changed=len(common) - same
    )


def _hashes(rows: Iterator[tuple[str, bytes]]) -> np.ndarray[Any, Any]:
    pairs = ((hashlib.blake2b(text_id.encode(), digest_size=8).digest(), digest[:8]) for text_id, digest in rows)
    packed = b"".join(itertools.chain.from_iterable(pairs))
    return np.frombuffer(packed, np.dtype([("id", np.uint64), ("text", np.uint64)]))


def _restore_embeddings(config: Config, present: ParagraphStore, number: int, count: int) -> None:
    """Link the vectors of a version to the folders of embeddings; those of the present version are kept."""
    folder = config.data_dir / "embeddings"
    keep_embeddings(folder, present, count)
    for own in embedding_folders(folder):
        source = version_folder(own, number)
        manifest = read_manifest(source, EmbeddingManifest)
        if manifest is None:
            continue
        (own / "manifest.json").unlink(missing_ok=True)  # until all files are there
        for path in sorted(source.iterdir()):
            if path.is_file() and path.name != "manifest.json":
                temporary = own / f".{path.name}.tmp"
                temporary.unlink(missing_ok=True)
                link_or_copy(path, temporary)
                temporary.replace(own / path.name)
                temporary.unlink(missing_ok=True)  # to rename one link to a file to another link does nothing
        write_manifest(own, manifest)
