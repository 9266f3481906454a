"""Corpus sources by name. To add one, write a function that opens a `Corpus`, and add it to `SOURCES`."""

from collections.abc import Callable

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import Corpus
from data_pipeline.download.hub_wikitext import open_hub
from data_pipeline.download.records import open_jsonl, open_parquet
from data_pipeline.download.sample import open_sample
from data_pipeline.download.wikitext import open_wikitext

SOURCES: dict[str, Callable[[CorpusConfig], Corpus]] = {
    "hub": open_hub,
    "wikitext": open_wikitext,
    "jsonl": open_jsonl,
    "parquet": open_parquet,
    "sample": open_sample,
}


def open_corpus(config: CorpusConfig) -> Corpus:
    """Open the corpus that a config names; documents are read when `Corpus.documents` is iterated.

    Raises:
        SourceError: the corpus does not exist or cannot be reached.
    """
    return SOURCES[config.source](config)
