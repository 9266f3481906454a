"""Preview of a corpus: its format, its fields with types and examples, and the settings that read it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import SPLIT_NAMES, WEB_PAGE
from data_pipeline.download.hub_records import hub_rows
from data_pipeline.download.sources import ENDINGS, open_corpus
from data_pipeline.errors import SourceError
from data_pipeline.user_files import ListedFile, json_records, list_inputs, parquet_records
from data_pipeline.user_files.arrow import arrow_records, arrow_schema
from data_pipeline.user_files.delimited import delimited_records
from data_pipeline.user_files.inputs import first_bytes, size_of
from data_pipeline.user_files.values import find_field
from data_pipeline.utils import shown
from data_pipeline.utils.urls import is_url

_RECORDS = 100
_KINDS: Mapping[type, str] = {str: "text", bool: "true or false", int: "whole number", float: "number", list: "list"}
_METADATA_KINDS: Mapping[str, str] = {"true or false": "bool", "whole number": "int", "number": "float", "text": "str"}
_TEXT_NAMES = ("text", "content", "body", "document", "passage", "article", "sentence", "abstract", "raw_content")
_ID_NAMES = ("id", "_id", "doc_id", "docid", "document_id", "text_id", "uuid", "key")
_MAX_METADATA_CHARS = 40  # longer texts are no labels
_CHARS_PER_TOKEN = 4  # of English text, about


@dataclass(frozen=True)
class FieldPreview:
    """Field of the records of a corpus."""

    name: str
    """Name, with a dot before each part of an object."""
    kind: str
    """Type of its values in plain words; several types are joined by `or`."""
    filled: int
    """Number of records in which it has a value."""
    example: str
    """First value, shortened and without control characters."""


@dataclass(frozen=True)
class Preview:
    """Preview of a corpus."""

    source: str
    """Name of the source that reads it."""
    formats: Mapping[str, int]
    """Numbers of files by source; only those of `source` were looked at."""
    bytes: int | None
    """Size of the files of `source`; None for a dataset of the hub."""
    records: int
    """Number of records that were read for the preview."""
    fields: Sequence[FieldPreview]
    """Fields of the records; none where a document is a file."""
    mean_chars: float
    """Mean length of the texts in characters."""
    mean_section_chars: float
    """Mean length of their parts between blank lines, which become paragraphs by default."""
    settings: Mapping[str, Sequence[str]]
    """Suggested settings of the section `corpus`, each with one value or more."""


def preview_corpus(paths: Sequence[str], records: int = _RECORDS) -> Preview:
    """Look at the first records of a corpus.

    Args:
        paths: files, folders, patterns or URLs; or one `owner/name` of a dataset of the hub.
        records: maximum number of records to read.

    Raises:
        SourceError: nothing is there, or it has no known format.
    """
    if len(paths) == 1 and _is_hub_name(paths[0]):
        config = CorpusConfig(source="hub", hf_dataset_name=paths[0])
        return _of_records("hub", {"hub": 1}, None, islice(hub_rows(config), records), {"hf_dataset_name": paths})
    every_ending = tuple(ending for endings in ENDINGS.values() for ending in endings)
    by_source: dict[str, list[ListedFile]] = {}
    for listed in list_inputs(paths, (*every_ending, ".tokens"), "PATH"):
        by_source.setdefault(_source_of(listed), []).append(listed)
    source, files = max(by_source.items(), key=lambda item: sum(size_of(listed.file) for listed in item[1]))
    formats = {name: len(listed) for name, listed in by_source.items()}
    size = sum(size_of(listed.file) for listed in files)
    # A pattern that matches several formats is refused by their sources.
    named = [str(listed.file) for listed in files] if len(formats) > 1 and any("*" in path for path in paths) else paths
    settings = {"path": named}
    if source in _READERS:
        return _of_records(source, formats, size, islice(_records(source, files), records), settings)
    corpus = open_corpus(CorpusConfig.model_validate({"source": source, "path": paths}))
    texts = [document.text for document in islice(corpus.documents(lambda record: None), records)]
    return Preview(source, formats, size, len(texts), [], *_mean_lengths(texts), settings)


def _is_hub_name(path: str) -> bool:
    return not is_url(path) and not Path(path).exists() and path.count("/") == 1 and "*" not in path


def _source_of(listed: ListedFile) -> str:
    """Source that reads a file, by its ending, else by its first bytes."""
    name = listed.file.name.lower()
    if name.startswith("wiki.") or name.endswith(".tokens"):
        return "wikitext"
    for source, endings in ENDINGS.items():
        if name.endswith(endings):
            return source
    beginning = first_bytes(listed.file, min(size_of(listed.file), 512))
    for source, marks in _MAGIC.items():
        if beginning.lstrip().lower().startswith(marks):
            return source
    raise SourceError(
        f"{listed.file} has no known format. Give it one of the endings "
        f"{', '.join(endings[0] for endings in ENDINGS.values())}."
    )


_MAGIC: Mapping[str, tuple[bytes, ...]] = {
    "parquet": (b"par1",), "arrow": (b"arrow1",), "jsonl": (b"{",), "html": WEB_PAGE,
    "warc": (b"warc/",),
}  # fmt: skip


def _records(source: str, files: Sequence[ListedFile]) -> Iterator[Mapping[str, Any]]:
    for listed in files:
        for _, values in _READERS[source](listed.file):
            yield values


_READERS: Mapping[str, Any] = {
    "jsonl": lambda file: json_records(file, on_bad=lambda number, error: None),
    "parquet": parquet_records,
    "arrow": lambda file: arrow_records(file, arrow_schema(file).names),
    "csv": lambda file: delimited_records(file, ",", on_bad=lambda number, error: None),
    "tsv": lambda file: delimited_records(file, "\t", on_bad=lambda number, error: None),
}


def _of_records(
    source: str,
    formats: Mapping[str, int],
    size: int | None,
    records: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Sequence[str]],
) -> Preview:
    rows = list(records)
    # A name that cannot be printed cannot be given as a flag either.
    names = list(dict.fromkeys(name for row in rows for name in _flat_names(row) if name.isprintable()))
    columns = {name: [find_field(row, name) for row in rows] for name in names}
    fields = [_field(name, values) for name, values in columns.items()]
    suggested = {**settings, **_suggest(fields, columns)}
    (text,) = suggested.get("text_field", ["text"])
    texts = [value for value in columns.get(text, []) if isinstance(value, str)]
    return Preview(source, formats, size, len(rows), fields, *_mean_lengths(texts), suggested)


def _flat_names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from _flat_names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _field(name: str, values: Sequence[Any]) -> FieldPreview:
    filled = [value for value in values if value is not None]
    kinds = Counter(_KINDS.get(type(value), type(value).__name__) for value in filled)
    kind = " or ".join(kind for kind, _ in kinds.most_common()) or "empty"
    return FieldPreview(name, kind, len(filled), shown(filled[0]) if filled else "")


def _suggest(fields: Sequence[FieldPreview], columns: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Settings of the fields that look like the text, the id, the title, the split and metadata."""
    texts = [field.name for field in fields if field.kind == "text"]
    if not texts:
        return {}
    lengths = {name: _mean([len(value) for value in columns[name] if value is not None]) for name in texts}
    # A field of an object counts by its own name.
    usual = (name for usual in _TEXT_NAMES for name in texts if name.rpartition(".")[2] == usual)
    text = next(usual, max(texts, key=lengths.__getitem__))
    settings = {} if text == "text" else {"text_field": [text]}
    taken = {text}

    def suggest(setting: str, name: str | None) -> None:
        if name is not None:
            settings[setting] = [name]
            taken.add(name)

    suggest("id_field", next((name for name in _ID_NAMES if _are_ids(columns.get(name, []))), None))
    suggest("title_field", next((name for name in ("title", "headline") if name in texts and name not in taken), None))
    is_split = {name: {str(value).lower() for value in columns[name]} <= SPLIT_NAMES.keys() for name in texts}
    suggest("split_field", next((name for name in texts if is_split[name] and name not in taken), None))
    metadata = [
        f"{field.name}:{_METADATA_KINDS[field.kind]}"
        for field in fields
        if field.kind in _METADATA_KINDS and field.name not in taken
        and (field.kind != "text" or lengths[field.name] <= _MAX_METADATA_CHARS)
    ]  # fmt: skip
    if metadata:
        settings["metadata_fields"] = metadata
    return settings


def _are_ids(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(value) in (str, int) for value in values) and len(set(values)) == len(values)


def length_advice(mean_section_chars: float, max_tokens: int, min_tokens: int) -> str:
    """Describe which setting keeps texts that would be dropped for their length; empty if none is needed."""
    tokens = mean_section_chars / _CHARS_PER_TOKEN
    if tokens > max_tokens:
        return f"--preprocess.unit chunk  # paragraphs have about {tokens:,.0f} tokens, max_tokens is {max_tokens:,}"
    if 0 < tokens < min_tokens:
        return f"--min-tokens 1  # paragraphs have about {tokens:,.0f} tokens, min_tokens is {min_tokens:,}"
    return ""


def _mean_lengths(texts: Sequence[str]) -> tuple[float, float]:
    """Mean length of texts, and of their parts between blank lines, in characters."""
    sections = [len(section) for text in texts for section in re.split(r"\n\s*\n", text) if section.strip()]
    return _mean([len(text) for text in texts]), _mean(sections)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
