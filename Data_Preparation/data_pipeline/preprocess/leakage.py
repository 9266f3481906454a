"""How much of the test split a model has seen in train: by article, and by near duplicate."""

from typing import Any

from data_pipeline.preprocess.near import NearIndex
from data_pipeline.store import ParagraphStore

_SAMPLE_ROWS = 20_000  # about 4 kB each, text and index


def leakage(store: ParagraphStore, threshold: float) -> dict[str, Any]:
    """Shares of the test paragraphs that leak from train.

    Near duplicates are looked for among the first 20,000 test paragraphs, so that memory
    stays bounded; train is read once, as a stream.

    Args:
        store: the paragraphs.
        threshold: Jaccard similarity of 5-word shingles that counts as a near duplicate.

    Returns:
        test_paragraphs, test_paragraphs_compared (their number), article_in_train,
        near_duplicate_in_train (shares, 0 to 1; None without test paragraphs), near_threshold.
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
    for shard in store.shards("train"):
        for batch in shard.batches(["document_id", "text"]):
            shared |= in_test.intersection(batch["document_id"].to_pylist())
            if texts:
                for text in batch["text"].to_pylist():
                    repeated.update(index.matches(text))
    return {
        "test_paragraphs": len(documents),
        "test_paragraphs_compared": len(texts),
        "article_in_train": sum(map(shared.__contains__, documents)) / len(documents) if documents else None,
        "near_duplicate_in_train": len(repeated) / len(texts) if texts else None,
        "near_threshold": threshold,
    }
