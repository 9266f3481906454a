"""Users' tables (labels, lists of ids, pairs) in parquet, CSV, TSV or JSON Lines, with types by their content.

The type of a column is decided by all its rows and by its role: ids stay as they are written,
texts are never numbers, and values are numbers if every row has a number.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from data_pipeline.errors import SourceError
from data_pipeline.user_files.delimited import check_width, column_names, delimited_rows
from data_pipeline.user_files.records import is_parquet, json_records
from data_pipeline.utils import converted_errors, shortened, shown

Role = Literal["id", "text", "value"]
"""Role of a column: ids (texts or integers, or lists of them), texts, or values such as labels."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# 007 and 1_000 are codes, not numbers.
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NO_VALUE = frozenset({"", "nan"})


@dataclass(frozen=True)
class UserTable:
    """Columns of a user's table."""

    where: str
    """Name of the table, for messages."""
    names: Sequence[str]
    """Names of all columns of the table."""
    frame: pl.DataFrame
    """The requested columns that exist, with ids and texts as strings and missing values as null."""
    unit: str
    """Unit of `numbers`, `line` or `row`."""
    numbers: Sequence[int]
    """Number of the line or row of the file for each row of `frame`, from 1."""

    def place(self, row: int) -> str:
        """Location of a row of `frame` in the file, for messages."""
        return f"{self.where}, {self.unit} {self.numbers[row]}"

    def require(self, *columns: str) -> None:
        """Check that the table has the given columns.

        Raises:
            SourceError: a column is missing.
        """
        missing = [name for name in columns if name not in self.names]
        if missing:
            raise SourceError(
                f"{self.where} has no column {', '.join(map(repr, missing))}; it has {shortened(', '.join(self.names))}"
            )


def read_table(source: str | Path | pl.DataFrame, roles: Mapping[str, Role]) -> UserTable:
    """Read columns of a table.

    Args:
        source: a parquet, CSV (comma, quoted by `"`), TSV (tab, no quotes) or JSON Lines file, possibly compressed; or
            a frame. A parquet file is recognized by its content, the others by their ending.
        roles: roles of the columns to read, by name; columns that do not exist are left out.

    Raises:
        SourceError: the file cannot be read, a row is broken, or the values of a column do not fit its role.
    """
    if isinstance(source, pl.DataFrame):
        return _read_frame(source, roles, "the table")
    path = Path(source)
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    if is_parquet(path):
        with converted_errors((OSError, pl.exceptions.PolarsError), SourceError, f"{path} cannot be read as parquet"):
            return _read_frame(pl.read_parquet(path, hive_partitioning=False), roles, str(path))
    ending = next((suffix for suffix in reversed(path.suffixes) if suffix in {*_DELIMITERS, ".jsonl"}), None)
    if ending is None:
        raise SourceError(f"{path} must be a .parquet, .csv, .tsv or .jsonl file")
    if ending == ".jsonl":
        return _read_json_lines(path, roles)
    return _read_delimited(path, _DELIMITERS[ending], roles)


def _read_frame(table: pl.DataFrame, roles: Mapping[str, Role], where: str) -> UserTable:
    columns = []
    for name in [name for name in roles if name in table.columns]:
        column = table[name]
        if roles[name] == "id":
            _check_ids(column, where)
            column = column.cast(pl.List(pl.String) if column.dtype == pl.List else pl.String)
        elif roles[name] == "text" and column.dtype not in (pl.String, pl.Null):
            raise SourceError(f"{where}: the column {name!r} must hold texts, found {column.dtype}")
        elif column.dtype.is_float():
            column = column.fill_nan(None)
        columns.append(column)
    return UserTable(where, table.columns, pl.DataFrame(columns), "row", range(1, len(table) + 1))


def _check_ids(column: pl.Series, where: str) -> None:
    kind = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if not (kind in (pl.String, pl.Categorical, pl.Null) or isinstance(kind, pl.Enum) or kind.is_integer()):
        raise SourceError(f"{where}: the column {column.name!r} must hold ids (texts or whole numbers), found {kind}")
    if column.dtype != pl.List and column.null_count():
        row = int(column.is_null().arg_true()[0]) + 1
        raise SourceError(f"{where}, row {row}: {column.name!r} has no id")


def _read_json_lines(path: Path, roles: Mapping[str, Role]) -> UserTable:
    names: dict[str, None] = {}
    numbers: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in roles}
    for number, record in json_records(path):
        names.update(dict.fromkeys(record))
        numbers.append(number)
        for name, column in values.items():
            column.append(record.get(name))
    return _make_table(path, list(names), numbers, values, roles)


def _read_delimited(path: Path, delimiter: str, roles: Mapping[str, Role]) -> UserTable:
    rows = delimited_rows(path, delimiter)
    names = column_names(path, rows)
    numbers: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in roles if name in names}
    targets = [(column, names.index(name)) for name, column in values.items()]
    for number, cells in rows:
        check_width(path, number, cells, names, delimiter)
        numbers.append(number)
        for column, position in targets:
            column.append(cells[position])
    for name, column in values.items():
        values[name] = _parse_numbers(column) if roles[name] == "value" else [cell or None for cell in column]
    return _make_table(path, names, numbers, values, roles)


def _make_table(
    path: Path, names: Sequence[str], numbers: list[int], values: dict[str, list[Any]], roles: Mapping[str, Role]
) -> UserTable:
    """Table of the lines of a file, with columns of the types of their values."""

    def where(row: int) -> str:
        return f"{path}, line {numbers[row]}"

    columns = [_column(name, values[name], role, where) for name, role in roles.items() if name in names]
    return UserTable(str(path), names, pl.DataFrame(columns), "line", numbers)


def _parse_numbers(cells: Sequence[str]) -> list[Any]:
    """Cells as numbers if all are numbers or missing, else as texts; missing cells become null."""
    try:
        return [None if cell.strip().lower() in _NO_VALUE else _parse_number(cell) for cell in cells]
    except ValueError:
        return [cell or None for cell in cells]


def _parse_number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell.strip()):
        raise ValueError(cell)
    return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)


def _column(name: str, values: list[Any], role: Role, where: Callable[[int], str]) -> pl.Series:
    if role == "id":
        return _ids(name, values, where)
    kinds = _kinds(values)
    if role == "text" and kinds.keys() - {str}:
        kind, row = next((kind, row) for kind, row in kinds.items() if kind is not str)
        raise SourceError(f"{where(row)}: {name!r} must be a text, found {kind.__name__}: {shown(values[row])}")
    if list in kinds and len(kinds) == 1:
        inner = _kinds(item for value in values if value is not None for item in value)
        dtype = _dtype(inner)
        if dtype is not None:
            return pl.Series(name, values, pl.List(dtype), strict=False)
    dtype = _dtype(kinds)
    if dtype is None:
        rows = sorted(kinds.items(), key=lambda item: item[1])
        examples = " and ".join(f"{shown(values[row])} ({where(row)})" for _, row in rows[:2])
        raise SourceError(f"the column {name!r} must hold values of one kind, found {examples}")
    try:
        return pl.Series(name, values, dtype, strict=dtype != pl.Float64)
    except (OverflowError, TypeError, pl.exceptions.PolarsError) as error:
        raise SourceError(f"{where(0)} and after: the column {name!r} cannot be read: {error}") from error


def _kinds(values: Iterable[Any]) -> dict[type, int]:
    """First row of each type among the values that are not null."""
    kinds: dict[type, int] = {}
    for row, value in enumerate(values):
        if value is not None:
            kinds.setdefault(type(value), row)
    return kinds


def _dtype(kinds: Mapping[type, int]) -> "type[pl.DataType] | None":
    """Column type for values of the given types; None if the types cannot be mixed."""
    if not kinds:
        return pl.Null
    if kinds.keys() == {bool}:
        return pl.Boolean
    if kinds.keys() == {int}:
        return pl.Int64
    if kinds.keys() <= {int, float}:
        return pl.Float64
    return pl.String if kinds.keys() == {str} else None


def _ids(name: str, values: list[Any], where: Callable[[int], str]) -> pl.Series:
    """Ids, or lists of ids, as strings."""
    if list in _kinds(values):
        lists = [
            None if value is None else [_id(item, name, row, where) for item in value] if isinstance(value, list)
            else [_id(value, name, row, where)]
            for row, value in enumerate(values)
        ]  # fmt: skip
        return pl.Series(name, lists, pl.List(pl.String))
    return pl.Series(name, [_id(value, name, row, where) for row, value in enumerate(values)], pl.String)


def _id(value: Any, name: str, row: int, where: Callable[[int], str]) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SourceError(f"{where(row)}: {name!r} must be an id (a text or a whole number), found {shown(value)}")
    return str(value)
