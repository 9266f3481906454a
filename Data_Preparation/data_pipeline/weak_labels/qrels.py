"""Readers of relevance judgements and of runs of retrieval systems.

Judgements may have the formats of TREC, MS MARCO, BEIR, MTEB and datasets of the hub:

    q1 0 p7 1                                          TREC: query, iteration (ignored), passage, grade
    query-id<TAB>corpus-id<TAB>score                   BEIR: three columns, with or without this header
    {"query-id": "q1", "corpus-id": "p7", "score": 1}  MTEB: JSON Lines, or parquet with these columns

A run has TREC's six columns. Columns are separated by tabs or other white space; a byte-order mark, Windows line ends,
empty lines and .gz files are supported. A line that cannot be read is an error that names the line.
"""

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from data_pipeline.errors import SourceError
from data_pipeline.user_files import check_id, checked_id, read_lines, read_records
from data_pipeline.user_files.records import is_parquet

Grades: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id -> passage id -> grade."""
Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id -> passage id -> score."""

_FOUR_COLUMNS = "query id, iteration, passage id and grade"
_THREE_COLUMNS = "query id, passage id and grade"
_RUN_COLUMNS = "query id, Q0, passage id, rank, score and name"
_QUERY_FIELDS = ("query-id", "query_id", "qid", "query")
_PASSAGE_FIELDS = ("corpus-id", "corpus_id", "passage-id", "passage_id", "doc_id", "docid", "pid", "doc")
_GRADE_FIELDS = ("score", "relevance", "grade", "label", "rel")
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_MAX_QUOTED_CHARS = 80

Value = TypeVar("Value", int, float)
_Row: TypeAlias = tuple[int, str, str, Value]
"""Line number, query id, passage id, and grade or score of the pair."""


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements: query id -> passage id -> grade, with the ids of the file.

    Grades are whole numbers, which may be written as `1.0`, and may be negative.

    Raises:
        SourceError: the file cannot be read or is empty, a line has another format, or a pair has two grades.
    """
    if is_parquet(path) or next(_read_lines(path), (0, ""))[1].lstrip().startswith("{"):
        rows: Iterator[_Row[int]] = (
            _row_from_record(record.values, record.where, record.number) for record in read_records(path)
        )
    else:
        rows = _qrels_rows(path)
    return _collect(rows, path, "judgements", "grade")


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """Read a run in TREC's format: query id -> passage id -> score, with the ids of the file.

    Raises:
        SourceError: the file cannot be read or is empty, a line has another format, or a pair has two scores.
    """
    return _collect(_run_rows(path), path, "rankings", "score")


def _collect(rows: Iterator[_Row[Value]], path: Path, content: str, value_name: str) -> dict[str, dict[str, Value]]:
    values: dict[str, dict[str, Value]] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, query_id, passage_id, value in rows:
        first_value = values.setdefault(query_id, {}).setdefault(passage_id, value)
        first_line = lines.setdefault((query_id, passage_id), line)
        if first_value != value:
            raise SourceError(
                f"{path}, line {line}: query {query_id!r} and passage {passage_id!r} have the {value_name} {value}, "
                f"but {first_value} in line {first_line}; remove one of the two lines"
            )
    if not values:
        raise SourceError(f"{path} has no {content}; it is empty")
    return values


def _qrels_rows(path: Path) -> Iterator[_Row[int]]:
    lines = _read_lines(path)
    first = list(islice(lines, 1))
    parts = _split_columns(first[0][1], (4, 3), False) if first else None
    has_header = parts is not None and _is_header(parts)
    columns = 4 if parts is None else len(parts)
    for number, text in lines if has_header else chain(first, lines):
        yield _row_from_line(text, columns, has_header, f"{path}, line {number}", number)


def _is_header(parts: Sequence[str]) -> bool:
    """Whether the first line of a file names its columns, as in BEIR's files."""
    first, last = (part.strip().strip('"').casefold().replace("_", "-") for part in (parts[0], parts[-1]))
    return first in {name.replace("_", "-") for name in _QUERY_FIELDS} and last in _GRADE_FIELDS


def _row_from_line(text: str, columns: int, quoted: bool, where: str, line: int) -> _Row[int]:
    parts = _split_columns(text, (columns,), quoted)
    if parts is None:
        expected = _FOUR_COLUMNS if columns == 4 else _THREE_COLUMNS
        raise SourceError(
            f"{where}: expected {expected}, separated by tabs or white space, found {text[:_MAX_QUOTED_CHARS]!r}. "
            "An id with white space is percent-encoded, or its columns are separated by tabs."
        )
    return line, check_id(parts[0], where), check_id(parts[-2], where), _read_grade(parts[-1], where)


def _row_from_record(record: Mapping[str, Any], where: str, line: int) -> _Row[int]:
    query_field, passage_field, grade_field = (
        _find_field(record, names, where) for names in (_QUERY_FIELDS, _PASSAGE_FIELDS, _GRADE_FIELDS)
    )
    query_id = checked_id(record[query_field], query_field, where)
    passage_id = checked_id(record[passage_field], passage_field, where)
    return line, query_id, passage_id, _read_grade(record[grade_field], where)


def _find_field(record: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Find the first of these fields that a record has."""
    name = next((name for name in names if name in record), None)
    if name is None:
        raise SourceError(
            f"{where}: expected a field {names[0]!r} (or {', '.join(names[1:])}), found "
            f"{', '.join(map(str, record)) or 'none'}"
        )
    return name


def _read_grade(value: Any, where: str) -> int:
    text = "" if isinstance(value, bool) else str(value).strip()
    match = _WHOLE_NUMBER.fullmatch(text)
    if match is None:
        raise SourceError(f"{where}: a grade is a whole number such as 0, 1 or 2, found {str(value)[:40]!r}")
    return int(match[1])


def _run_rows(path: Path) -> Iterator[_Row[float]]:
    for line, text in _read_lines(path):
        where = f"{path}, line {line}"
        parts = _split_columns(text, (6,), False)
        if parts is None:
            raise SourceError(f"{where}: expected {_RUN_COLUMNS}, found {text[:_MAX_QUOTED_CHARS]!r}")
        yield line, check_id(parts[0], where), check_id(parts[2], where), _read_score(parts[4], where)


def _read_score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{where}: expected {_RUN_COLUMNS}; the score must be a finite number, found {text[:40]!r}")
    return value


def _split_columns(line: str, counts: Collection[int], quoted: bool) -> list[str] | None:
    """Split a line at tabs, or at white space if that gives another number of columns; None if neither fits.

    Args:
        line: line without its line end.
        counts: accepted numbers of columns.
        quoted: read quotes as `csv` writes them, as BEIR's loader does.
    """
    if "\t" in line:
        parts = _unquote(line) if quoted and '"' in line else line.split("\t")
        parts = parts if quoted else [part.strip() for part in parts]
        if len(parts) in counts and all(part.strip() for part in parts):
            return parts
    parts = line.split()
    return parts if len(parts) in counts else None


def _unquote(line: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter="\t"))
    except csv.Error:
        return line.split("\t")


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines that are not empty, with their numbers."""
    return ((number, line) for number, line in read_lines(path) if line.strip())
