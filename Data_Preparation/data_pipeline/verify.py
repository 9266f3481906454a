"""Checks everything on disk against everything else, from the bytes up."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.config import Config
from data_pipeline.errors import StoreError
from data_pipeline.store import (
    Manifest,
    ParagraphShard,
    ParagraphStore,
    column_sha256,
    fingerprint,
    open_embedding_shard,
    read_manifest,
    shard_name,
)
from data_pipeline.types import Split
from data_pipeline.utils import sha256_of_file, sha256_of_json

_BLOCK_ROWS = 16_384


def verify(config: Config) -> tuple[list[str], list[str]]:
    """Recompute hashes, counts, norms and alignment of a corpus and its embeddings.

    Reads every byte once or twice; holds one paragraph shard in memory, and 60 bytes a row.

    Returns:
        What is in order, and what is wrong; one line each.
    """
    good: list[str] = []
    bad: list[str] = []
    try:
        store = ParagraphStore(config.processed_dir)
    except StoreError as error:
        return good, [str(error)]
    if store.manifest is None:
        bad.append(f"{store.folder} has no manifest: an older pipeline wrote it, and it cannot be verified")
        return good, bad
    seen: set[int] = set()
    for split in store.splits:
        faults = list(_paragraph_faults(store, split, seen))
        bad += faults
        if not faults:
            rows = sum(shard.rows for shard in store.shards(split))
            good.append(f"{split}: {rows:,} paragraphs: hashes, counts, columns and ids")
    bad += _count_faults(store)
    if not config.embeddings_dir.is_dir():
        return good, bad
    try:
        manifest = read_manifest(config.embeddings_dir)
    except StoreError as error:
        return good, [*bad, str(error)]
    for split in store.splits:
        checked, faults = _embedding_faults(config.embeddings_dir, manifest, store, split)
        good += checked
        bad += faults
    return good, bad


def _paragraph_faults(store: ParagraphStore, split: Split, seen: set[int]) -> Iterator[str]:
    manifest: Any = store.manifest
    for shard, entry in zip(store.shards(split), manifest["splits"][split]["shards"], strict=True):
        if sha256_of_file(shard.path) != entry["sha256"]:
            yield f"{shard.path}: its bytes are not those its manifest speaks of"
            continue  # what a damaged file says of itself means nothing
        try:
            table = pq.read_table(shard.path)
        except (OSError, ValueError) as error:
            yield f"{shard.path}: cannot be read: {error}"
            continue
        ids, texts = table["text_id"].to_pylist(), table["text"].to_pylist()
        if column_sha256(ids) != shard.ids_sha256 or column_sha256(texts) != shard.texts_sha256:
            yield f"{shard.path}: its ids or texts are not those its hashes speak of"
        wrong = [i for i, text, n in zip(ids, texts, table["char_count"].to_pylist(), strict=True) if len(text) != n]
        if wrong:
            yield f"{shard.path}: char_count is wrong for {len(wrong)} rows, the first is {wrong[0]}"
        limits = manifest["settings"]["preprocess"]
        outside = [
            i for i, n in zip(ids, table["token_count"].to_pylist(), strict=True)
            if not limits["min_tokens"] <= n <= limits["max_tokens"]
        ]  # fmt: skip
        if outside:
            yield f"{shard.path}: token_count is outside the limits for {len(outside)} rows, the first is {outside[0]}"
        for text_id in ids:
            if hash(text_id) in seen:
                yield f"{shard.path}: the id {text_id} was seen before"
            seen.add(hash(text_id))


def _count_faults(store: ParagraphStore) -> Iterator[str]:
    manifest: Any = store.manifest
    counts = manifest["counts"]
    path = store.folder / "dropped.parquet"
    try:
        reasons = Counter(pq.read_table(path, columns=["reason"])["reason"].to_pylist())
    except (OSError, ValueError) as error:
        yield f"{path}: cannot be read: {error}"
        return
    if sha256_of_file(path) != manifest["dropped_sha256"]:
        yield f"{path}: its bytes are not those its manifest speaks of"
    dropped = reasons.total()
    kept = sum(shard.rows for split in store.splits for shard in store.shards(split))
    if kept != counts["kept"] or dropped != counts["paragraphs"] - counts["kept"]:
        yield (
            f"{store.folder}: {kept} rows kept and {dropped} dropped, the manifest speaks of {counts['kept']} "
            f"and {counts['paragraphs'] - counts['kept']}"
        )
    elif dict(reasons) != counts["dropped"]:
        yield f"{path}: its reasons are not those its manifest counts: {dict(reasons)}, {counts['dropped']}"
    if fingerprint(manifest["settings"], manifest["upstream"]) != manifest["fingerprint"]:
        yield f"{store.folder / 'manifest.json'}: its settings are not those its fingerprint was made from"


def _embedding_faults(
    folder: Path, manifest: Manifest | None, store: ParagraphStore, split: Split
) -> tuple[list[str], list[str]]:
    entry = (manifest or {"splits": {}})["splits"].get(split)
    corpus = store.folder.name.removesuffix("_processed")
    if entry is not None and entry["corpus"] != corpus:
        return [], [f"{folder}: the embeddings of {split} are of the corpus {entry['corpus']}, not {corpus}"]
    good: list[str] = []
    bad: list[str] = []
    if entry is not None and fingerprint(entry["settings"], entry["upstream"]) != entry["fingerprint"]:
        bad.append(f"{folder / 'manifest.json'}: the settings of {split} are not those its fingerprint was made from")
    shards = store.shards(split)
    calibration = (manifest or {}).get("calibration")
    if entry is None or calibration is None or calibration.get("settings_sha256") != sha256_of_json(entry["settings"]):
        calibration = None  # of another split's settings
    for index, paragraphs in enumerate(shards):
        path = folder / shard_name(f"{split}_embeddings", ".safetensors", index, len(shards))
        if not path.exists() and entry is None:
            good.append(f"{split}: no embeddings yet")
            continue
        expected = entry["shards"][index] if entry else None
        faults = list(_embedding_shard_faults(path, expected, paragraphs, calibration))
        bad += faults
        if not faults:
            good.append(f"{path.name}: {paragraphs.rows:,} vectors: hashes, alignment, finiteness and norms")
    return good, bad


def _embedding_shard_faults(
    path: Path, entry: Any, paragraphs: ParagraphShard, calibration: Mapping[str, Any] | None
) -> Iterator[str]:
    try:
        shard = open_embedding_shard(path)
    except StoreError as error:
        yield str(error)
        return
    if entry is None:
        yield f"{path}: no manifest speaks of it"
    elif sha256_of_file(path) != entry["sha256"]:
        yield f"{path}: its bytes are not those its manifest speaks of"
    expected = (paragraphs.rows, paragraphs.ids_sha256, paragraphs.texts_sha256)
    if (shard.rows, shard.metadata.get("ids_sha256"), shard.metadata.get("texts_sha256")) != expected:
        yield f"{path}: was not made from {paragraphs.path}"
    if shard.metadata.get("dim") != str(shard.dim):
        yield f"{path}: is {shard.dim} wide, its metadata says {shard.metadata.get('dim')}"
    if calibration and shard.rows and not shard.coding.to_json().items() <= calibration.items():
        yield f"{path}: is calibrated otherwise than its manifest says"
    tolerance = 1e-3 if shard.coding.precision == "float16" else 1e-5
    for start in range(0, shard.rows, _BLOCK_ROWS):
        block = shard.vectors(slice(start, start + _BLOCK_ROWS)).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # damaged vectors are what this looks for
            norms = np.linalg.norm(block, axis=1)
        wrong = ~np.isfinite(block).all(axis=1) | (norms == 0)
        if shard.metadata.get("normalized") == "true":
            wrong |= ~(np.abs(norms - 1) <= tolerance)
        if wrong.any():
            row = start + int(np.flatnonzero(wrong)[0])
            yield f"{path}: {int(wrong.sum())} vectors are not finite or not of length 1, the first is row {row}"
            return
