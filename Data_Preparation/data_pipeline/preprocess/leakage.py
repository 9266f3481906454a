"""How much of the test split a model has seen in train: by article, and by near duplicate."""

from typing import Any

from data_pipeline.preprocess.near import NearIndex
from data_pipeline.store import ParagraphStore
from data_pipeline.utils import progress_bar

_SAMPLE_ROWS = 20_000  # about 4 kB each, text and index


def leakage(store: ParagraphStore, threshold: float) -> dict[str, Any]:
    """Shares of the test paragraphs that leak from train.

    Near duplicates are looked for among the first 20,000 test paragraphs, so that memory
    stays bounded; train is read once, as a stream.

    Args:
        store: the paragraphs.
        threshold: Jaccard similarity of the sets of 5-grams (see `near.shingles`) that counts as a near duplicate.

    Returns:
        test_paragraphs, test_paragraphs_compared (their number), article_in_train,
        near_duplicate_in_train (shares, 0 to 1; None where train or test is empty), near_threshold.
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
    in_test = set(documents)
    shared: set[str] = set()
    repeated: set[int] = set()
    shards = store.shards("train")
    train_rows = sum(shard.rows for shard in shards)
    with progress_bar(train_rows, "Measuring leakage of test from train", "row") as bar:
        for shard in shards:
            for batch in shard.batches(["document_id", "text"]):
                shared |= in_test.intersection(batch["document_id"].to_pylist())
                if texts:
                    for text in batch["text"].to_pylist():
                        repeated.update(index.matches(text))
                bar.update(batch.num_rows)
    measured = bool(documents and train_rows)
    return {
        "test_paragraphs": len(documents),
        "test_paragraphs_compared": len(texts),
        "article_in_train": sum(map(shared.__contains__, documents)) / len(documents) if measured else None,
        "near_duplicate_in_train": len(repeated) / len(texts) if measured else None,
        "near_threshold": threshold,
    }
