"""Rows of CSV (comma, quoted by `"`) and TSV files (tab; quotes have no meaning, as in the files of SST-2 and BEIR)."""

import csv
from collections.abc import Iterator, Mapping, Sequence

from data_pipeline.errors import RecordError, SourceError
from data_pipeline.user_files.inputs import InputFile
from data_pipeline.user_files.text import MAX_LINE_BYTES, OnBad, OnBytes, read_lines, set_aside
from data_pipeline.utils import shortened


def delimited_rows(
    path: InputFile,
    delimiter: str,
    on_bytes: OnBytes | None = None,
    on_bad: OnBad | None = None,
    encoding: str = "utf-8",
) -> Iterator[tuple[int, list[str]]]:
    """Read the line numbers and cells of the rows that are not blank.

    Args:
        path: the file.
        delimiter: a comma or a tab.
        on_bytes: called with the number of bytes of each read.
        on_bad: called with rows that cannot be read; None to raise their error.
        encoding: encoding of the file, other than UTF-16 and UTF-32.

    Raises:
        RecordError: a row cannot be read.
        SourceError: the file cannot be read, or its last quote is not closed.
    """
    lines = read_lines(path, on_bytes, on_bad, encoding)
    if delimiter == "\t":
        yield from ((number, line.split("\t")) for number, line in lines if line.strip())
        return
    previous_limit = csv.field_size_limit(MAX_LINE_BYTES)
    number = 0

    def text() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007  # lines that are left out count
            yield f"{line}\n"

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    try:
        while True:
            first = number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"{path}, line {first}: not CSV: {error}. Is a quote missing?"
                if "end of data" in str(error):  # all lines after an open quote are part of its cell
                    raise SourceError(message) from error
                set_aside(first, RecordError(message, "broken_line"), on_bad)
                continue
            if cells:
                yield first, cells
    finally:
        csv.field_size_limit(previous_limit)


def column_names(path: InputFile, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """Read the header of a file, the first of its rows.

    Raises:
        SourceError: the file is empty, or two columns have the same name.
    """
    _, names = next(rows, (0, list[str]()))
    if not names:
        raise SourceError(f"{path} is empty, expected a line with the names of the columns")
    if len(set(names)) != len(names):
        raise SourceError(f"{path}, line 1: two columns have the same name: {shortened(', '.join(names))}")
    return names


def check_width(path: InputFile, number: int, cells: Sequence[str], names: Sequence[str], delimiter: str) -> None:
    """Check that a row has a cell for every column.

    Raises:
        RecordError: it has fewer or more.
    """
    if len(cells) != len(names):
        raise RecordError(
            f"{path}, line {number}: {len(cells)} columns, expected {len(names)} ({shortened(', '.join(names))}). "
            f"Is there a stray {'tab' if delimiter == chr(9) else 'comma'}, or is the line cut?",
            "broken_line",
        )


def delimited_records(
    path: InputFile,
    delimiter: str,
    on_bytes: OnBytes | None = None,
    on_bad: OnBad | None = None,
    encoding: str = "utf-8",
    has_header: bool = True,
) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Read the line numbers and rows of a file; empty cells are null.

    Args:
        path: the file.
        delimiter: a comma or a tab.
        on_bytes: called with the number of bytes of each read.
        on_bad: called with rows that cannot be read; None to raise their error.
        encoding: encoding of the file, other than UTF-16 and UTF-32.
        has_header: whether the first row names the columns; else they are named `1`, `2` and so on.

    Raises:
        RecordError: a row cannot be read, or has fewer or more cells than the header.
        SourceError: the file cannot be read, is empty, or its last quote is not closed.
    """
    rows = delimited_rows(path, delimiter, on_bytes, on_bad, encoding)
    names = column_names(path, rows) if has_header else []
    for number, cells in rows:
        names = names or [str(position) for position in range(1, len(cells) + 1)]
        try:
            check_width(path, number, cells, names, delimiter)
        except RecordError as error:
            set_aside(number, error, on_bad)
        else:
            yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
