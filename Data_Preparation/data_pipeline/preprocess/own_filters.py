"""Filters of the user: functions by name, and conditions in SQL over the columns of a row."""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import polars.exceptions as pl_errors

from data_pipeline.errors import ConfigError, SourceError

RowFunction = Callable[[Mapping[str, Any]], str | None]
"""Function that returns a reason to drop a row, given its columns by name, or None to keep it."""


def load_function(name: str) -> RowFunction:
    """Import a function by its name, `module:function`.

    Raises:
        ConfigError: there is no such module or function, or the module fails when it is imported.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may raise anything
        raise ConfigError(
            f"filters.functions: the module of {name!r} cannot be imported: {type(error).__name__}: {error}. Correct "
            "its name, or add its folder to PYTHONPATH."
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(
            f"filters.functions: the module {module_name!r} has no function {attribute!r}, expected module:function"
        )
    return function


def source_sha256(name: str) -> str:
    """SHA-256 of the source file of a function, `module:function`, for the fingerprint.

    Raises:
        ConfigError: the function cannot be imported, or has no source file.
    """
    function = load_function(name)
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        path = None
    if path is None or not Path(path).is_file():
        raise ConfigError(f"filters.functions: {name!r} has no source file; define it with `def` in a module of yours")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def function_reasons(name: str, function: RowFunction, rows: pl.DataFrame) -> list[str | None]:
    """Reasons that a function gives for rows.

    Raises:
        SourceError: the function raises an error, or returns neither a text nor None.
    """
    reasons: list[str | None] = []
    for row in rows.iter_rows(named=True):
        try:
            reason = function(row)
        except Exception as error:  # the function is the user's, and may raise anything
            raise SourceError(
                f"filters.functions: {name} failed for {row['text_id']!r}: {type(error).__name__}: {error}"
            ) from error
        if reason is not None and not (isinstance(reason, str) and reason):
            raise SourceError(
                f"filters.functions: {name} returned {type(reason).__name__} for {row['text_id']!r}, expected a reason "
                "(a text that is not empty) or None"
            )
        reasons.append(reason)
    return reasons


def check_conditions(conditions: Mapping[str, str], schema: Mapping[str, type[pl.DataType]]) -> None:
    """Check that conditions are SQL that gives true or false over the columns of a row.

    Raises:
        ConfigError: a condition has an error, names an unknown column, or gives something else.
    """
    empty = pl.DataFrame(schema=schema)
    for reason, condition in conditions.items():
        where = f"filters.keep_where.{reason}: {condition!r}"
        try:
            column = empty.select(pl.sql_expr(condition).alias("kept"))["kept"]
        except pl_errors.ColumnNotFoundError:
            used = pl.sql_expr(condition).meta.root_names()
            unknown = [name for name in used if name not in schema]
            raise ConfigError(
                f"{where} names the column {', '.join(unknown)}, expected one of {', '.join(schema)}"
            ) from None
        except pl_errors.PolarsError as error:
            raise ConfigError(f"{where} cannot be used: {str(error).splitlines()[0]}") from error
        if column.dtype != pl.Boolean:
            raise ConfigError(f"{where} gives {column.dtype}, expected a condition that is true or false")


def condition_reasons(reason: str, condition: str, rows: pl.DataFrame) -> list[str | None]:
    """The reason for rows for which a condition is false or null."""
    is_true = rows.select(pl.sql_expr(condition).alias("kept"))["kept"].fill_null(value=False)
    return [None if true else reason for true in is_true]
