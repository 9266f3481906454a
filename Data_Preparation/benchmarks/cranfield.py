"""Cranfield 1400 for benchmarks: passages, queries, gold judgements, and MiniLM.

Titles and abstracts. Each of the 225 queries has one document with the code -1, by every sign the paper whose author
asked it: it is dropped from runs before they are scored.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import shared_data

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.retrieval.candidates import PassagesConfig
from data_pipeline.retrieval.passage_files import passages_of_file
from data_pipeline.retrieval.passages import Passages
from data_pipeline.weak_labels.qrels import read_qrels

FIELDS = PassagesConfig(id_field="_id", title_field="title")


@dataclass(frozen=True)
class Cranfield:
    """The collection, or a part of its documents."""

    corpus: Path
    passages: Passages
    queries: Mapping[str, str]
    """Text by id."""
    qrels: Mapping[str, Mapping[str, int]]
    """Query id -> document -> gain, 1 to 4; of documents that are there."""
    asked_by: Mapping[str, str]
    """Query id -> the document whose author asked it."""

    def run(self, lists: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Any]:
        """Ranked ids of each query -> what ir-measures scores."""
        import ir_measures

        for query_id, ids in lists:
            kept = [document for document in ids if document != self.asked_by.get(query_id)]
            for rank, document in enumerate(kept):
                # By rank: the measures' own order of equal scores is another one.
                yield ir_measures.ScoredDoc(query_id, document, -float(rank))


def open_cranfield(folder: Path, documents: int) -> Cranfield:
    """Write the first so many documents to a folder, and open them."""
    data = shared_data("cranfield")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join((data / "corpus.jsonl").read_text().splitlines(keepends=True)[:documents]))
    passages = passages_of_file(corpus, folder, FIELDS)
    there = set(passages.ids())
    queries = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    codes = read_qrels(data / "cranqrel_codes.tsv")
    qrels = {
        query_id: kept
        for query_id, grades in read_qrels(data / "qrels.tsv").items()
        if (kept := {document: gain for document, gain in grades.items() if document in there})
    }
    return Cranfield(
        corpus=corpus,
        passages=passages,
        queries={query["_id"]: query["text"] for query in queries},
        qrels=qrels,
        asked_by={
            query_id: document for query_id, grades in codes.items() for document, code in grades.items() if code == -1
        },
    )


def minilm() -> Embedder:
    """all-MiniLM-L6-v2, out of its package."""
    return load_embedder(EmbeddingConfig(model_name="sentence-transformers/all-MiniLM-L6-v2", weights="package"))
