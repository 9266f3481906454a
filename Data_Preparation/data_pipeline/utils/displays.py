"""Displays of results in notebooks: HTML tables with everything escaped, and plain texts for other places."""

import html
from collections.abc import Sequence

from data_pipeline.utils.terminal import printable
from data_pipeline.utils.text import format_table

_STYLE = "text-align: left; vertical-align: top"


def facts_html(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return an HTML table of names and values.

    Args:
        title: heading of the table.
        rows: names and values, as plain texts.
    """
    lines = "".join(f'<tr><th style="{_STYLE}">{_escaped(name)}</th>{_cell(value)}</tr>' for name, value in rows)
    return f"<p><strong>{_escaped(title)}</strong></p><table><tbody>{lines}</tbody></table>"


def table_html(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table with a header.

    Args:
        title: heading of the table.
        columns: names of the columns.
        rows: cells, as plain texts.
    """
    head = "".join(f'<th style="{_STYLE}">{_escaped(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    heading = f"<p><strong>{_escaped(title)}</strong></p>"
    return f"{heading}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts_text(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return the same names and values as plain text, for `repr`."""
    return f"{printable(title)}\n{format_table([(printable(name), printable(value)) for name, value in rows])}"


def _cell(text: str) -> str:
    return f'<td style="{_STYLE}; overflow-wrap: anywhere">{_escaped(text)}</td>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))


class Displayed:
    """Part of results that are shown as a table of facts; their dataclass needs `repr=False`."""

    def display_facts(self) -> list[tuple[str, str]]:
        """Return names and values of what a person wants to know."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return facts_text(type(self).__name__, self.display_facts())

    def _repr_html_(self) -> str:
        return facts_html(type(self).__name__, self.display_facts())
