"""The one resumable loop that fills an embedding file: every place that stores vectors of texts goes through it.

Vectors are written into their rows as they come. Which rows are on disk is recorded every few seconds, so a killed run
repeats seconds of work, and the finished file has the bytes of an undisturbed run.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.embeddings.engine import Engine
from data_pipeline.embeddings.plan import Plan
from data_pipeline.errors import ModelError
from data_pipeline.store import Coding
from data_pipeline.store.embeddings import EmbeddingWriter
from data_pipeline.types import Float32Array, IntArray

logger = logging.getLogger(__name__)

PLANNED_ROWS = 262_144
"""Rows tokenised and sorted together: many for dense packs, few enough for any memory."""
TOKENIZED_ROWS = 8192
"""Rows tokenised at a time: enough for all cores, few enough to be forgotten soon."""


@dataclass(frozen=True)
class Window:
    """Rows of a file that are planned together."""

    rows: IntArray
    """Their numbers in the file, shape (N,)."""
    plan: Callable[[], Plan]
    """Tokenises and plans their texts, in that order; called only if some of the rows are still to be computed."""


@dataclass(frozen=True)
class ExistingVectors:
    """Vectors that exist already."""

    rows: IntArray
    """Their rows in the file, shape (N,)."""
    vectors: NDArray[Any]
    """Shape (N, dim); or coded like the file, shape (N, stored width)."""
    is_coded: bool


@dataclass(frozen=True)
class FilePlan:
    """A file of vectors to be filled."""

    path: Path
    rows: int
    coding: Coding
    metadata: Mapping[str, str]
    """Goes into the header; unfinished work with other metadata is not resumed."""
    row_name: Callable[[int], str]
    """Name of a row of the file, for messages."""
    span: tuple[int, int] | None = None
    """First and exclusive last row to fill; None for all. Several processes may fill a file at once."""
    zero_rows: IntArray | None = None
    """Rows without a text, shape (N,), which get a vector of zeros."""
    float16_advice: str = "Set embedding.precision to float32, or embedding.normalize to true."
    """Ends the message about a vector that does not fit into float16."""


def embed_to_file(
    file: FilePlan,
    windows: Iterable[Window],
    engine: Engine,
    *,
    advance: Callable[[int], object],
    existing: Iterable[ExistingVectors] = (),
    flush_s: float = 5.0,
    flush_rows: int | None = None,
    overwrite: bool = False,
) -> None:
    """Compute the vectors of a file, resuming where an earlier run stopped.

    Args:
        file: what is to be written.
        windows: its rows, in any order, those of `zero_rows` left out.
        engine: runs the embedder.
        advance: called with numbers of rows as they are finished, those of the earlier run first.
        existing: vectors that exist already, which are written before `windows` is asked for rows.
        flush_s: seconds of finished work that a crash may cost, at most.
        flush_rows: rows of finished work that a crash may cost, instead.
        overwrite: discard unfinished work of other settings.

    Raises:
        StaleStageError: unfinished work of other settings exists, and not `overwrite`.
        ModelError: a vector cannot be computed, or does not fit into float16.
    """
    dim = engine.embedder.identity.dim
    writer = EmbeddingWriter(file.path, file.rows, dim, file.coding, file.metadata, overwrite, file.span)
    own = slice(*(file.span or (0, file.rows)))
    with closing(writer):
        if finished := int(writer.done[own].sum()):
            logger.info("Resuming %s: %d of %d rows done", file.path.name, finished, own.stop - own.start)
        if file.zero_rows is not None:
            writer.write(file.zero_rows, np.zeros((len(file.zero_rows), dim), np.float32))
        advance(int(writer.done[own].sum()))
        last_flush, unsafe = time.monotonic(), 0
        try:
            for part in existing:
                advance(_write_existing(writer, part, file))
            for rows, vectors in _compute(file, windows, engine, writer.done):
                new = int((~writer.done[rows]).sum())
                writer.write(rows, vectors)
                advance(new)
                unsafe += new
                due = time.monotonic() - last_flush > flush_s if flush_rows is None else unsafe >= flush_rows
                if due:
                    writer.flush()
                    last_flush, unsafe = time.monotonic(), 0
        finally:
            writer.flush()  # also after an error: what is finished stays
        writer.finish()


def _write_existing(writer: EmbeddingWriter, existing: ExistingVectors, file: FilePlan) -> int:
    """Write vectors to the rows that are not done; returns the number of rows."""
    new = ~writer.done[existing.rows]
    rows = existing.rows[new]
    if existing.is_coded:
        writer.write_stored(rows, existing.vectors[new])
    else:
        if file.coding.precision == "float16":
            _check_float16(existing.vectors[new], rows, file)
        writer.write(rows, existing.vectors[new])
    return len(rows)


def _compute(
    file: FilePlan, windows: Iterable[Window], engine: Engine, done: NDArray[np.bool_]
) -> Iterator[tuple[IntArray, Float32Array]]:
    """Row numbers and vectors of the windows that are not done; `done` changes while they are written."""
    for window in windows:
        if done[window.rows].all():
            continue
        plan = window.plan()
        name_of = partial(_name_in_window, file, window)
        for positions, vectors in engine.run(plan, name_of, done[window.rows]):
            rows = window.rows[positions]
            if file.coding.precision == "float16":
                _check_float16(vectors, rows, file)
            yield rows, vectors


def _name_in_window(file: FilePlan, window: Window, position: int) -> str:
    return file.row_name(int(window.rows[position]))


def _check_float16(vectors: Float32Array, rows: IntArray, file: FilePlan) -> None:
    outside = np.abs(vectors).max(axis=1, initial=0) > np.finfo(np.float16).max
    if outside.any():
        name = file.row_name(int(rows[outside][0]))
        raise ModelError(f"the vector of {name} is too large for float16. {file.float16_advice}")
