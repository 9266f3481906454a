"""SHA-256 of each text of a paragraph shard, by which it is looked up; kept in `.cache` beside the shard.

They are written with the shard, and computed again where they are missing.
"""

import contextlib

import numpy as np
from numpy.typing import NDArray

from data_pipeline.store.hashing import DIGEST_BYTES, digests_of, digests_path
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.utils import atomic_write_bytes

Digests = NDArray[np.uint8]
"""SHA-256 of N texts, shape (N, 32)."""


def text_digests(shard: ParagraphShard) -> Digests:
    """SHA-256 of each text of a shard, in order; read from its cache, or computed and cached where that is possible.

    Raises:
        CorruptShardError: the file is damaged.
    """
    path = digests_path(shard.path.parent, shard.texts_sha256)
    with contextlib.suppress(OSError):
        if path.stat().st_size == shard.rows * DIGEST_BYTES:
            return np.fromfile(path, np.uint8).reshape(-1, DIGEST_BYTES)
    content = b"".join(digests_of(batch["text"]) for batch in shard.batches(["text"]))
    with contextlib.suppress(OSError):  # a folder that is read-only
        atomic_write_bytes(path, content)
    return np.frombuffer(content, np.uint8).reshape(-1, DIGEST_BYTES)
