"""Sparse vectors of a split: opened over all shards, checked against the paragraphs beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import NotFoundError, StaleStageError, StoreError
from data_pipeline.store.embeddings import mismatch_error
from data_pipeline.store.manifest import (
    ShardEntry,
    SparseManifest,
    SparseSplitRecord,
    contents_of,
    entry_for,
    fingerprint,
    read_manifest,
)
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.store.sparse import SparseRows, SparseShard, concatenate_rows, open_sparse_shard
from data_pipeline.types import IntArray, Split
from data_pipeline.utils import sha256_of_file

FOLDER = "sparse"
"""Name of the folder of sparse vectors in a data folder."""
_ADVICE = "Make them again with: elm sparse --overwrite"


class SparseVectors:
    """Sparse vectors of all rows of a split, over its shards.

    Args:
        shards: files in order, at least one.
    """

    def __init__(self, shards: Sequence[SparseShard]) -> None:
        self.shards = shards
        self.width = shards[0].width
        self._starts = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: IntArray) -> SparseRows:
        """Read rows, shape (N,), in the given order."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(owners, kind="stable")
        parts = [
            self.shards[owner].stored.take(rows[owners == owner] - self._starts[owner])
            for owner in np.unique(owners).tolist()
        ]
        return concatenate_rows(parts, self.width).take(np.argsort(order, kind="stable"))


def has_sparse_split(folder: Path, split: Split) -> bool:
    """Return whether a folder lists sparse vectors of a split."""
    return _listed(folder, split) is not None


def open_sparse_split(folder: Path, split: Split, paragraphs: Sequence[ParagraphShard]) -> SparseVectors:
    """Open the sparse vectors of a split.

    Args:
        folder: `data/sparse`, or the folder of a variant.
        split: split to open.
        paragraphs: paragraph shards of the split.

    Raises:
        NotFoundError: the split has no sparse vectors.
        StoreError: a file is missing or damaged, or was made from other paragraphs or with other settings.
    """
    listed = _listed(folder, split)
    if listed is None:
        raise NotFoundError(f"no sparse vectors of {split} in {folder}. Make them with: elm sparse")
    if len(listed["shards"]) < len(paragraphs):
        contents = contents_of(listed["shards"])
        has_grown = contents == [shard.content for shard in paragraphs[: len(contents)]]
        advice = "Make those of the new rows with: elm sparse" if has_grown else _ADVICE
        raise StaleStageError(
            f"{folder} has {len(contents)} files of {split}, its paragraphs have {len(paragraphs)}. {advice}"
        )
    entries = [entry_for(own, listed["shards"], index) for index, own in enumerate(paragraphs)]
    shards = [open_sparse_shard(folder / Path(entry.file).name) for entry in entries]
    for shard, own in zip(shards, paragraphs, strict=True):
        _check_belongs(shard, own, listed)
    return SparseVectors(shards)


def sparse_faults(folder: Path, split: Split, paragraphs: Sequence[ParagraphShard]) -> tuple[list[str], list[str]]:
    """Verify the sparse vectors of a split, reading every byte.

    Returns:
        Lines about valid files, and lines about faults; both empty for a split without sparse vectors.
    """
    try:
        listed = _listed(folder, split)
        if listed is None:
            return [], []
        vectors = open_sparse_split(folder, split, paragraphs)
    except StoreError as error:
        return [], [str(error)]
    bad = []
    if fingerprint(listed["settings"], listed["upstream"]) != listed["fingerprint"]:
        bad.append(f"{folder / 'manifest.json'}: the settings of {split} do not match their fingerprint")
    for shard, record in zip(vectors.shards, listed["shards"], strict=True):
        bad += _shard_faults(shard, ShardEntry(**record))
    good = [] if bad else [f"{split}: {len(vectors):,} sparse vectors: hashes, alignment and weights"]
    return good, bad


def _listed(folder: Path, split: Split) -> SparseSplitRecord | None:
    manifest = read_manifest(folder, SparseManifest)
    return manifest["splits"].get(split) if manifest else None


def _check_belongs(shard: SparseShard, paragraphs: ParagraphShard, listed: SparseSplitRecord) -> None:
    content = (shard.rows, str(shard.metadata.get("ids_sha256")), str(shard.metadata.get("texts_sha256")))
    if content != paragraphs.content:
        raise mismatch_error(shard.path, paragraphs, "it has", content, _ADVICE)
    for name, expected in listed["settings"].items():
        if shard.metadata.get(name) != str(expected):
            raise StaleStageError(
                f"{shard.path} was made with {name} {shard.metadata.get(name)!r}, manifest.json expects {expected!r}. "
                f"{_ADVICE}"
            )


def _shard_faults(shard: SparseShard, entry: ShardEntry) -> list[str]:
    if sha256_of_file(shard.path) != entry.sha256:
        return [f"{shard.path}: checksum mismatch with manifest.json"]
    try:
        rows = shard.stored
    except StoreError as error:
        return [str(error)]
    inside = np.ones(len(rows.indices), np.bool_)
    inside[rows.indptr[:-1][np.diff(rows.indptr) > 0]] = False  # the first of a row need not ascend
    bad = []
    if not np.isfinite(rows.values).all() or (np.asarray(rows.values) < 0).any():
        bad.append(f"{shard.path}: has weights that are negative or not finite")
    is_outside = len(rows.indices) and not 0 <= rows.indices.min() <= rows.indices.max() < rows.width
    if is_outside or (np.diff(rows.indices, prepend=0)[inside] <= 0).any():
        bad.append(f"{shard.path}: has words that are not of the vocabulary, or not in ascending order")
    return bad
