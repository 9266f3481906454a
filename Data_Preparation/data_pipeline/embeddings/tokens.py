"""Token ids of many texts as one flat array, in memory or in a file that is mapped."""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import IntArray

logger = logging.getLogger(__name__)

Int32Array = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of N texts, special tokens included; text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Int32Array
    """All texts, one after the other, shape (tokens,)."""
    offsets: IntArray
    """Where each text begins, and where the last one ends, shape (N + 1,)."""
    truncated: NDArray[np.bool_]
    """Which texts were longer than the model's maximum, shape (N,)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """Tokens of every text, shape (N,)."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Int32Array:
        """Ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: IntArray) -> "Tokens":
        """The texts of some rows, in that order, copied."""
        return from_rows([self.row(row) for row in rows.tolist()], self.truncated[rows])


def from_rows(rows: Sequence[Sequence[int] | Int32Array], truncated: Sequence[bool] | NDArray[np.bool_]) -> Tokens:
    """Flat tokens from the ids of each text."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.empty(offsets[-1], dtype=np.int32)
    for row, start, end in zip(rows, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        ids[start:end] = row
    return Tokens(ids, offsets, np.asarray(truncated, dtype=np.bool_))


def spill(parts: Iterable[Tokens], folder: Path) -> Tokens:
    """Join tokens in a file that is mapped, so that they take disk and not memory.

    The file has no name any more when this returns: it is removed with the last use of the tokens,
    also when the process is killed. A folder whose file system maps no files takes memory instead.

    Args:
        parts: tokens of consecutive texts.
        folder: on the disk that has room for 4 bytes a token.
    """
    starts, truncated, total = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.bool_)], 0
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            file.write(part.ids.tobytes())
            starts.append(part.offsets[1:] + total)
            truncated.append(part.truncated)
            total += len(part.ids)
        file.flush()
        offsets = np.concatenate(starts)
        ids = _mapped(file, total) if total else np.zeros(0, np.int32)
    return Tokens(ids, offsets, np.concatenate(truncated))


def _mapped(file: IO[bytes], count: int) -> Int32Array:
    try:
        return np.memmap(file, dtype=np.int32, mode="r", shape=(count,))
    except OSError as error:
        logger.debug("Token ids stay in memory, because their file cannot be mapped: %s", error)
        file.seek(0)
        return np.frombuffer(file.read(), np.int32)
