"""Token ids of many texts as one flat array, in memory or in a memory-mapped file."""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    """Ids of all texts, concatenated, shape (tokens,)."""
    offsets: IntArray
    """Start of each text in `ids`, and the end of the last one, shape (N + 1,)."""
    truncated: NDArray[np.bool_]
    """Whether each text was longer than the model's maximum, shape (N,)."""
    prompt_tokens: int = 0
    """Number of tokens at the start of every text that are its prompt and are not pooled; 0 for most models."""
    counts: IntArray | None = None
    """Number of tokens of each text, shape (N,), where an id is not a token; None: an id is one."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """Number of tokens of each text, shape (N,)."""
        return np.diff(self.offsets) if self.counts is None else self.counts

    def row(self, index: int) -> Int32Array:
        """Token ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: IntArray) -> "Tokens":
        """Copy the texts at the given rows, in that order."""
        counts = None if self.counts is None else self.counts[rows]
        taken = from_rows([self.row(row) for row in rows.tolist()], self.truncated[rows], counts)
        return replace(taken, prompt_tokens=self.prompt_tokens)


def from_rows(
    rows: Sequence[Sequence[int] | Int32Array],
    truncated: Sequence[bool] | NDArray[np.bool_],
    counts: IntArray | None = None,
) -> Tokens:
    """Concatenate the ids of each text; `counts` are its tokens where an id is not one."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.empty(offsets[-1], dtype=np.int32)
    for row, start, end in zip(rows, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        ids[start:end] = row
    return Tokens(ids, offsets, np.asarray(truncated, dtype=np.bool_), counts=counts)


def concatenate(parts: Iterable[Tokens]) -> Tokens:
    """Concatenate tokens of consecutive texts, all with the same prompt, in memory."""
    kept = list(parts)
    if not kept:
        return from_rows([], [])
    lengths = np.concatenate([part.lengths for part in kept])
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    ids = np.concatenate([part.ids for part in kept])
    return Tokens(ids, offsets, np.concatenate([part.truncated for part in kept]), kept[0].prompt_tokens)


def spill(parts: Iterable[Tokens], folder: Path) -> Tokens:
    """Concatenate tokens in a memory-mapped file, so that they use disk space instead of memory.

    The file has no name when this returns: the system deletes it after the last use of the tokens,
    also when the process is killed. Where the file system cannot map files, memory is used instead.

    Args:
        parts: tokens of consecutive texts, all with the same prompt.
        folder: folder on a disk with room for 4 bytes for each token.
    """
    starts, truncated, total = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.bool_)], 0
    prompt_tokens = 0
    counts: list[IntArray] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            file.write(part.ids.tobytes())
            starts.append(part.offsets[1:] + total)
            truncated.append(part.truncated)
            counts += [] if part.counts is None else [part.counts]
            total += len(part.ids)
            prompt_tokens = part.prompt_tokens
        file.flush()
        offsets = np.concatenate(starts)
        ids = _map_file(file, total) if total else np.zeros(0, np.int32)
    return Tokens(ids, offsets, np.concatenate(truncated), prompt_tokens, np.concatenate(counts) if counts else None)


def _map_file(file: IO[bytes], count: int) -> Int32Array:
    try:
        return np.memmap(file, dtype=np.int32, mode="r", shape=(count,))
    except OSError as error:
        logger.debug("Token ids stay in memory, because their file cannot be mapped: %s", error)
        file.seek(0)
        return np.frombuffer(file.read(), np.int32)
