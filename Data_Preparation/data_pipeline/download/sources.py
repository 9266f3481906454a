"""Corpus sources by name. To add one, write a function that opens a `Corpus`, and add it to `SOURCES`."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import Corpus, OnBadRecord, Unit
from data_pipeline.download.hub_records import open_hub_records
from data_pipeline.download.hub_wikitext import open_hub_wikitext
from data_pipeline.download.records import (
    ARROW,
    CSV,
    JSON_LINES,
    PARQUET,
    TSV,
    open_arrow,
    open_csv,
    open_jsonl,
    open_parquet,
    open_tsv,
)
from data_pipeline.download.sample import open_sample
from data_pipeline.download.text_files import TEXT, open_text
from data_pipeline.download.user_function import open_function
from data_pipeline.download.web_pages import HTML, WARC, open_html, open_warc
from data_pipeline.download.wikitext import open_wikitext
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes


def _open_hub(config: CorpusConfig) -> Corpus:
    """Open a dataset of the hub; the rows of WikiText are lines, those of others are documents."""
    is_wikitext = "wikitext" in config.hf_dataset_name.rpartition("/")[2].lower()
    return open_hub_wikitext(config) if is_wikitext else open_hub_records(config)


SOURCES: dict[str, Callable[[CorpusConfig], Corpus]] = {
    "hub": _open_hub,
    "wikitext": open_wikitext,
    "jsonl": open_jsonl,
    "parquet": open_parquet,
    "arrow": open_arrow,
    "csv": open_csv,
    "tsv": open_tsv,
    "text": open_text,
    "html": open_html,
    "warc": open_warc,
    "function": open_function,
    "sample": open_sample,
}

ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": JSON_LINES,
    "parquet": PARQUET,
    "arrow": ARROW,
    "csv": CSV,
    "tsv": TSV,
    "text": TEXT,
    "html": HTML,
    "warc": WARC,
}
"""File name endings by source, for those that list users' files."""


def open_corpus(config: CorpusConfig) -> Corpus:
    """Open the corpus that a config names; documents are read when `Corpus.documents` is iterated.

    Raises:
        SourceError: the corpus does not exist or cannot be reached.
    """
    corpus, limit = SOURCES[config.source](config), config.limit
    corpus = replace(corpus, license=config.license or corpus.license)
    if limit is None:
        return corpus
    # The bar counts documents, since the bytes of the files are not all read.
    return replace(
        corpus,
        description=f"the first {limit:,} documents of {corpus.description}",
        units=lambda: [Unit(partial(_first_documents, corpus, limit))],
    )


def _first_documents(corpus: Corpus, limit: int, on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
    del on_bytes
    return islice(corpus.documents(on_bad), limit)
