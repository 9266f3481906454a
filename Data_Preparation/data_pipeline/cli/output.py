"""Output of all commands: tables and texts for people, one JSON document for machines, only errors with `--quiet`.

A command calls `present` with its result in both forms, and `say` with what is for people only. What is printed never
holds control characters of a text, and no text is read as markup.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from data_pipeline.utils import format_table
from data_pipeline.utils.terminal import QUIET, printable, printable_json

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Facts:
    """Table of two columns: names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """Table with a header, or without one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Set[int] = frozenset()
    """Numbers of the columns that are aligned to the right."""

    def lines(self) -> list[str]:
        """Return the table as lines of plain text."""
        table = [*([self.columns] if self.columns else []), *self.rows]
        widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
        return [
            "  ".join(
                cell.rjust(width) if column in self.right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]


Part: TypeAlias = str | Facts | Grid
"""What is printed: lines, or a table."""


@dataclass
class _Output:
    """Output of the command that runs."""

    as_json: bool = False
    quiet: bool = False
    document: Any = None
    said: list[str] = field(default_factory=list)
    """Texts of a command without a document."""


_output: ContextVar[_Output] = ContextVar("output", default=_Output())  # noqa: B039  never changed


def say(*parts: Part) -> None:
    """Print parts for people: nothing with `--quiet`, and nothing with `--json`, but for a command without a document.

    A table stands on lines of its own; on a terminal it fits the width of the window.
    """
    output = _output.get()
    if output.as_json:
        output.said.append(_plain(parts))
    elif not output.quiet:
        _print(parts)


def present(document: Any, *parts: Part) -> None:
    """Present a result: the document to machines (`--json`), the parts to people.

    Args:
        document: JSON values, and mappings, dataclasses, paths, times and numpy values among them. Mappings of several
            calls are merged.
        parts: see `say`.
    """
    output = _output.get()
    if isinstance(output.document, dict) and isinstance(document, Mapping):
        output.document |= document
    else:
        output.document = dict(document) if isinstance(document, Mapping) else document
    if parts and not (output.as_json or output.quiet):
        _print(parts)


def complain(text: str) -> None:
    """Print a message to standard error."""
    print(printable(text), file=sys.stderr)


def complain_of(error: Exception) -> None:
    """Print an error to standard error; with `--json` it is the document, too."""
    complain(f"error: {error}")
    present({"error": {"kind": type(error).__name__, "message": str(error)}})


@contextmanager
def output_of(as_json: bool, quiet: bool) -> Iterator[None]:
    """Print the output of a command as its flags ask for; with `--json`, the document at its end."""
    output = _Output(as_json, quiet)
    token, before = _output.set(output), os.environ.get(QUIET)
    if quiet:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        _output.reset(token)
        if quiet:
            os.environ.pop(QUIET)
            if before is not None:
                os.environ[QUIET] = before
        if as_json:
            print(as_document({"text": "\n".join(output.said)} if output.document is None else output.document))


def as_document(value: Any) -> str:
    """Return JSON text of a value; see `present`. Numbers that are not finite become null."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_json_value(value), indent=2, ensure_ascii=not is_utf8, allow_nan=False)
    return printable_json(text)


def _json_value(value: Any) -> Any:
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # of numpy and torch, which need not be imported here
        return _json_value(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _json_value(part) for name, part in value.items()}
    if dataclasses.is_dataclass(value):
        return {each.name: _json_value(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Sequence | Set):
        return [_json_value(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value: {value!r}")


def _plain(parts: Sequence[Part]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, Facts):
            texts.append(format_table([(printable(name), printable(value)) for name, value in part.rows]))
        elif isinstance(part, Grid):
            rows = [[printable(cell) for cell in row] for row in part.rows]
            texts.append("\n".join(dataclasses.replace(part, rows=rows).lines()))
        else:
            texts.append(printable(part))
    return "\n".join(texts)


def _print(parts: Sequence[Part]) -> None:
    if not (sys.stdout.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}):
        print(_plain(parts))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(printable(part)), soft_wrap=True)  # so that commands can be copied
        else:
            console.print(_table(part))


def _table(part: Facts | Grid) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    if isinstance(part, Facts):
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=True)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in part.rows:
            table.add_row(Text(f"  {printable(name)}"), Text(printable(value)))
        return table
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold cyan", show_header=bool(part.columns))
    columns = part.columns or [""] * max(map(len, part.rows), default=0)
    for number, column in enumerate(columns):
        last = number == len(columns) - 1
        justify: Literal["left", "right"] = "right" if number in part.right else "left"
        table.add_column(Text(column), justify=justify, no_wrap=not last, overflow="fold" if last else "ellipsis")
    for row in part.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
