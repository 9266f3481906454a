"""The corpus in this package: 48 original articles, 12 subjects, queries and judgements (CC0).

Beside `articles.tokens` (WikiText's own format, quirks included) stand a subject for every
article, 40 search queries, and graded relevance judgements made by reading the articles.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import Corpus, OnBadRecord, Unit
from data_pipeline.download.wikitext import wikitext_documents
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes, read_lines
from data_pipeline.utils import sha256_of_file

FOLDER = Path(__file__).parent


def open_sample(config: CorpusConfig) -> Corpus:
    """The bundled sample; its documents carry `subject` as metadata."""
    del config
    articles = FOLDER / "articles.tokens"
    return Corpus(
        description="the bundled sample: 48 articles, 12 subjects",
        identity={articles.name: sha256_of_file(articles)},
        units=lambda: [Unit(_read, articles.stat().st_size)],
        metadata={"subject": "str"},
        license="CC0-1.0",
    )


def _read(on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
    del on_bad  # these files are known: a fault is an error
    articles, subjects = FOLDER / "articles.tokens", sample_subjects()
    lines = (line for _, line in read_lines(articles, on_bytes))
    for document in wikitext_documents(lines, "", check=False, where=str(articles)):
        yield replace(document, metadata={"subject": subjects[document.title]})


def sample_subjects() -> dict[str, str]:
    """Subject of every article, by its title as `articles.tokens` spells it."""
    return {row["title"]: row["subject"] for row in _table("subjects.tsv")}


def sample_queries() -> dict[str, str]:
    """The 40 queries, by query id."""
    return {row["query_id"]: row["query"] for row in _table("queries.tsv")}


def sample_qrels() -> dict[str, dict[str, int]]:
    """Graded judgements: query id -> text_id -> grade.

    Grades: 3 answers the query, 2 answers it partly, 1 is on its topic, 0 is not relevant.
    The text ids are those of the unit `section`. The file itself is in TREC's format.
    """
    judgements: dict[str, dict[str, int]] = {}
    for line in (FOLDER / "qrels.txt").read_text(encoding="utf-8").splitlines():
        query_id, _, text_id, grade = line.split()
        judgements.setdefault(query_id, {})[text_id] = int(grade)
    return judgements


def _table(name: str) -> Iterator[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
