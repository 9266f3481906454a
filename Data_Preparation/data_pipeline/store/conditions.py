"""Conditions on columns as they are written on a command line: `language=en`, `edu >= 3`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from data_pipeline.errors import ConfigError
from data_pipeline.utils import shown

_OPERATORS: Mapping[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    "<=": lambda column, value: column <= value,
    ">=": lambda column, value: column >= value,
    "!=": lambda column, value: column != value,
    "==": lambda column, value: column == value,
    "=": lambda column, value: column == value,
    "<": lambda column, value: column < value,
    ">": lambda column, value: column > value,
}
_CONDITION = re.compile(r"\s*([^<>=!\s].*?)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_TRUTH = {"true": True, "false": False}


def column_of(condition: str) -> str:
    """Return the name of the column of a condition.

    Raises:
        ConfigError: the text is no condition.
    """
    return _parts(condition)[0]


def parse_condition(condition: str, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """Parse `COLUMN OPERATOR VALUE`, with one of `=`, `!=`, `<`, `<=`, `>`, `>=`.

    The value has the type of the column: a number, `true` or `false`, or a text, which needs no quotes. Rows without a
    value in the column match no condition.

    Args:
        condition: the condition.
        schema: types of the columns that a condition may name.

    Raises:
        ConfigError: the text is no condition, there is no such column, or the value is not of its type.
    """
    name, operator, text = _parts(condition)
    if name not in schema:
        raise ConfigError(f"--where {shown(condition)}: unknown column {name!r}; expected one of {', '.join(schema)}")
    return _OPERATORS[operator](pl.col(name), _value(condition, name, schema[name], text))


def _parts(condition: str) -> tuple[str, str, str]:
    match = _CONDITION.fullmatch(condition)
    if match is None:
        raise ConfigError(
            f"--where takes COLUMN OPERATOR VALUE with one of {' '.join(_OPERATORS)}, such as 'edu >= 3'; "
            f"found {shown(condition)}"
        )
    return match[1], match[2], match[3]


def _value(condition: str, name: str, kind: pl.DataType, text: str) -> Any:
    if kind.is_numeric():
        try:
            return int(text) if kind.is_integer() and text.lstrip("+-").isdigit() else float(text)
        except ValueError:
            raise ConfigError(
                f"--where {shown(condition)}: the column {name!r} holds numbers, found {shown(text)}"
            ) from None
    if kind == pl.Boolean:
        if text.lower() not in _TRUTH:
            raise ConfigError(f"--where {shown(condition)}: the column {name!r} is true or false, found {shown(text)}")
        return _TRUTH[text.lower()]
    if kind not in (pl.String, pl.Categorical):
        raise ConfigError(f"--where {shown(condition)}: a column of {kind} ({name!r}) cannot be compared with a value")
    # Quotes that were meant for the shell, or for SQL.
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
