"""Lines of documents, and the headings above them."""

from collections.abc import Sequence

import polars as pl

from data_pipeline.types import Document, TextFormat
from data_pipeline.utils.markup import front_matter_lines, markdown_headings, parse_heading


def read_document_lines(documents: Sequence[Document], text_format: TextFormat, raw: bool) -> pl.DataFrame:
    """Make a table with one row for each line of documents of one format.

    Args:
        documents: the documents.
        text_format: their format.
        raw: whether the text stays as it is, with the front matter of Markdown.

    Returns:
        Table with the columns document (number), line, blank, section (path of headings), body (whether it is text),
        in_document (whether the unit `document` has it), and for formats with headings heading (whether it is the first
        line of one).
    """
    lines = (
        pl.DataFrame({"line": [document.text for document in documents]}, schema={"line": pl.String})
        .with_row_index("document")
        .with_columns(pl.col("line").str.split("\n"))
        .explode("line")
        .with_columns(blank=~pl.col("line").str.contains(r"\S"))
    )
    if text_format == "plain":
        return lines.with_columns(section=pl.lit(""), body=~pl.col("blank"), in_document=pl.lit(value=True))
    if text_format == "markdown":
        rows, paths, is_front = _markdown_sections(documents)
        return _with_sections(lines, rows, paths).with_columns(in_document=~pl.Series(is_front) | raw)
    # The edges of a document count as blank lines.
    above = pl.col("blank").shift(1, fill_value=True) | (pl.col("document") != pl.col("document").shift(1))
    below = pl.col("blank").shift(-1, fill_value=True) | (pl.col("document") != pl.col("document").shift(-1))
    looks_like_heading = pl.col("line").str.contains(r"^\s?= ") & above & below
    candidates = lines.with_row_index("row").filter(looks_like_heading).select("row", "document", "line")
    rows, paths = _section_paths(candidates)
    return _with_sections(lines, rows, paths).with_columns(in_document=pl.col("body") | pl.col("blank"))


def _with_sections(lines: pl.DataFrame, rows: list[int], paths: list[str | None]) -> pl.DataFrame:
    """Add the columns section, heading and body, by the lines that are headings and their paths.

    A line without a path is no text either: front matter, or the underline of a heading.
    """
    schema = {"row": pl.get_index_type(), "section": pl.String}
    headings = pl.DataFrame({"row": rows, "section": paths}, schema=schema).with_columns(marked=True)
    return (
        lines.with_row_index("row")
        .join(headings, on="row", how="left", maintain_order="left")
        .with_columns(heading=pl.col("section").is_not_null(), body=~pl.col("blank") & pl.col("marked").is_null())
        .with_columns(pl.col("section").forward_fill().over("document").fill_null(""))
        .drop("marked")
    )


def _markdown_sections(documents: Sequence[Document]) -> tuple[list[int], list[str | None], list[bool]]:
    """Find the lines of Markdown that are no text.

    Returns:
        Rows that are headings or front matter; the path of each heading at its first line; which of all rows are front
        matter.
    """
    rows: list[int] = []
    paths: list[str | None] = []
    is_front: list[bool] = []
    start = 0
    for document in documents:
        lines = document.text.split("\n")
        skipped = front_matter_lines(lines)
        rows += range(start, start + skipped)
        paths += [None] * skipped
        path: dict[int, str] = {}
        for heading in markdown_headings(lines[skipped:]):
            first = start + skipped + heading.first
            path = {above: name for above, name in path.items() if above < heading.level}
            path[heading.level] = heading.title
            height = heading.stop - heading.first
            rows += range(first, first + height)
            paths += [" > ".join(path[level] for level in sorted(path)), *[None] * (height - 1)]
        is_front += [row < skipped for row in range(len(lines))]
        start += len(lines)
    return rows, paths, is_front


def _section_paths(candidates: pl.DataFrame) -> tuple[list[int], list[str | None]]:
    """Rows that are headings, and the path of each, such as `History > Early years`."""
    rows: list[int] = []
    paths: list[str | None] = []
    path: dict[int, str] = {}
    current_document = None
    for row, document, line in candidates.iter_rows():
        heading = parse_heading(line)
        if heading is None:
            continue
        if document != current_document:
            path, current_document = {}, document
        level, title = heading
        path = {above: name for above, name in path.items() if above < level} | {level: title}
        rows.append(row)
        paths.append(" > ".join(path[above] for above in sorted(path)))
    return rows, paths
