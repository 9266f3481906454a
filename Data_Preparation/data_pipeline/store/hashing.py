"""SHA-256 of a column of strings, which ties stores together, and of each of its strings."""

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa


class ColumnHash:
    """Incremental SHA-256 of strings in order, each hashed as 8 bytes of length (little endian) and its UTF-8."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, strings: Iterable[str]) -> None:
        """Add strings to the hash."""
        parts = []
        for string in strings:
            encoded = string.encode()
            parts.append(len(encoded).to_bytes(8, "little"))
            parts.append(encoded)
        self._hash.update(b"".join(parts))

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def column_sha256(strings: Iterable[str]) -> str:
    """Return the `ColumnHash` of a whole column."""
    column = ColumnHash()
    column.update(strings)
    return column.hexdigest()


DIGEST_BYTES = 32
"""Size of the SHA-256 of a text."""


def digests_of(texts: pa.Array) -> bytes:
    """SHA-256 of each text of an Arrow array, one after another."""
    texts = texts.cast(pa.large_string())  # other programs write texts with large offsets
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1].tolist()
    data = memoryview(texts.buffers()[2] or b"")
    return b"".join(hashlib.sha256(data[start:end]).digest() for start, end in itertools.pairwise(offsets))


def digests_path(folder: Path, texts_sha256: str) -> Path:
    """Path of the digests of the texts of a paragraph shard, named by the hash of all of them."""
    return folder / ".cache" / f"texts-{texts_sha256[:32]}.sha256"
