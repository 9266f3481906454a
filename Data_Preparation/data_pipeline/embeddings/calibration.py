"""Calibration of int8 and float8 stores: once for all splits, before the first row is stored."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.engine import encode
from data_pipeline.errors import CorruptShardError, ShardMismatchError, StaleStageError
from data_pipeline.store.hashing import ColumnHash
from data_pipeline.store.manifest import EmbeddingManifest, contents_of, write_manifest
from data_pipeline.store.paragraphs import ParagraphShard, ParagraphStore
from data_pipeline.store.quantization import CALIBRATED, Coding, calibrate, coding_from_json
from data_pipeline.types import Float32Array
from data_pipeline.utils import sha256_of_json

logger = logging.getLogger(__name__)

_SAMPLE_ROWS = 2048
_SAMPLE_SHARDS = 8
_FEW_ROWS = 100  # below it a calibration may not fit other texts


def calibrated_coding(
    precision: str,
    store: ParagraphStore,
    embedder: Embedder,
    settings: Mapping[str, str],
    folder: Path,
    manifest: EmbeddingManifest | None,
    overwrite: bool,
) -> Coding:
    """Read the coding of a folder's vectors from its manifest, or calibrate it and add it to the manifest.

    Calibrates on texts of the largest split, whichever split is embedded first.

    Args:
        precision: precision of the stored vectors.
        store: the paragraphs.
        embedder: the model.
        settings: the other settings that decide the vectors.
        folder: folder of the manifest.
        manifest: manifest of the folder, which is written again with the calibration; None if it has none.
        overwrite: replace a calibration of other settings.

    Raises:
        StaleStageError: the folder is calibrated for other settings, and `overwrite` is False.
        CorruptShardError: its calibration is damaged, and `overwrite` is False.
        ShardMismatchError: the texts do not have the hash that the store lists.
    """
    coding = Coding(precision)
    coding.width(embedder.identity.dim)
    if precision not in CALIBRATED:
        return coding
    split = max(store.splits, key=lambda split: sum(shard.rows for shard in store.listed(split)))
    shards = store.listed(split)
    inputs = {
        "settings_sha256": sha256_of_json(dict(settings)),
        "texts_sha256": sha256_of_json([shard.texts_sha256 for shard in shards]),
    }
    manifest = manifest or {"stage": "embeddings", "splits": {}}
    existing = manifest.get("calibration")
    if existing is not None and (inputs.items() <= existing.items() or _is_in_use(existing, inputs, manifest, store)):
        try:
            return coding_from_json(existing, precision, embedder.identity.dim, folder / "manifest.json")
        except CorruptShardError:
            if not overwrite:
                raise
    if existing is not None and not overwrite:
        raise StaleStageError(
            f"{folder} is calibrated for {existing['precision']} vectors of other settings or texts. "
            "Rebuild it with --overwrite, or set embedding.variant to keep both."
        )
    texts = _sample_texts(shards)
    if not texts:  # there are no vectors to store
        return calibrate(precision, np.zeros((1, embedder.identity.dim), np.float32))
    logger.info("Calibrating %s on %d texts of %s", precision, len(texts), split)
    if len(texts) < _FEW_ROWS:
        logger.warning("%s: %d texts are few to calibrate on; check the cosines of other splits", precision, len(texts))
    sample = encode(embedder, texts)
    coding = calibrate(precision, sample)
    cosines = _cosines(sample, coding.decode(coding.encode(sample)))
    logger.info(
        "%s: cosine of stored to exact vectors %.5f or more, %.5f on average", precision, cosines.min(), cosines.mean()
    )  # fmt: skip
    manifest["calibration"] = {
        **coding.to_json(),
        **inputs,
        "split": split,
        "rows": len(sample),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
    }
    write_manifest(folder, manifest)
    return coding


def _is_in_use(
    existing: Mapping[str, object], inputs: Mapping[str, str], manifest: EmbeddingManifest, store: ParagraphStore
) -> bool:
    """Return whether vectors of some of these rows have a calibration already, which those that came since share."""
    own = {shard.content for split in store.splits for shard in store.listed(split) if shard.rows}
    listed = {content for split in manifest["splits"].values() for content in contents_of(split["shards"])}
    return existing.get("settings_sha256") == inputs["settings_sha256"] and not own.isdisjoint(listed)


def _sample_texts(shards: list[ParagraphShard]) -> list[str]:
    """Texts from all parts of a split; always the same ones.

    Raises:
        ShardMismatchError: a file was changed after it was opened.
    """
    shards = [shard for shard in shards if shard.rows]
    shards = shards[:: -(-len(shards) // _SAMPLE_SHARDS)] if shards else []
    texts: list[str] = []
    for shard in shards:
        step = -(-shard.rows * len(shards) // _SAMPLE_ROWS)
        start, digest = 0, ColumnHash()
        for batch in shard.batches(["text"]):
            rows = batch["text"].to_pylist()
            digest.update(rows)
            texts += rows[-start % step :: step]
            start += len(rows)
        if digest.hexdigest() != shard.texts_sha256:
            raise ShardMismatchError(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")
    return texts


def _cosines(stored: Float32Array, exact: Float32Array) -> Float32Array:
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(exact, axis=1)
    return (stored * exact).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
