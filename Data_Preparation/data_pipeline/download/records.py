"""Corpora of JSON Lines, parquet, Arrow, CSV and TSV files, with one document in each record."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_pipeline.config import CorpusConfig
from data_pipeline.download.columns import check_columns, columns_of
from data_pipeline.download.corpus import (
    SPLIT_NAMES,
    UNIT_BYTES,
    Corpus,
    Cut,
    FilePart,
    OnBadRecord,
    content_hash,
    corpus_of_files,
    files_under,
    split_of_file,
    split_of_path,
    with_compressions,
)
from data_pipeline.errors import RecordError, SourceError
from data_pipeline.types import METADATA_TYPES, BadRecord, Document, MetadataValue, Split
from data_pipeline.user_files import (
    ListedFile,
    OnBad,
    OnBytes,
    checked_id,
    checked_text,
    find_field,
    json_records,
    parquet_records,
    take_field,
)
from data_pipeline.user_files.arrow import arrow_records, arrow_schema
from data_pipeline.user_files.delimited import delimited_records
from data_pipeline.user_files.inputs import size_of
from data_pipeline.user_files.records import is_parquet, parquet_schema, row_group_counts
from data_pipeline.user_files.text import is_compressed, line_ranges
from data_pipeline.utils import shown

Records = Iterator[tuple[int, Mapping[str, Any]]]
"""Numbers and values of records."""

ReadRecords = Callable[[CorpusConfig, FilePart, OnBytes, OnBad], Records]
"""Function that reads the records of a file or a part of it."""

JSON_LINES = with_compressions(".jsonl", ".ndjson")
"""File name endings of JSON Lines files in a folder."""
PARQUET = (".parquet",)
"""File name endings of parquet files in a folder."""
ARROW = (".arrow", ".feather")
"""File name endings of Arrow files in a folder."""
CSV = with_compressions(".csv")
"""File name endings of CSV files in a folder."""
TSV = with_compressions(".tsv")
"""File name endings of TSV files in a folder."""


def open_jsonl(config: CorpusConfig) -> Corpus:
    """Open JSON Lines files, with one object in each line; those of a folder are read in the order of their names."""
    files = files_under(config, JSON_LINES)
    for listed in files:
        # Remote files are looked at when they are read, because each look is a request.
        if isinstance(listed.file, Path) and is_parquet(listed.file):
            raise SourceError(f"{listed.file} is a parquet file, corpus.source is 'jsonl'. Set corpus.source: parquet.")
    return _open(config, files, "line", _read_json, cut=_cut_json)


def _read_json(config: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBad) -> Records:
    del config
    return json_records(part.listed.file, on_bytes, on_bad, part.span, part.first)


def _cut_json(listed: ListedFile) -> Iterator[FilePart]:
    """Cut a large file into ranges of lines; a compressed or remote one stays whole."""
    if not isinstance(listed.file, Path) or is_compressed(listed.file):
        yield FilePart(listed, size_of(listed.file))
        return
    for start, end, first in line_ranges(listed.file, UNIT_BYTES):
        yield FilePart(listed, end - start, (start, end), first)


def open_parquet(config: CorpusConfig) -> Corpus:
    """Open parquet files, with one document in each row; those of a folder are read in the order of their names."""
    return _open(config, files_under(config, PARQUET), "row", _read_parquet, cut=_cut_parquet)


def _read_parquet(config: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBad) -> Records:
    del on_bad  # rows of parquet are whole
    path = part.listed.file
    columns = columns_of(parquet_schema(path), config, str(path))
    return parquet_records(path, columns, on_bytes, part.span and range(*part.span), part.first)


def _cut_parquet(listed: ListedFile) -> Iterator[FilePart]:
    """Cut a large file into ranges of row groups."""
    size, counts = size_of(listed.file), row_group_counts(listed.file)
    rows, row_bytes = 0, size / max(1, sum(counts))
    starts = [0]
    for group, count in enumerate(counts):
        if rows and (rows + count) * row_bytes > UNIT_BYTES:
            starts.append(group)
            rows = 0
        rows += count
    for start, end in pairwise([*starts, len(counts)]):
        rows = sum(counts[start:end])
        yield FilePart(listed, int(rows * row_bytes), (start, end), 1 + sum(counts[:start]))


def open_arrow(config: CorpusConfig) -> Corpus:
    """Open Arrow files, such as those of a dataset saved by `datasets`, with one document in each row."""
    return _open(config, files_under(config, ARROW), "row", _read_arrow, split_of_path)


def _read_arrow(config: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBad) -> Records:
    del on_bad  # rows of Arrow are whole
    path = part.listed.file
    return arrow_records(path, columns_of(arrow_schema(path), config, str(path)), on_bytes)


def open_csv(config: CorpusConfig) -> Corpus:
    """Open CSV files, separated by commas and quoted by `"`; those of a folder are read in the order of their names."""
    return _open(config, files_under(config, CSV), "line", partial(_read_delimited, ","))


def open_tsv(config: CorpusConfig) -> Corpus:
    """Open TSV files, whose quotes have no meaning; those of a folder are read in the order of their names."""
    return _open(config, files_under(config, TSV), "line", partial(_read_delimited, "\t"))


def _read_delimited(delimiter: str, config: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBad) -> Records:
    path = part.listed.file
    is_first = True
    for number, values in delimited_records(path, delimiter, on_bytes, on_bad, config.encoding, config.header):
        if is_first:
            check_columns(list(values), config, str(path))
            is_first = False
        # Cells have no types; one that is not of its type stays a text, and is rejected with its value.
        typed = {name: _parsed(values.get(name), kind) for name, kind in config.metadata_fields.items()}
        yield number, {**values, **{name: value for name, value in typed.items() if name in values}}


def _open(
    config: CorpusConfig,
    files: list[ListedFile],
    unit: str,
    read_records: ReadRecords,
    split_of: Callable[[str], Split | str] = split_of_file,
    cut: Cut | None = None,
) -> Corpus:
    read = partial(_read_documents, config, unit, read_records, split_of)
    options = {"metadata": config.metadata_fields, "on_duplicate_id": config.on_duplicate_id}
    return corpus_of_files(config, files, read, config.source, cut=cut, **options)


def _read_documents(
    config: CorpusConfig,
    unit: str,
    read_records: ReadRecords,
    split_of: Callable[[str], Split | str],
    part: FilePart,
    on_bytes: OnBytes,
    on_bad: OnBadRecord | None,
) -> Iterator[Document]:
    listed = part.listed
    records = read_records(config, part, on_bytes, reporter(listed.name, unit, on_bad))
    split = split_of(listed.name)
    return to_documents(records, config, split, str(listed.file), listed.name, unit, on_bad)


def to_documents(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    config: CorpusConfig,
    split: Split | str,
    source: str,
    name: str,
    unit: str,
    on_bad: OnBadRecord | None,
) -> Iterator[Document]:
    """Convert the records of a file or table to documents.

    Args:
        records: numbers, from 1, and values of the records.
        config: names of the fields.
        split: official split of the records that have no field with it; empty for none.
        source: file or table of the records, for messages.
        name: the same relative to the corpus, for the drop ledger.
        unit: `line` or `row`.
        on_bad: called with records that are no documents; None to raise their error.
    """
    report = reporter(name, unit, on_bad)
    for number, values in records:
        try:
            document = _document(values, config, split, f"{source}, {unit} {number}")
        except RecordError as error:
            report(number, error)
        else:
            yield document


def reporter(name: str, unit: str, on_bad: OnBadRecord | None) -> OnBad:
    """Return a function that reports a record that is no document by its file or table, unit and number."""

    def report(number: int, error: RecordError) -> None:
        if on_bad is None:
            raise error
        on_bad(BadRecord(f"{name}, {unit} {number}", error.reason, str(error)))

    return report


def _document(values: Mapping[str, Any], config: CorpusConfig, file_split: Split | str, where: str) -> Document:
    text = take_field(values, config.text_field, where)
    # A null text counts as empty, so that the document is dropped and recorded with that reason.
    text = "" if text is None else checked_text(text, config.text_field, where)
    if config.id_field:
        identity = checked_id(find_field(values, config.id_field), config.id_field, where)
    else:
        identity = content_hash(text or where, 20)
    split = file_split
    if config.split_field:
        name = str(_typed(values, config.split_field, str, where)).lower()
        if name not in SPLIT_NAMES:
            names = ", ".join(SPLIT_NAMES)
            message = f"{where}: {config.split_field!r} is {shown(name)}, expected one of {names}"
            raise RecordError(message, "unknown_split")
        split = SPLIT_NAMES[name]
    title = _typed(values, config.title_field, str, where) if config.title_field else ""
    metadata = {
        name: _typed(values, name, METADATA_TYPES[kind], where) for name, kind in config.metadata_fields.items()
    }
    return Document(identity, text, title=title or "", source_split=split, metadata=metadata)


def _parsed(cell: str | None, kind: str) -> MetadataValue:
    """Convert a cell to its type, if it can be."""
    if cell is None or kind == "str":
        return cell
    if kind == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)
    try:
        return METADATA_TYPES[kind](cell)
    except ValueError:
        return cell


def _typed(values: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """Value of a field, None for null; an integer is also accepted as a float."""
    value: MetadataValue = take_field(values, name, where)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RecordError(f"{where}: the field {name!r} must fit in 64 bits, found {shown(value)}", "wrong_type")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if value is not None and type(value) is not kind:
        raise RecordError(f"{where}: the field {name!r} must be {kind.__name__}, found {shown(value)}", "wrong_type")
    return checked_text(value, name, where) if isinstance(value, str) else value
