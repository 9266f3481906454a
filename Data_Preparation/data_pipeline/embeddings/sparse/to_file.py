"""Computes the sparse vectors of a file, block by block, and resumes at the first block that is missing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.embeddings.sparse.encoder import SparseEncoder, encode_sparse
from data_pipeline.store.sparse import SparseWriter


@dataclass(frozen=True)
class SparseFile:
    """A file of sparse vectors to be filled."""

    path: Path
    rows: int
    metadata: Mapping[str, str]
    """Goes into the header; unfinished work with other metadata is not resumed."""
    row_name: Callable[[int], str]
    """Name of a row of the file, for messages."""


def embed_to_sparse_file(
    file: SparseFile,
    blocks: Iterable[tuple[int, list[str]]],
    encoder: SparseEncoder,
    advance: Callable[[int], object],
) -> None:
    """Compute the vectors of a file, resuming where an earlier run stopped.

    Args:
        file: what is to be written.
        blocks: texts in order, with the row of the first; the same blocks in every run.
        encoder: the model.
        advance: called with numbers of rows as they are finished.

    Raises:
        ModelError: see `encode_sparse`.
    """
    writer = SparseWriter(file.path, file.rows, file.metadata)
    for start, texts in blocks:
        if not writer.has_block(start, len(texts)):
            rows = encode_sparse(encoder, texts, name_of=partial(_name_in_block, file, start))
            writer.write_block(start, rows)
        advance(len(texts))
    writer.finish()


def _name_in_block(file: SparseFile, start: int, position: int) -> str:
    return file.row_name(start + position)
