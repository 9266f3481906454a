"""The corpus sources by name: each is a function that opens a `Corpus`, and a line in `SOURCES`."""

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
    """Open the corpus a config names; nothing is read before its documents are asked for.

    Raises:
        SourceError: it can't be reached or found.
    """
    return SOURCES[config.source](config)
