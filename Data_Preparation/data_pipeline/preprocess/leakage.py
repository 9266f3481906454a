"""Leakage of the test split from train: articles in both splits, and near duplicates."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
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
_PAIRS = 20
_DIGITS = 6
"""Decimals of a recorded similarity."""

Pair = tuple[float, str, str]
"""Similarity of a row of test and a row of train, 0 to 1, and the `text_id` of both."""


@dataclass(frozen=True)
class Leaks:
    """What the rows of a part of train have in common with test."""

    articles: list[int]
    """First row of each document of test that the part has too."""
    texts: list[int]
    """Rows of test, among those that are compared, that are near duplicates of a row of the part."""
    pairs: list[Pair]
    """Most similar pairs of a row of test and a row of the part; see `most_similar_pairs`."""


def most_similar_pairs(pairs: Iterable[Pair], count: int = _PAIRS) -> list[Pair]:
    """Return the most similar pairs, in order, each row of test once with its most similar row of train.

    Pairs that are equally similar are ordered by their ids, so that the result does not depend on the order of `pairs`.
    The best pairs of several parts of train have those of the whole among them.

    Args:
        pairs: the pairs.
        count: maximum number of pairs to return.
    """
    best: dict[str, Pair] = {}
    for pair in pairs:
        if (other := best.get(pair[1])) is None or _order(pair) < _order(other):
            best[pair[1]] = pair
    return nsmallest(count, best.values(), key=_order)


def _order(pair: Pair) -> tuple[float, str, str]:
    return -pair[0], pair[1], pair[2]


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
        self._ids, texts = _first_texts(store)
        self.rows, self.texts = sum(map(len, documents)), len(texts)
        self._documents, self._first_rows, self._document_of_row = np.unique(
            np.concatenate(documents), return_index=True, return_inverse=True
        )
        self._index = NearIndex(threshold, texts)

    def leaks(self, part: ShardPart, advance: Callable[[int], object]) -> Leaks:
        """Compare a part of train, which is read once as a stream."""
        is_shared = np.zeros(len(self._documents), np.bool_)
        duplicates: set[int] = set()
        pairs: list[Pair] = []
        for batch, _ in self._store.live_batches("train", ["text_id", "document_id", "text"], part):
            if len(self._documents):
                in_train = _hashes(batch["document_id"])
                found = np.searchsorted(self._documents, in_train).clip(max=len(self._documents) - 1)
                is_shared[found[self._documents[found] == in_train]] = True
            if self.texts:
                pairs = most_similar_pairs(chain(pairs, self._pairs(batch, duplicates)))
            advance(batch.num_rows)
        return Leaks(self._first_rows[is_shared].tolist(), sorted(duplicates), pairs)

    def _pairs(self, batch: pa.RecordBatch, duplicates: set[int]) -> Iterator[Pair]:
        """Yield the near duplicates of rows of train, of which there may be very many; rows of test are collected."""
        for position, row, similarity in self._index.matches(batch["text"].to_pylist()):
            duplicates.add(row)
            yield round(similarity, _DIGITS), self._ids[row], batch["text_id"][position].as_py()

    def figures(self, leaks: Iterable[Leaks]) -> dict[str, Any]:
        """Return the shares of test paragraphs that leak from train, given what all parts of train have in common.

        Returns:
            `test_paragraphs` and `test_paragraphs_compared`, numbers of paragraphs; `article_in_train` and
            `near_duplicate_in_train`, shares from 0 to 1, None where train or test is empty; `near_threshold`; `pairs`,
            the 20 most similar near duplicates (`test_id`, `train_id`, `similarity` from 0 to 1), the most similar
            first, each row of test once.
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
            "pairs": [
                {"test_id": test_id, "train_id": train_id, "similarity": similarity}
                for similarity, test_id, train_id in most_similar_pairs(pair for one in found for pair in one.pairs)
            ],
        }


def _first_texts(store: ParagraphStore) -> tuple[list[str], list[str]]:
    """Ids and texts of test that train is compared with."""
    ids: list[str] = []
    texts: list[str] = []
    characters = 0
    for batch, _ in store.live_batches("test", ["text_id", "text"]):
        for text_id, text in zip(batch["text_id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            if len(texts) == _SAMPLE_ROWS or characters >= _SAMPLE_CHARACTERS:
                return ids, texts
            ids.append(text_id)
            texts.append(text)
            characters += len(text)
    return ids, texts


def _hashes(document_ids: pa.Array) -> NDArray[np.uint64]:
    return hashes_of(pl.Series(pl.from_arrow(document_ids)))
