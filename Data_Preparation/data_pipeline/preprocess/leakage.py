"""Leakage of the test split from train: articles in both splits, and near duplicates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.near import NearIndex
from data_pipeline.preprocess.staging import hashes_of
from data_pipeline.store import ParagraphStore
from data_pipeline.store.paragraphs import ShardPart
from data_pipeline.utils import progress_bar

_SAMPLE_ROWS = 20_000  # each takes about 4 kB for text and index


@dataclass(frozen=True)
class Leaks:
    """What the rows of a part of train have in common with test."""

    articles: list[int]
    """First row of each document of test that the part has too."""
    texts: list[int]
    """Rows of test, among those that are compared, that are near duplicates of a row of the part."""


class TestRows:
    """Documents and texts of the test split that train is compared with.

    Near duplicates are searched among the first 20,000 test paragraphs, so that memory stays bounded.

    Args:
        store: the paragraphs.
        threshold: minimum Jaccard similarity of the sets of 5-grams (see `near.shingles`) of near duplicates.
    """

    def __init__(self, store: ParagraphStore, threshold: float) -> None:
        self._store = store
        documents: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]  # hashes, 8 bytes for every row of test
        texts: list[str] = []
        for batch, _ in store.live_batches("test", ["document_id", "text"]):
            documents.append(_hashes(batch["document_id"]))
            texts.extend(batch["text"].to_pylist()[: max(0, _SAMPLE_ROWS - len(texts))])
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

    def share(self, leaks: Iterable[Leaks]) -> tuple[float, float]:
        """Return the shares of test rows whose document is in train, and of those that are near duplicates."""
        found = list(leaks)
        articles = sorted({row for one in found for row in one.articles})
        texts = {row for one in found for row in one.texts}
        is_shared = np.isin(self._first_rows, articles)
        return float(is_shared[self._document_of_row].sum()) / self.rows, len(texts) / self.texts


def leakage(
    store: ParagraphStore,
    threshold: float,
    find: Callable[[], list[Leaks]] | None = None,
) -> dict[str, Any]:
    """Measure the shares of test paragraphs that leak from train.

    Args:
        store: the paragraphs.
        threshold: see `TestRows`.
        find: returns what the parts of train have in common with test; None to compare them here.

    Returns:
        `test_paragraphs` and `test_paragraphs_compared`, numbers of paragraphs; `article_in_train` and
        `near_duplicate_in_train`, shares from 0 to 1, None where train or test is empty; `near_threshold`.
    """
    test, train_rows = TestRows(store, threshold), store.live_count("train")
    if find is not None:
        leaks = find()
    else:
        with progress_bar(train_rows, "Measuring leakage of test from train", "row") as bar:
            leaks = [test.leaks(part, bar.update) for part in store.parts("train", store.live_count("train"))]
    articles, texts = test.share(leaks) if test.rows and train_rows else (None, None)
    return {
        "test_paragraphs": test.rows,
        "test_paragraphs_compared": test.texts,
        "article_in_train": articles,
        "near_duplicate_in_train": texts,
        "near_threshold": threshold,
    }


def _hashes(document_ids: pa.Array) -> NDArray[np.uint64]:
    return hashes_of(pl.Series(pl.from_arrow(document_ids)))
