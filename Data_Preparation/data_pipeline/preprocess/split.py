"""Assignment of rows to train, val or test."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import SplitConfig
from data_pipeline.errors import SourceError
from data_pipeline.types import SPLITS, Split

_POSITION = {split: index for index, split in enumerate(SPLITS)}


def split_of_document(document_id: str, config: SplitConfig) -> Split:
    """Split of a whole document, which depends on its id and the seed alone.

    Adding or removing documents moves no other document; the ratios hold on average.
    """
    digest = hashlib.blake2b(f"{config.seed}:{document_id}".encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest, "big") / 2**64
    if fraction < config.train_ratio:
        return "train"
    return "val" if fraction < config.train_ratio + config.val_ratio else "test"


def split_by_document(document_ids: Sequence[str], config: SplitConfig) -> NDArray[np.int8]:
    """Split of every row by its document, as an index into `SPLITS`, shape (N,)."""
    split_of = {document_id: _POSITION[split_of_document(document_id, config)] for document_id in set(document_ids)}
    return np.array([split_of[document_id] for document_id in document_ids], dtype=np.int8)


def split_by_shuffle(rows: int, config: SplitConfig) -> NDArray[np.int8]:
    """Split of every row by a seeded shuffle with exact sizes, as an index into `SPLITS`, shape (rows,).

    Paragraphs of one article get into different splits, as in the original pipeline.
    """
    # Rounded before truncating, because 100 * 0.57 is less than 57 in floating point.
    train = int(round(rows * config.train_ratio, 6))
    val = int(round(rows * config.val_ratio, 6))
    split_of_rank = np.full(rows, _POSITION["test"], dtype=np.int8)
    split_of_rank[:train] = _POSITION["train"]
    split_of_rank[train : train + val] = _POSITION["val"]
    return split_of_rank[np.random.default_rng(config.seed).permutation(rows)]


def split_by_source(source_splits: Sequence[str], document_ids: Sequence[str]) -> NDArray[np.int8]:
    """Split of every row as the source gives it, as an index into `SPLITS`, shape (N,).

    Raises:
        SourceError: a document has no split.
    """
    for source_split, document_id in zip(source_splits, document_ids, strict=True):
        if not source_split:
            raise SourceError(
                f"split.method is official, but the source has no split for the document {document_id!r}. "
                "Set split.method to document, set corpus.split_field, or name the files train, val and test."
            )
    return np.array([_POSITION[source_split] for source_split in source_splits], dtype=np.int8)  # type: ignore[index]
