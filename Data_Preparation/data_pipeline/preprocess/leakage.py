"""Leakage of the test split from train: articles in both splits, and near duplicates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.near_index import NearIndex
from data_pipeline.preprocess.staging import hashes_of
from data_pipeline.store import ParagraphStore
from data_pipeline.store.paragraphs import ShardPart

_SAMPLE_ROWS = 20_000
_SAMPLE_CHARACTERS = 32_000_000  # each takes about 5 bytes for text and index


@dataclass(frozen=True)
class Leaks:
    """What the rows of a part of train have in common with test."""

    articles: list[int]
    """First row of each document of test that the part has too."""
    texts: list[int]
    """Rows of test, among those that are compared, that are near duplicates of a row of the part."""


class TestRows:
    """Documents and texts of the test split that train is compared with.

    Near duplicates are searched among the first 20,000 test paragraphs, and among fewer if these have more than 32
    million characters, so that memory stays bounded.

    Args:
        store: the paragraphs.
        threshold: minimum Jaccard similarity of the sets of 5-grams (see `near.shingles`) of near duplicates.
    """

    def __init__(self, store: ParagraphStore, threshold: float) -> None:
        self._store, self._threshold = store, threshold
        documents: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]  # hashes, 8 bytes for every row of test
        documents += [_hashes(batch["document_id"]) for batch, _ in store.live_batches("test", ["document_id"])]
        texts = _first_texts(store)
        self.rows, self.texts = sum(map(len, documents)), len(texts)
        self._documents, self._first_rows, self._document_of_row = np.unique(
            np.concatenate(documents), return_index=True, return_inverse=True
        )
        self._index = NearIndex(threshold, texts)

    def leaks(self, part: ShardPart, advance: Callable[[int], object]) -> Leaks:
        """Compare a part of train, which is read once as a stream."""
        is_shared = np.zeros(len(self._documents), np.bool_)
        duplicates: set[int] = set()
        for batch, _ in self._store.live_batches("train", ["document_id", "text"], part):
            if len(self._documents):
                in_train = _hashes(batch["document_id"])
                found = np.searchsorted(self._documents, in_train).clip(max=len(self._documents) - 1)
                is_shared[found[self._documents[found] == in_train]] = True
            if self.texts:
                duplicates.update(row for _, row, _ in self._index.matches(batch["text"].to_pylist()))
            advance(batch.num_rows)
        return Leaks(self._first_rows[is_shared].tolist(), sorted(duplicates))

    def figures(self, leaks: Iterable[Leaks]) -> dict[str, Any]:
        """Return the shares of test paragraphs that leak from train, given what all parts of train have in common.

        Returns:
            `test_paragraphs` and `test_paragraphs_compared`, numbers of paragraphs; `article_in_train` and
            `near_duplicate_in_train`, shares from 0 to 1, None where train or test is empty; `near_threshold`.
        """
        found = list(leaks)
        figures: dict[str, Any] = {"test_paragraphs": self.rows, "test_paragraphs_compared": self.texts}
        articles = near = None
        if self.rows and self._store.live_count("train"):
            shared = np.isin(self._first_rows, sorted({row for one in found for row in one.articles}))
            articles = float(shared[self._document_of_row].sum()) / self.rows
            near = len({row for one in found for row in one.texts}) / self.texts
        return figures | {
            "article_in_train": articles,
            "near_duplicate_in_train": near,
            "near_threshold": self._threshold,
        }


def _first_texts(store: ParagraphStore) -> list[str]:
    """Texts of test that train is compared with."""
    texts: list[str] = []
    characters = 0
    for batch, _ in store.live_batches("test", ["text"]):
        for text in batch["text"].to_pylist():
            if len(texts) == _SAMPLE_ROWS or characters >= _SAMPLE_CHARACTERS:
                return texts
            texts.append(text)
            characters += len(text)
    return texts


def _hashes(document_ids: pa.Array) -> NDArray[np.uint64]:
    return hashes_of(pl.Series(pl.from_arrow(document_ids)))
