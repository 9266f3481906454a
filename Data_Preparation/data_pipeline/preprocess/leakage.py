"""Leakage of the test split from train: articles in both splits, and near duplicates."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.near import NearIndex
from data_pipeline.preprocess.staging import hashes_of
from data_pipeline.store import ParagraphStore
from data_pipeline.utils import progress_bar

_SAMPLE_ROWS = 20_000  # each takes about 4 kB for text and index


def leakage(store: ParagraphStore, threshold: float) -> dict[str, Any]:
    """Measure the shares of test paragraphs that leak from train.

    Near duplicates are searched among the first 20,000 test paragraphs, so that memory
    stays bounded; train is read once as a stream.

    Args:
        store: the paragraphs.
        threshold: minimum Jaccard similarity of the sets of 5-grams (see `near.shingles`) of near duplicates.

    Returns:
        `test_paragraphs` and `test_paragraphs_compared`, numbers of paragraphs; `article_in_train` and
        `near_duplicate_in_train`, shares from 0 to 1, None where train or test is empty; `near_threshold`.
    """
    documents: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]  # hashes, 8 bytes for every row of test
    texts: list[str] = []
    for batch, _ in store.live_batches("test", ["document_id", "text"]):
        documents.append(_hashes(batch["document_id"]))
        texts.extend(batch["text"].to_pylist()[: max(0, _SAMPLE_ROWS - len(texts))])
    index = NearIndex(threshold, texts.__getitem__)
    for key, text in enumerate(texts):
        index.add(key, text)
    document_of_row = np.concatenate(documents)
    test_documents = np.unique(document_of_row)
    is_shared = np.zeros(len(test_documents), np.bool_)
    duplicates: set[int] = set()
    train_rows = store.live_count("train")
    with progress_bar(train_rows, "Measuring leakage of test from train", "row") as bar:
        for batch, _ in store.live_batches("train", ["document_id", "text"]):
            if len(test_documents):
                in_train = _hashes(batch["document_id"])
                found = np.searchsorted(test_documents, in_train).clip(max=len(test_documents) - 1)
                is_shared[found[test_documents[found] == in_train]] = True
            if texts:
                for text in batch["text"].to_pylist():
                    duplicates.update(index.matches(text))
            bar.update(batch.num_rows)
    n_rows, n_shared = len(document_of_row), int(is_shared[np.searchsorted(test_documents, document_of_row)].sum())
    is_measured = bool(n_rows and train_rows)
    return {
        "test_paragraphs": n_rows,
        "test_paragraphs_compared": len(texts),
        "article_in_train": n_shared / n_rows if is_measured else None,
        "near_duplicate_in_train": len(duplicates) / len(texts) if is_measured else None,
        "near_threshold": threshold,
    }


def _hashes(document_ids: pa.Array) -> NDArray[np.uint64]:
    return hashes_of(pl.Series(pl.from_arrow(document_ids)))
