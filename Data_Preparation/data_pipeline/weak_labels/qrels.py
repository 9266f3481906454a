"""Relevance judgements and runs of retrieval systems, read from files.

Judgements come in the forms that TREC, MS MARCO, BEIR, MTEB and data sets of the hub use:

    q1 0 p7 1                                          TREC: query, iteration (not used), passage, grade
    query-id<TAB>corpus-id<TAB>score                   BEIR: three columns, with or without this header
    {"query-id": "q1", "corpus-id": "p7", "score": 1}  MTEB: JSON Lines, or parquet with these columns

A run has TREC's six columns. Columns are separated by tabs, or by any white space; a byte-order mark, Windows line
ends, empty lines and .gz files are understood. A line that cannot be read is an error that names it.
"""

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from data_pipeline.errors import SourceError
from data_pipeline.user_files import check_id, checked_id, read_lines, read_records
from data_pipeline.user_files.records import is_parquet

Grades: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id -> passage id -> grade."""
Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""Query id -> passage id -> score."""

_TREC = "query id, iteration, passage id and grade"
_THREE = "query id, passage id and grade"
_RUN = "query id, Q0, passage id, rank, score and name"
_QUERY_FIELDS = ("query-id", "query_id", "qid", "query")
_PASSAGE_FIELDS = ("corpus-id", "corpus_id", "passage-id", "passage_id", "doc_id", "docid", "pid", "doc")
_GRADE_FIELDS = ("score", "relevance", "grade", "label", "rel")
_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_MOST_SHOWN = 80

Value = TypeVar("Value", int, float)
_Row: TypeAlias = tuple[int, str, str, Value]
"""Line, query id, passage id, and the value of the pair."""


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements of a file, query id -> passage id -> grade; ids as the file has them.

    Grades are whole numbers, also written as `1.0`; negative ones are kept as they are.

    Raises:
        SourceError: the file cannot be read or is empty, a line has another form, or a pair has two grades.
    """
    if is_parquet(path) or next(_lines(path), (0, ""))[1].lstrip().startswith("{"):
        rows: Iterator[_Row[int]] = (
            _record_row(record.values, record.where, record.number) for record in read_records(path)
        )
    else:
        rows = _qrels_rows(path)
    return _collect(rows, path, "judgements", "grade")


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """A run in TREC's format, query id -> passage id -> score; ids as the file has them.

    Raises:
        SourceError: the file cannot be read or is empty, a line has another form, or a pair has two scores.
    """
    return _collect(_run_rows(path), path, "rankings", "score")


def _collect(rows: Iterator[_Row[Value]], path: Path, what: str, value_name: str) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, query_id, passage_id, value in rows:
        known = found.setdefault(query_id, {}).setdefault(passage_id, value)
        first = lines.setdefault((query_id, passage_id), line)
        if known != value:
            raise SourceError(
                f"{path}, line {line}: query {query_id!r} and passage {passage_id!r} have the {value_name} {value}, "
                f"but {known} in line {first}; remove one of the two lines"
            )
    if not found:
        raise SourceError(f"{path} has no {what}; it is empty")
    return found


def _qrels_rows(path: Path) -> Iterator[_Row[int]]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    number, text = first
    parts = _columns(text, (4, 3), False)
    header = parts is not None and _is_header(parts)
    expected = len(parts) if parts is not None else 4
    if not header:
        yield _qrels_row(text, expected, False, f"{path}, line {number}", number)
    for number, text in lines:
        yield _qrels_row(text, expected, header, f"{path}, line {number}", number)


def _is_header(parts: Sequence[str]) -> bool:
    """Whether a first line names its columns, as BEIR's do."""
    first, last = (part.strip().strip('"').casefold().replace("_", "-") for part in (parts[0], parts[-1]))
    return first in {name.replace("_", "-") for name in _QUERY_FIELDS} and last in _GRADE_FIELDS


def _qrels_row(text: str, columns: int, quoted: bool, where: str, line: int) -> _Row[int]:
    parts = _columns(text, (columns,), quoted)
    if parts is None:
        expected = _TREC if columns == 4 else _THREE
        raise SourceError(
            f"{where}: expected {expected}, separated by tabs or white space, found {text[:_MOST_SHOWN]!r}. "
            "An id with white space is percent-encoded, or its columns are separated by tabs."
        )
    return line, check_id(parts[0], where), check_id(parts[-2], where), _grade(parts[-1], where)


def _record_row(record: Mapping[str, Any], where: str, line: int) -> _Row[int]:
    query_field, passage_field, grade_field = (
        _field(record, names, where) for names in (_QUERY_FIELDS, _PASSAGE_FIELDS, _GRADE_FIELDS)
    )
    query_id = checked_id(record[query_field], query_field, where)
    passage_id = checked_id(record[passage_field], passage_field, where)
    return line, query_id, passage_id, _grade(record[grade_field], where)


def _field(record: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The first of some names that a record has."""
    name = next((name for name in names if name in record), None)
    if name is None:
        raise SourceError(
            f"{where}: expected a field {names[0]!r} (or {', '.join(names[1:])}), found "
            f"{', '.join(map(str, record)) or 'none'}"
        )
    return name


def _grade(value: Any, where: str) -> int:
    text = "" if isinstance(value, bool) else str(value).strip()
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        raise SourceError(f"{where}: a grade is a whole number such as 0, 1 or 2, found {str(value)[:40]!r}")
    return int(whole[1])


def _run_rows(path: Path) -> Iterator[_Row[float]]:
    for line, text in _lines(path):
        where = f"{path}, line {line}"
        parts = _columns(text, (6,), False)
        if parts is None:
            raise SourceError(f"{where}: expected {_RUN}, found {text[:_MOST_SHOWN]!r}")
        yield line, check_id(parts[0], where), check_id(parts[2], where), _score(parts[4], where)


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{where}: expected {_RUN}; the score must be a finite number, found {text[:40]!r}")
    return value


def _columns(line: str, counts: Collection[int], quoted: bool) -> list[str] | None:
    """The columns of a line, if there are as many as expected; tabs come before other white space.

    Args:
        line: without its end.
        counts: how many there may be.
        quoted: quotes are read as `csv` writes them, as BEIR's loader does.
    """
    if "\t" in line:
        parts = _unquoted(line) if quoted and '"' in line else line.split("\t")
        parts = parts if quoted else [part.strip() for part in parts]
        if len(parts) in counts and all(part.strip() for part in parts):
            return parts
    parts = line.split()
    return parts if len(parts) in counts else None


def _unquoted(line: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter="\t"))
    except csv.Error:
        return line.split("\t")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that hold something."""
    return ((number, line) for number, line in read_lines(path) if line.strip())
