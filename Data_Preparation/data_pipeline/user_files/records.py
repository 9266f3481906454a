"""Records of users' files: JSON Lines, plain or compressed, and parquet. NaN is read as null in both."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import RecordError, SourceError
from data_pipeline.user_files.inputs import InputFile, first_bytes, size_of
from data_pipeline.user_files.remote import RemoteFile
from data_pipeline.user_files.text import OnBad, OnBytes, open_bytes, read_lines, set_aside
from data_pipeline.utils import converted_errors, shown
from data_pipeline.utils.missing import without_nan

_ARRAY = (
    "the file is a JSON array, expected JSON Lines (one object a line). Convert it: jq -c '.[]' {name} > {stem}.jsonl"
)
_PARQUET = b"PAR1"
_BATCH_ROWS = 1000


class FileRecord(NamedTuple):
    """One record of a file."""

    where: str
    """File and line or row of the record, for messages."""
    number: int
    """Line of JSON Lines or row of parquet, from 1."""
    values: Mapping[str, Any]


def is_parquet(path: InputFile) -> bool:
    """Whether a file is parquet, by its content, or if that is damaged by its name.

    Raises:
        SourceError: the file cannot be read.
    """
    with converted_errors(OSError, SourceError, f"{path} cannot be read"):
        return first_bytes(path, len(_PARQUET)) == _PARQUET or path.suffix == ".parquet"


def read_records(
    path: InputFile, columns: Sequence[str] | None = None, on_bytes: OnBytes | None = None
) -> Iterator[FileRecord]:
    """Read the records of a JSON Lines or parquet file; its content decides which it is.

    Args:
        path: the file.
        columns: columns of parquet to read; those that the file lacks are left out. None for all.
        on_bytes: called with the number of bytes of each read.

    Raises:
        SourceError: see `json_records` and `parquet_records`.
    """
    if is_parquet(path):
        unit, records = "row", parquet_records(path, columns, on_bytes)
    else:
        unit, records = "line", json_records(path, on_bytes)
    for number, values in records:
        yield FileRecord(f"{path}, {unit} {number}", number, values)


def json_records(
    path: InputFile,
    on_bytes: OnBytes | None = None,
    on_bad: OnBad | None = None,
    span: tuple[int, int] | None = None,
    first_number: int = 1,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the line numbers and objects of a JSON Lines file; blank lines are left out.

    Args:
        path: the file.
        on_bytes: called with the number of bytes of each read.
        on_bad: called with lines that are not JSON objects; None to raise their error.
        span: part of the file to read; see `text.line_ranges`.
        first_number: number of its first line.

    Raises:
        RecordError: a line is not a JSON object.
        SourceError: the file cannot be read, or is not JSON Lines.
    """
    if is_parquet(path):
        raise SourceError(f"{path} is a parquet file, expected JSON Lines.")
    first = first_number == 1
    for number, line in read_lines(path, on_bytes, on_bad, span=span, first_number=first_number):
        text = line.strip()
        if not text:
            continue
        try:
            record = _parse_object(text, path, number, first)
        except RecordError as error:
            set_aside(number, error, on_bad)
        else:
            yield number, record
        first = False


def parquet_schema(path: InputFile) -> pa.Schema:
    """Read the names and types of the columns of a parquet file.

    Raises:
        SourceError: the file cannot be read.
    """
    readable = converted_errors((OSError, pa.ArrowException), SourceError, f"{path} cannot be read as parquet")
    with readable, _parquet_file(path) as file:
        return file.schema_arrow


@contextmanager
def _parquet_file(path: InputFile) -> Iterator[pq.ParquetFile]:
    # By default all bytes that were read stay in memory until the file is closed.
    if not isinstance(path, RemoteFile):
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
        return
    with open_bytes(path) as stream, pq.ParquetFile(pa.PythonFile(stream, "r"), pre_buffer=False) as file:
        yield file


def row_group_counts(path: InputFile) -> list[int]:
    """Read the numbers of rows of the row groups of a parquet file.

    Raises:
        SourceError: the file cannot be read.
    """
    readable = converted_errors((OSError, pa.ArrowException), SourceError, f"{path} cannot be read as parquet")
    with readable, _parquet_file(path) as file:
        return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def parquet_records(
    path: InputFile,
    columns: Sequence[str] | None = None,
    on_bytes: OnBytes | None = None,
    row_groups: Sequence[int] | None = None,
    first_number: int = 1,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the row numbers, from 1, and rows of a parquet file.

    Args:
        path: the file.
        columns: columns to read; those that the file lacks are left out. None for all.
        on_bytes: called with the number of bytes of each read.
        row_groups: row groups to read; None for all.
        first_number: number of the first row of these.

    Raises:
        SourceError: the file cannot be read.
    """
    number = first_number - 1
    try:
        with _parquet_file(path) as file:
            names = file.schema_arrow.names
            existing = None if columns is None else [name for name in names if name in columns]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=existing, row_groups=row_groups):
                for values in without_nan(batch).to_pylist():
                    number += 1
                    yield number, values
                if on_bytes is not None:
                    on_bytes(size_of(path) * batch.num_rows // file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as parquet after row {number}: {error}") from error


def _parse_constant(constant: str) -> float | None:
    """Value of NaN, which most files use for null, or of an infinity; Python's JSON allows them."""
    return None if constant == "NaN" else float(constant)


# Created once, because `json.loads` with options creates a decoder for every line.
_decode = json.JSONDecoder(parse_constant=_parse_constant).decode


def _parse_object(text: str, path: InputFile, number: int, first: bool) -> Mapping[str, Any]:
    try:
        record = _decode(text)
    except (ValueError, RecursionError) as error:
        if first and text.startswith("{") and text.count('"') < 3:
            raise SourceError(
                f"{path}, line {number}: the file is JSON laid out over several lines, expected JSON Lines (one object "
                f"a line). Convert it: jq -c . {path.name} > new-{path.name}"
            ) from error
        if first and text.startswith("["):
            raise SourceError(f"{path}, line {number}: {_ARRAY.format(name=path.name, stem=path.stem)}") from error
        message = f"{path}, line {number}: not JSON: {error}. Repair or remove that line."
        raise RecordError(message, "broken_line") from error
    if first and isinstance(record, list):
        raise SourceError(f"{path}, line {number}: {_ARRAY.format(name=path.name, stem=path.stem)}")
    if not isinstance(record, dict):
        raise RecordError(f"{path}, line {number}: expected a JSON object, found {shown(record)}", "wrong_type")
    return record
