"""SHA-256 of each text of a paragraph shard, kept in `.cache` beside it, since a text is looked up by it."""

import contextlib
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.utils import atomic_write_bytes

DIGEST_BYTES = 32

Digests = NDArray[np.uint8]
"""SHA-256 of N texts, shape (N, 32)."""


def text_digests(shard: ParagraphShard) -> Digests:
    """SHA-256 of each text of a shard, in order; read from its cache, or computed and cached where that is possible.

    Raises:
        CorruptShardError: the file is damaged.
    """
    path = _cache_path(shard)
    with contextlib.suppress(OSError):
        if path.stat().st_size == shard.rows * DIGEST_BYTES:
            return np.fromfile(path, np.uint8).reshape(-1, DIGEST_BYTES)
    content = b"".join(_digests_of(batch["text"]) for batch in shard.batches(["text"]))
    with contextlib.suppress(OSError):  # a folder that is read-only
        atomic_write_bytes(path, content)
    return np.frombuffer(content, np.uint8).reshape(-1, DIGEST_BYTES)


def _cache_path(shard: ParagraphShard) -> Path:
    """Named by the hash of all texts, so that a file of other texts has another cache."""
    return shard.path.parent / ".cache" / f"texts-{shard.texts_sha256[:32]}.sha256"


def _digests_of(texts: pa.Array) -> bytes:
    """Digests of the UTF-8 of texts, read where Arrow has it; other programs write texts with large offsets."""
    texts = texts.cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1].tolist()
    data = memoryview(texts.buffers()[2] or b"")
    return b"".join(hashlib.sha256(data[start:end]).digest() for start, end in itertools.pairwise(offsets))
