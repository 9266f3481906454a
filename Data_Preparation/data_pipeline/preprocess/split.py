"""Rows -> train, val or test."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import SplitConfig
from data_pipeline.errors import SourceError
from data_pipeline.types import SPLITS, Split

_POSITION = {split: index for index, split in enumerate(SPLITS)}


def split_of_document(document_id: str, config: SplitConfig) -> Split:
    """The split of a whole document, from its id and the seed alone.

    Added or removed documents move no other one; the ratios hold on average.
    """
    digest = hashlib.blake2b(f"{config.seed}:{document_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < config.train_ratio:
        return "train"
    return "val" if place < config.train_ratio + config.val_ratio else "test"


def split_by_document(document_ids: Sequence[str], config: SplitConfig) -> NDArray[np.int8]:
    """Index into `SPLITS` of every row, shape (N,)."""
    known = {document_id: _POSITION[split_of_document(document_id, config)] for document_id in set(document_ids)}
    return np.array([known[document_id] for document_id in document_ids], dtype=np.int8)


def split_by_shuffle(rows: int, config: SplitConfig) -> NDArray[np.int8]:
    """Index into `SPLITS` of every row by a seeded shuffle with exact sizes, shape (rows,).

    Paragraphs of one article land in different splits, as they did in the original pipeline.
    """
    # Rounded first: 100 * 0.57 is a little less than 57 in binary.
    train = int(round(rows * config.train_ratio, 6))
    val = int(round(rows * config.val_ratio, 6))
    split_of_rank = np.full(rows, _POSITION["test"], dtype=np.int8)
    split_of_rank[:train] = _POSITION["train"]
    split_of_rank[train : train + val] = _POSITION["val"]
    return split_of_rank[np.random.default_rng(config.seed).permutation(rows)]


def split_by_source(source_splits: Sequence[str], document_ids: Sequence[str]) -> NDArray[np.int8]:
    """Index into `SPLITS` of every row, as the source has it, shape (N,).

    Raises:
        SourceError: a document says no split.
    """
    for source_split, document_id in zip(source_splits, document_ids, strict=True):
        if not source_split:
            raise SourceError(
                f"--split.method official, but the source says no split for document {document_id!r}. "
                "Use --split.method document, name --corpus.split_field, or call the files train, val and test."
            )
    return np.array([_POSITION[source_split] for source_split in source_splits], dtype=np.int8)  # type: ignore[index]
