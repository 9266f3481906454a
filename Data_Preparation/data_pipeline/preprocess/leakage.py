"""Leakage of the test split from train: articles in both splits, and near duplicates."""

from typing import Any

from data_pipeline.preprocess.near import NearIndex
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
    documents: list[str] = []
    texts: list[str] = []
    for shard in store.shards("test"):
        for batch in shard.batches(["document_id", "text"]):
            documents.extend(batch["document_id"].to_pylist())
            texts.extend(batch["text"].to_pylist()[: max(0, _SAMPLE_ROWS - len(texts))])
    index = NearIndex(threshold, texts.__getitem__)
    for key, text in enumerate(texts):
        index.add(key, text)
    test_documents = set(documents)
    shared_documents: set[str] = set()
    duplicates: set[int] = set()
    shards = store.shards("train")
    train_rows = sum(shard.rows for shard in shards)
    with progress_bar(train_rows, "Measuring leakage of test from train", "row") as bar:
        for shard in shards:
            for batch in shard.batches(["document_id", "text"]):
                shared_documents |= test_documents.intersection(batch["document_id"].to_pylist())
                if texts:
                    for text in batch["text"].to_pylist():
                        duplicates.update(index.matches(text))
                bar.update(batch.num_rows)
    is_measured = bool(documents and train_rows)
    n_shared = sum(document in shared_documents for document in documents)
    return {
        "test_paragraphs": len(documents),
        "test_paragraphs_compared": len(texts),
        "article_in_train": n_shared / len(documents) if is_measured else None,
        "near_duplicate_in_train": len(duplicates) / len(texts) if is_measured else None,
        "near_threshold": threshold,
    }
