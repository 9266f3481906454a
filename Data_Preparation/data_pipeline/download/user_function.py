"""Corpus of the documents that a user's Python function yields."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import Corpus, OnBadRecord, Unit, allowed_bad_share
from data_pipeline.download.records import to_documents
from data_pipeline.errors import SourceError
from data_pipeline.types import Document
from data_pipeline.user_files import OnBytes, check_id, checked_text
from data_pipeline.utils import shown
from data_pipeline.utils.functions import describe_error, load_function, source_sha256


def open_function(config: CorpusConfig) -> Corpus:
    """Open the corpus of the function `corpus.function`, which is called without arguments for each iteration.

    It yields `Document`s, texts, or mappings with the fields of the config. The identity is that of the function's
    file; data that the function reads is not part of it.

    Raises:
        ConfigError: the function cannot be imported.
        SourceError: no function is set.
    """
    name = config.function
    if name is None:
        raise SourceError("corpus.function: the source 'function' needs a function, as module:function, found none")
    load_function(name, "corpus.function")
    return Corpus(
        description=f"the function {name}",
        identity={"function": name, "source": source_sha256(name, "corpus.function")},
        units=lambda: [Unit(partial(_read, config, name))],
        metadata=config.metadata_fields,
        max_bad_share=allowed_bad_share(config),
        on_duplicate_id=config.on_duplicate_id,
    )


def _read(config: CorpusConfig, name: str, on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
    del on_bytes
    function = load_function(name, "corpus.function")
    for number, value in enumerate(_values(function, name), start=1):
        where = f"{name}, document {number}"
        if isinstance(value, Document):
            check_id(value.id, where)
            checked_text(value.text, "text", where)
            yield value
            continue
        values = {config.text_field: value} if isinstance(value, str) else value
        if not isinstance(values, Mapping):
            raise SourceError(f"{where}: expected a Document, a mapping or a text, found {shown(value)}")
        yield from to_documents([(number, values)], config, "", name, name, "document", on_bad)


def _values(function: Any, name: str) -> Iterator[Any]:
    """Iterate over what the function yields."""
    try:
        yield from function()
    except Exception as error:  # the function is the user's
        raise SourceError(f"corpus.function: {name} failed: {describe_error(error)}") from error
