"""The rows as a table of DuckDB, for the queries of the atlas, and files of the rows that were selected there."""

import csv
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.report.explorer.contents import Contents, unused_name
from data_pipeline.report.explorer.nearest import nearest_rows
from data_pipeline.types import Float32Array
from data_pipeline.utils.extras import require

duckdb = require("duckdb", "explore", "the explorer")

TEXT_CHARACTERS = 5_000
"""Length at which the explorer cuts texts and other strings; files of selected rows hold them whole."""

MAX_SEARCHED_ROWS = 100_000
"""Number of rows that the page may search by words at once: it builds the index of all texts in the browser, which for
a million rows took minutes and gigabytes. Conditions in SQL are answered here, and search any number of rows."""

Format = Literal["parquet", "csv", "json", "jsonl"]

NEIGHBORS_TYPE = pa.struct({"ids": pa.list_(pa.int32()), "distances": pa.list_(pa.float32())})
_WHOLE, _SHOWN = "whole", "dataset"
_NEIGHBORS_SQL = "STRUCT(ids INTEGER[], distances FLOAT[])"
_SEARCH = re.compile(r'\s*SELECT\s+"[^"]*" AS id,\s+"(?:[^"]|"")*" AS text\s+FROM dataset\s*(?P<where>WHERE .*)?', re.S)
# In this order, since the last one forbids further changes. No file, address or extension can be opened after them.
_LOCKS = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


@dataclass(frozen=True)
class Names:
    """Names of the columns that the explorer adds; those that begin with two underscores are not listed there."""

    row: str
    x: str
    y: str
    neighbors: str


@dataclass(frozen=True)
class Database:
    """Table `dataset` of the rows that are shown; queries run one at a time, each on all cores."""

    names: Names
    columns: tuple[str, ...]
    """Names of all columns of the rows themselves."""
    _connection: Any
    _lock: threading.Lock
    _spill: "tempfile.TemporaryDirectory[str]"
    """Folder for what does not fit in memory."""

    def execute(self, sql: str) -> None:
        """Run a statement, and discard what it returns."""
        with self._lock:
            self._connection.execute(sql).fetchall()

    def arrow(self, sql: str) -> bytes:
        """Run a query; returns the rows as an Arrow stream."""
        sink = pa.BufferOutputStream()
        with (
            self._lock,
            self._connection.sql(sql).to_arrow_reader() as reader,
            pa.ipc.new_stream(sink, reader.schema) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
        return bytes(sink.getvalue())

    def search_refusal(self, sql: str) -> str | None:
        """Return why the page cannot search, if this is its query for the texts of more rows than it can index."""
        asked = _SEARCH.fullmatch(sql)
        if asked is None:
            return None
        with self._lock:
            count = f"SELECT count(*) FROM {_SHOWN} {asked['where'] or ''}"  # noqa: S608
            ((rows,),) = self._connection.sql(count).fetchall()
        if rows <= MAX_SEARCHED_ROWS:
            return None
        return (
            f"{rows:,} rows are too many for a search by words, which takes at most {MAX_SEARCHED_ROWS:,}. Search them "
            "by SQL, or select fewer rows first: + Add Predicate, text ILIKE '%word%'"
        )

    def json(self, sql: str) -> bytes:
        """Run a query; returns the rows as a JSON array of objects."""
        with self._lock:
            rows = self._connection.sql(sql).to_arrow_table().to_pylist()
        # JSON has no NaN, which an average of no rows is.
        finite = [{name: None if value != value else value for name, value in row.items()} for row in rows]
        return json.dumps(finite, default=_plain, allow_nan=False).encode()

    def write_selection(self, predicate: str | None, form: Format, path: Path) -> None:
        """Write the rows that match a condition, with their whole texts, to a file.

        Args:
            predicate: condition on the columns of `dataset`, in SQL; None for all rows.
            form: format of the file; CSV has nested values as JSON.
            path: path of the file.
        """
        row, own = quoted(self.names.row), ", ".join(map(quoted, self.columns))
        chosen = f" WHERE {row} IN (SELECT {row} FROM {_SHOWN} WHERE {predicate})" if predicate else ""  # noqa: S608
        sql = f"SELECT {own} FROM {_WHOLE}{chosen} ORDER BY {row}"  # noqa: S608
        with self._lock, self._connection.sql(sql).to_arrow_reader() as reader:
            _WRITERS[form](reader, path)

    def rows_of_shown(self) -> Iterator[pa.RecordBatch]:
        """Iterate over the rows as they are shown, with their row numbers and positions."""
        own = ", ".join(map(quoted, (*self.columns, self.names.row, self.names.x, self.names.y)))
        sql = f"SELECT {own} FROM {_SHOWN}"  # noqa: S608
        with self._lock, self._connection.sql(sql).to_arrow_reader() as reader:
            yield from reader

    def close(self) -> None:
        """Close the connection, and remove its files."""
        self._connection.close()
        self._spill.cleanup()


def open_database(contents: Contents, table: pa.Table, positions: Float32Array) -> Database:
    """Open the rows with their positions as a database.

    The atlas adds columns to the table, so it is one of DuckDB's own and not a view. Neighbours are a generated column,
    which is computed only for rows that a query asks for.

    Args:
        contents: rows that are shown.
        table: columns of the same rows, see `Contents.table`.
        positions: positions on the map, shape (N, 2).
    """
    columns, names = tuple(table.column_names), _names(table.column_names)
    for name, column in (
        (names.row, np.arange(len(table), dtype=np.int32)),
        (names.x, np.ascontiguousarray(positions[:, 0])),
        (names.y, np.ascontiguousarray(positions[:, 1])),
    ):
        table = table.append_column(name, pa.array(column))
    spill = tempfile.TemporaryDirectory(prefix="elm-explorer-")
    connection = duckdb.connect(":memory:", config={"temp_directory": spill.name})
    neighbors = _Neighbors(contents)
    connection.register(_WHOLE, table)
    connection.create_function(
        "neighbors_of", neighbors.of, ["INTEGER"], _NEIGHBORS_SQL, type="arrow", null_handling="special"
    )
    types = {name: kind for name, kind, *_ in connection.sql(f"DESCRIBE {_WHOLE}").fetchall()}
    own = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
    shown = ", ".join(_cut(name) if kind == "VARCHAR" else quoted(name) for name, kind in types.items())
    generated = f"{quoted(names.neighbors)} {_NEIGHBORS_SQL} GENERATED ALWAYS AS (neighbors_of({quoted(names.row)}))"
    connection.execute(f"CREATE TABLE {_SHOWN} ({own}, {generated} VIRTUAL)")
    connection.execute(f"INSERT INTO {_SHOWN} SELECT {shown} FROM {_WHOLE}")  # noqa: S608
    neighbors.is_asked = True
    for lock in _LOCKS:
        connection.execute(lock)
    return Database(names, columns, connection, threading.Lock(), spill)


def quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _names(taken: list[str]) -> Names:
    return Names(*(unused_name(name, taken) for name in ("__row_index__", "__x", "__y", "__neighbors")))


def _cut(name: str) -> str:
    """Return the SQL of a column of strings cut to their limit; the length in bytes is known without reading them."""
    column = quoted(name)
    told = f"printf(' … [cut: %d of %d characters are shown]', {TEXT_CHARACTERS}, length({column}))"
    is_long = f"strlen({column}) > {TEXT_CHARACTERS} AND length({column}) > {TEXT_CHARACTERS}"
    return f"CASE WHEN {is_long} THEN {column}[1:{TEXT_CHARACTERS}] || {told} ELSE {column} END"


class _Neighbors:
    """SQL function for the nearest neighbours of rows."""

    def __init__(self, contents: Contents) -> None:
        self.is_asked = False
        """Whether somebody asks for neighbours; DuckDB also computes those of new rows, to discard them."""
        # Neighbours of a row are computed twice in a query that asks for them once.
        self._nearest = lru_cache(maxsize=1024)(partial(nearest_rows, contents))

    def of(self, rows: pa.Array) -> pa.Array:
        """Return the neighbours of rows."""
        if not self.is_asked:
            return pa.nulls(len(rows), NEIGHBORS_TYPE)
        nearest = [self._nearest(row) for row in rows.to_pylist()]
        values = [{"ids": each.rows.tolist(), "distances": each.distances.tolist()} for each in nearest]
        return pa.array(values, NEIGHBORS_TYPE)


def _plain(value: Any) -> float | str:
    """Convert a value that JSON has no type for."""
    return float(value) if isinstance(value, Decimal) else str(value)


def _write_parquet(reader: pa.RecordBatchReader, path: Path) -> None:
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _write_csv(reader: pa.RecordBatchReader, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(reader.schema.names)
        for batch in reader:
            columns = [map(_cell, column.to_pylist()) for column in batch.columns]
            writer.writerows(zip(*columns, strict=True))


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=_plain) if isinstance(value, list | dict) else value


def _write_json(reader: pa.RecordBatchReader, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        between = "[\n"
        for line in _json_lines(reader):
            file.write(between + line)
            between = ",\n"
        file.write("[]\n" if between == "[\n" else "\n]\n")


def _write_json_lines(reader: pa.RecordBatchReader, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _json_lines(reader))


def _json_lines(reader: pa.RecordBatchReader) -> Iterator[str]:
    for batch in reader:
        for row in batch.to_pylist():
            yield json.dumps(row, ensure_ascii=False, default=_plain)


_WRITERS: Mapping[Format, Callable[[pa.RecordBatchReader, Path], None]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_json_lines,
}
