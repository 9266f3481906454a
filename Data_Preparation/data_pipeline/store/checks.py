"""Full verification of stores: checksums, counts, alignment, and finite vectors of unit length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.errors import StoreError
from data_pipeline.store.embeddings import check_belongs, open_embedding_shard
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import EmbeddedSplit, EmbeddingManifest, entry_for, fingerprint
from data_pipeline.store.paragraphs import ParagraphShard, ParagraphStore, file_of_shard
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_file, sha256_of_json

_BLOCK_ROWS = 16_384

_TYPES: Mapping[str, Callable[[pa.DataType], bool]] = {
    **dict.fromkeys(
        ("text_id", "text", "document_id"), lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ),
    **dict.fromkeys(("token_count", "char_count"), pa.types.is_integer),
}


def paragraph_faults(store: ParagraphStore, split: Split, seen: set[int]) -> Iterator[str]:
    """Verify the parquet files of a split, reading every byte; yields one line for each fault.

    Args:
        store: paragraphs with a manifest.
        split: split to verify.
        seen: hashes of the ids of other splits; those of this split are added.
    """
    assert store.manifest is not None
    limits = store.manifest["settings"]["preprocess"]
    deleted, end = set(store.deleted_rows(split).tolist()), 0
    for shard in store.listed(split):
        start, end = end, end + shard.rows
        try:
            shard.check()
        except StoreError as error:
            yield str(error)
            continue
        if sha256_of_file(shard.path) != shard.sha256:
            yield f"{shard.path}: checksum mismatch with manifest.json"
            continue  # the content of a damaged file says nothing
        table = _rows_or_fault(shard.path)
        if isinstance(table, str):
            yield f"{shard.path}: {table}"
            continue
        ids, texts = table["text_id"].to_pylist(), table["text"].to_pylist()
        if column_sha256(ids) != shard.ids_sha256 or column_sha256(texts) != shard.texts_sha256:
            yield f"{shard.path}: its ids or texts do not match their checksums"
        characters, tokens = table["char_count"].to_numpy(), table["token_count"].to_numpy()  # null becomes NaN
        faults = {
            "char_count is wrong": characters != pc.utf8_length(table["text"]).to_numpy(),
            "token_count is outside the limits": ~((tokens >= limits["min_tokens"]) & (tokens <= limits["max_tokens"])),
        }
        for fault, is_wrong in faults.items():
            rows = np.flatnonzero(is_wrong)
            if len(rows):
                yield f"{shard.path}: {fault} for {len(rows)} rows, the first is {ids[rows[0]]}"
        live = [text_id for row, text_id in enumerate(ids, start) if row not in deleted]  # an id may be there again
        for text_id in live:
            if hash(text_id) in seen:
                yield f"{shard.path}: duplicate id {text_id}"
            seen.add(hash(text_id))


def _rows_or_fault(path: Path) -> pa.Table | str:
    """Read a paragraph file; returns what is wrong if it cannot be read, or lacks a column."""
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        return f"cannot be read: {error}"
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    wrong = [name for name, is_right in _TYPES.items() if name not in types or not is_right(types[name])]
    return f"missing columns, or columns of another type than expected: {', '.join(wrong)}" if wrong else table


def embedding_faults(
    folder: Path,
    manifest: EmbeddingManifest | None,
    store: ParagraphStore,
    split: Split,
    paths: Sequence[Path] | None = None,
) -> tuple[list[str], list[str]]:
    """Verify the embedding files of a split, reading every byte.

    Args:
        folder: folder of the manifest.
        manifest: manifest of the embeddings.
        store: paragraphs that the embeddings were made from.
        split: split to verify.
        paths: embedding files, if they are not in the folder.

    Returns:
        Lines about valid files, and lines about faults.
    """
    entry = manifest["splits"].get(split) if manifest else None
    corpus = store.corpus
    if entry is not None and entry["corpus"] != corpus:
        return [], [f"{folder}: the embeddings of {split} belong to the corpus {entry['corpus']}, expected {corpus}"]
    good: list[str] = []
    bad: list[str] = []
    if entry is not None and fingerprint(entry["settings"], entry["upstream"]) != entry["fingerprint"]:
        bad.append(f"{folder / 'manifest.json'}: the settings of {split} do not match their fingerprint")
    shards = store.listed(split)
    calibration = manifest.get("calibration") if manifest else None
    if entry is None or calibration is None or calibration.get("settings_sha256") != sha256_of_json(entry["settings"]):
        calibration = None  # made with the settings of another split
    for index, paragraphs in enumerate(shards):
        name = file_of_shard(paragraphs, split, f"{split}_embeddings", ".safetensors")
        path = paths[index] if paths else folder / name
        if not path.exists() and entry is None:
            good.append(f"{split}: no embeddings yet")
            continue
        faults = list(_embedding_shard_faults(path, entry, index, paragraphs, calibration))
        bad += faults
        if not faults:
            good.append(f"{path.name}: {paragraphs.rows:,} vectors: hashes, alignment, finiteness and norms")
    return good, bad


def _embedding_shard_faults(
    path: Path,
    listed: EmbeddedSplit | None,
    index: int,
    paragraphs: ParagraphShard,
    calibration: Mapping[str, Any] | None,
) -> Iterator[str]:
    entry = entry_for(paragraphs, listed["shards"], index) if listed else None
    try:
        shard = open_embedding_shard(path)
    except StoreError as error:
        yield str(error)
        return
    if entry is None:
        yield f"{path}: not listed in manifest.json"
    elif sha256_of_file(path) != entry.sha256:
        yield f"{path}: checksum mismatch with manifest.json"
    try:
        check_belongs(shard, paragraphs, entry, listed["settings"] if listed else None)
    except StoreError as error:
        yield str(error)
    if shard.metadata.get("dim") != str(shard.dim):
        yield f"{path}: has {shard.dim} dimensions, its metadata expects {shard.metadata.get('dim')}"
    if calibration and shard.rows and not shard.coding.to_json().items() <= calibration.items():
        yield f"{path}: its calibration differs from that of manifest.json"
    tolerance = 1e-3 if shard.coding.precision == "float16" else 1e-5
    for start in range(0, shard.rows, _BLOCK_ROWS):
        block = shard.vectors(slice(start, start + _BLOCK_ROWS)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged vectors are expected here
            norms = np.linalg.norm(block, axis=1)
        wrong = ~np.isfinite(block).all(axis=1) | (norms == 0)
        if shard.normalized:
            wrong |= ~(np.abs(norms - 1) <= tolerance)
        if wrong.any():
            row = start + int(np.flatnonzero(wrong)[0])
            yield f"{path}: {int(wrong.sum())} vectors are not finite or not of length 1, the first is row {row}"
            return
