"""Extraction of candidate paragraphs from documents: cuts them at headings and blank lines, and cleans the text."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import polars as pl

from data_pipeline.config import PreprocessConfig
from data_pipeline.preprocess.clean import clean_lines
from data_pipeline.preprocess.lines import read_document_lines
from data_pipeline.types import METADATA_TYPES, Document, MetadataValue, TextFormat

# What is cut into chunks, which keep to the sections that a format has.
_CHUNKED_UNITS: Mapping[TextFormat, str] = {"wikitext": "section", "markdown": "part", "plain": "document"}
_WHOLE_LINES = ("document", "part")  # units whose texts keep their line ends
_METADATA_PREFIX = "metadata."  # a user's field may have the name of a column in this module, such as `position`


def document_batches(documents: Iterable[Document], batch_chars: int = 4_000_000) -> Iterator[list[Document]]:
    """Group documents of one format into batches of about `batch_chars` characters."""
    for _, same in groupby(documents, key=lambda document: document.format):
        batch: list[Document] = []
        size = 0
        for document in same:
            batch.append(document)
            size += len(document.text)
            if size >= batch_chars:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def extract_paragraphs(
    documents: Sequence[Document],
    config: PreprocessConfig,
    metadata: dict[str, str],
    mask: Callable[[pl.Series], pl.Series] | None = None,
) -> pl.DataFrame:
    """Cut documents of one format into cleaned paragraphs, in order.

    The `text_id` of a paragraph consists of the id of its document, `s` (section), `l` (line) or `d` (document) for the
    unit, and its position in the document before any filter. For the unit `chunk`, paragraphs are what is cut into
    chunks: documents, or the sections of WikiText.

    Args:
        documents: one or more documents, all of the same format.
        config: the unit and the cleaning.
        metadata: types of the documents' metadata by name.
        mask: replaces personal data in cleaned lines and headings; None to leave it.

    Returns:
        Table with the columns text_id, text, char_count, document_id, title, section, source_split, the metadata,
        `document_number`, the position of the document, `raw`, the text before cleaning, and if texts are cut
        `char_start`, the position of the paragraph in the cleaned document, whose paragraphs are joined by blank lines.
    """
    text_format = documents[0].format
    unit = _CHUNKED_UNITS[text_format] if config.unit == "chunk" else config.unit
    separator = "\n" if config.clean == "raw" or unit in _WHOLE_LINES else " "
    lines = read_document_lines(documents, text_format, config.clean == "raw")
    if config.clean == "raw":
        lines = lines.with_columns(pl.col("line").alias("text"))
    else:
        as_wikitext = (text_format if config.clean == "auto" else config.clean) == "wikitext"
        cleaned = clean_lines(lines["line"], as_wikitext, config.unknown_policy == "drop")
        lines = lines.with_columns(cleaned.alias("text"))
    if mask:
        lines = lines.with_columns(mask(lines["text"]).alias("text"))
    lines = _lines_of_parts(lines, config.clean == "raw") if unit == "part" else _lines_of_blocks(lines, unit)

    def clean_heading(column: str) -> pl.Expr:
        if config.clean == "raw" or text_format != "wikitext":
            return pl.col(column)
        return pl.col(column).map_batches(lambda names: clean_lines(names, wikitext=True, drop_unknown=False))

    texts = pl.col("text") if unit in _WHOLE_LINES else pl.col("text").filter(pl.col("text") != "")
    has_place = "place" in lines.columns
    blocks = lines.group_by("block", maintain_order=True).agg(
        pl.col("document", "section").first(),
        texts.str.join(separator),
        pl.col("line").str.join(separator).alias("raw"),
        *([pl.col("place").filter(pl.col("text").str.contains(r"\S")).first()] if has_place else []),
    )
    if unit == "part":
        blocks = blocks.with_columns(pl.col("text").str.strip_chars("\n"))
    elif unit == "document" and config.clean != "raw":
        blocks = blocks.with_columns(pl.col("text").str.strip_chars("\n").str.replace_all(r"\n{3,}", "\n\n"))
    size = pl.col("text").str.len_chars().cast(pl.Int64)
    # A blank line is two characters.
    char_start = pl.col("place") if has_place else (size + 2).cum_sum().over("document") - size - 2
    position = pl.int_range(pl.len()).over("document").cast(pl.String)
    return (
        blocks.with_columns(position=position)
        .join(_document_table(documents, metadata), on="document", how="left", maintain_order="left")
        .with_columns(clean_heading("title"), clean_heading("section"))
        .select(
            pl.concat_str("document_id", pl.lit("#" + config.unit[0]), "position").alias("text_id"),
            "text",
            size.alias("char_count"),
            "document_id",
            "title",
            "section",
            "source_split",
            *(pl.col(_METADATA_PREFIX + name).alias(name) for name in metadata),
            pl.col("document").cast(pl.Int64).alias("document_number"),
            "raw",
            *([char_start.cast(pl.Int64).alias("char_start")] if config.cuts else []),
        )
    )


def _lines_of_blocks(lines: pl.DataFrame, unit: str) -> pl.DataFrame:
    """Add the number of the block that each line belongs to; lines that belong to none are left out."""
    if unit == "document":
        has_text = pl.col("body").any().over("document")
        return lines.filter(has_text & pl.col("in_document")).with_columns(block=pl.col("document"), section=pl.lit(""))
    starts = pl.col("body")
    if unit == "section":
        # A section is a run of body lines in one document.
        same_run = pl.col("body").shift(1, fill_value=False) & (pl.col("document") == pl.col("document").shift(1))
        starts = pl.col("body") & ~same_run.fill_null(value=False)
    return lines.with_columns(starts.cum_sum().alias("block")).filter("body")


def _lines_of_parts(lines: pl.DataFrame, raw: bool) -> pl.DataFrame:
    """Add the number of the part that each line belongs to, everything between two headings of one document.

    The column `place` is the position of the line in the text that the unit `document` gives, in characters.
    """
    is_first = pl.col("document") != pl.col("document").shift(1)
    is_empty = pl.col("text") == ""
    repeats_blank = is_empty & (is_empty.shift(1) | is_first.fill_null(value=True))
    size = pl.col("text").str.len_chars() + 1
    lines = lines.filter("in_document")
    if not raw:  # clean text has one blank line at a time, and none at its beginning
        lines = lines.filter(~repeats_blank)
    return (
        lines.with_columns(place=(size.cum_sum() - size).over("document"))
        .with_columns(block=(is_first.fill_null(value=True) | pl.col("heading")).cum_sum())
        .filter(pl.col("body") | pl.col("blank"))
        .filter(pl.col("body").any().over("block"))
    )


def _document_table(documents: Sequence[Document], metadata: dict[str, str]) -> pl.DataFrame:
    columns: dict[str, list[MetadataValue]] = {
        "document_id": [document.id for document in documents],
        "title": [document.title for document in documents],
        "source_split": [document.source_split for document in documents],
    }
    schema: dict[str, type] = dict.fromkeys(columns, str)
    for name, kind in metadata.items():
        columns[_METADATA_PREFIX + name] = [document.metadata.get(name) for document in documents]
        schema[_METADATA_PREFIX + name] = METADATA_TYPES[kind]
    return pl.DataFrame(columns, schema=schema).with_row_index("document")
