"""Filters of the user: functions by name, and conditions in SQL over the columns of a row."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import polars.exceptions as pl_errors

from data_pipeline.errors import ConfigError, SourceError
from data_pipeline.utils.functions import describe_error

RowFunction = Callable[[Mapping[str, Any]], str | None]
"""Function that returns a reason to drop a row, given its columns by name, or None to keep it."""


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
                f"filters.functions: {name} failed for {row['text_id']!r}: {describe_error(error)}"
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
