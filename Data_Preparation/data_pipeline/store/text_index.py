"""An index of texts by their SHA-256, out of core: sorted arrays in files that have no name.

The digests of all sources are divided by their first bits into partitions that fit in memory, and each is sorted, so
that the whole is sorted. A lookup is a binary search for the first 8 bytes, then a comparison of all 32.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.store.hashing import DIGEST_BYTES
from data_pipeline.store.text_digests import Digests
from data_pipeline.types import IntArray

_PARTITION_ROWS = 2_000_000  # which takes about 200 MB while it is sorted
_RECORD = np.dtype([("digest", np.uint8, (DIGEST_BYTES,)), ("source", np.int32), ("row", np.int64)])


class TextIndex:
    """Texts of several sources, found by their SHA-256.

    Args:
        rows: number of texts of each source.
        digests_of: returns the digests of the texts of a source, by its position.
        folder: folder on a disk with room for 52 bytes for each text.
    """

    def __init__(self, rows: Sequence[int], digests_of: Callable[[int], Digests], folder: Path) -> None:
        partitions = max(1, -(-sum(rows) // _PARTITION_ROWS))
        with ExitStack() as files:
            parts = [files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(partitions)]
            for source in range(len(rows)):
                _divide(digests_of(source), source, parts)
            sorted_file = files.enter_context(tempfile.TemporaryFile(dir=folder))
            keys_file = files.enter_context(tempfile.TemporaryFile(dir=folder))
            for part in parts:
                _sort_into(part, keys_file, sorted_file)
            self._keys: NDArray[np.uint64] = _map(keys_file, np.dtype(np.uint64))
            self._records = _map(sorted_file, _RECORD)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, digests: Digests) -> tuple[IntArray, IntArray]:
        """Find texts by their digests, shape (N, 32).

        Returns:
            Position of the source and row in it of each text, both of shape (N,); -1 for texts that no source has.
            Of several sources with a text, the first counts.
        """
        sources, rows = np.full(len(digests), -1, np.int64), np.full(len(digests), -1, np.int64)
        if not len(self) or not len(digests):
            return sources, rows
        wanted = _keys_of(digests)
        order = np.argsort(wanted, kind="stable")  # neighbours in the index are read one after another
        places = np.searchsorted(self._keys, wanted[order]).clip(max=len(self) - 1)
        found = self._records[places]
        is_same = (found["digest"] == digests[order]).all(axis=1)
        sources[order[is_same]], rows[order[is_same]] = found["source"][is_same], found["row"][is_same]
        return sources, rows


def _keys_of(digests: Digests) -> NDArray[np.uint64]:
    """First 8 bytes of digests as numbers."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def _divide(digests: Digests, source: int, parts: Sequence[IO[bytes]]) -> None:
    records = np.empty(len(digests), _RECORD)
    records["digest"], records["source"], records["row"] = digests, source, np.arange(len(digests))
    partition = (_keys_of(digests) >> np.uint64(32)) * np.uint64(len(parts)) >> np.uint64(32)
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(len(parts) + 1))
    for number, part in enumerate(parts):
        part.write(records[order[bounds[number] : bounds[number + 1]]].tobytes())


def _sort_into(part: IO[bytes], keys_file: IO[bytes], sorted_file: IO[bytes]) -> None:
    part.flush()
    part.seek(0)
    records = np.frombuffer(part.read(), _RECORD)
    keys = _keys_of(records["digest"])
    order = np.argsort(keys, kind="stable")
    keys_file.write(keys[order].tobytes())
    sorted_file.write(records[order].tobytes())
    part.truncate(0)


def _map(file: IO[bytes], dtype: np.dtype[Any]) -> NDArray[Any]:
    file.flush()
    rows = file.seek(0, 2) // dtype.itemsize
    return np.memmap(file, dtype, "r", shape=(rows,)) if rows else np.zeros(0, dtype)
