"""The calibration of int8 and float8 stores: once, before the first row, for all splits."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.embeddings.base import Embedder
from data_pipeline.embeddings.engine import encode
from data_pipeline.errors import CorruptShard, ShardMismatch, StaleStage
from data_pipeline.store import (
    CALIBRATED,
    Coding,
    ColumnHash,
    ParagraphShard,
    ParagraphStore,
    calibrate,
    coding_from_json,
    write_manifest,
)
from data_pipeline.store.manifest import EmbeddingManifest
from data_pipeline.types import Float32Array
from data_pipeline.utils import sha256_of_json

logger = logging.getLogger(__name__)

_ROWS = 2048
_SHARDS = 8
_FEW = 100


def calibrated_coding(
    precision: str,
    store: ParagraphStore,
    embedder: Embedder,
    settings: Mapping[str, str],
    folder: Path,
    manifest: EmbeddingManifest | None,
    overwrite: bool,
) -> Coding:
    """How a folder's vectors are stored; found out and put into its manifest once.

    By texts of the largest split, whichever is embedded first.

    Args:
        precision: of the stored vectors.
        store: the paragraphs.
        embedder: the model.
        settings: what else decides what the vectors are.
        folder: of the manifest.
        manifest: of the folder, which is written again with the calibration; None if it has none.
        overwrite: replace a calibration of other settings.

    Raises:
        StaleStage: the folder is calibrated for other settings, and not `overwrite`.
        CorruptShard: its calibration is damaged, and not `overwrite`.
        ShardMismatch: the texts are not those that the store speaks of.
    """
    coding = Coding(precision)
    coding.width(embedder.identity.dim)
    if precision not in CALIBRATED:
        return coding
    split = max(store.splits, key=lambda split: sum(shard.rows for shard in store.listed(split)))
    shards = store.listed(split)
    made_for = {
        "settings_sha256": sha256_of_json(dict(settings)),
        "texts_sha256": sha256_of_json([shard.texts_sha256 for shard in shards]),
    }
    manifest = manifest or {"stage": "embeddings", "splits": {}}
    known = manifest.get("calibration")
    if known is not None and made_for.items() <= known.items():
        try:
            return coding_from_json(known, precision, embedder.identity.dim, folder / "manifest.json")
        except CorruptShard:
            if not overwrite:
                raise
    if known is not None and not overwrite:
        raise StaleStage(
            f"{folder} is calibrated for {known['precision']} vectors of other settings or texts. "
            "Pass --overwrite to rebuild it, or --embedding.variant NAME to keep both."
        )
    texts = _sample(shards)
    if not texts:  # nothing will be stored
        return calibrate(precision, np.zeros((1, embedder.identity.dim), np.float32))
    logger.info("%s: calibrating on %d texts of %s", precision, len(texts), split)
    if len(texts) < _FEW:
        logger.warning(
            "%s: %d texts are few to calibrate on; look at the cosines of other splits", precision, len(texts)
        )
    sample = encode(embedder, texts)
    coding = calibrate(precision, sample)
    cosines = _cosines(sample, coding.decode(coding.encode(sample)))
    logger.info(
        "%s: cosine of stored to exact vectors %.5f or more, %.5f on average", precision, cosines.min(), cosines.mean()
    )  # fmt: skip
    manifest["calibration"] = {
        **coding.to_json(),
        **made_for,
        "split": split,
        "rows": len(sample),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
    }
    write_manifest(folder, manifest)
    return coding


def _sample(shards: list[ParagraphShard]) -> list[str]:
    """Texts from all over a split, the same ones every time.

    Raises:
        ShardMismatch: a file is not the one that was opened.
    """
    shards = [shard for shard in shards if shard.rows]
    shards = shards[:: -(-len(shards) // _SHARDS)] if shards else []
    texts: list[str] = []
    for shard in shards:
        step = -(-shard.rows * len(shards) // _ROWS)
        start, seen = 0, ColumnHash()
        for batch in shard.batches(["text"]):
            some = batch["text"].to_pylist()
            seen.update(some)
            texts += some[-start % step :: step]
            start += len(some)
        if seen.hexdigest() != shard.texts_sha256:
            raise ShardMismatch(f"{shard.path} was changed while it was being embedded, or is damaged. Run again.")
    return texts


def _cosines(found: Float32Array, exact: Float32Array) -> Float32Array:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    cosines: Float32Array = (found * exact).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return cosines
