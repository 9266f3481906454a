"""Rows of texts that are cut: documents into chunks, and paragraphs that are too long."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from data_pipeline.config import PreprocessConfig
from data_pipeline.preprocess.natural_chunks import NaturalChunker, Span, rows_of_spans
from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.types import IntArray

CHUNK_COLUMNS = ("chunk_index", "char_start", "char_end")
"""Columns of the rows of a corpus whose texts are cut: position among the chunks of its document (unit chunk) or
paragraph, first character and character behind the last one in the cleaned document, whose paragraphs are joined by
blank lines."""


def cut_into_chunks(rows: pl.DataFrame, config: PreprocessConfig, counter: TokenCounter) -> pl.DataFrame:
    """Replace rows by chunks of at most `chunk_tokens`, numbered through their document.

    Args:
        rows: rows of `extract_paragraphs`, with `char_start`.
        config: size and overlap of chunks.
        counter: counts tokens.
    """
    chunker = NaturalChunker(counter, config.chunk_tokens, config.chunk_overlap)
    rows, _ = _cut_rows(rows, chunker.cut(rows["text"].to_list()))
    index = pl.int_range(pl.len(), dtype=pl.Int64).over("document_number")
    return rows.with_columns(chunk_index=index, text_id=pl.concat_str("document_id", pl.lit("#c"), index))


def fit_long_rows(rows: pl.DataFrame, config: PreprocessConfig, counter: TokenCounter) -> pl.DataFrame:
    """Truncate or cut rows of more than `max_tokens` tokens, as `too_long` says; the others stay as they are.

    Args:
        rows: rows with `token_count`, and with `char_start` if they may be cut.
        config: maximum length and handling of longer rows.
        counter: counts tokens.
    """
    counts: IntArray = rows["token_count"].to_numpy()
    long = np.flatnonzero(counts > config.max_tokens)
    texts = rows["text"].to_list()
    spans = [[Span(0, len(text))] for text in texts]
    overlap = config.chunk_overlap if config.too_long == "chunk" else 0
    chunker = NaturalChunker(counter, config.max_tokens, overlap)
    for row, chunks in zip(long.tolist(), chunker.cut([texts[row] for row in long]), strict=True):
        spans[row] = chunks[:1] if config.too_long == "truncate" else chunks
    if config.too_long == "chunk":
        rows = rows.with_columns(is_cut=pl.Series(counts > config.max_tokens))
    cut, index = _cut_rows(rows, spans)
    new_counts = counts[index]
    changed = np.flatnonzero(np.isin(index, long))
    new_counts[changed] = counter.count(cut["text"].gather(changed).to_list())
    cut = cut.with_columns(pl.Series("token_count", new_counts, dtype=pl.Int64))
    if config.too_long != "chunk":
        return cut
    number = pl.when("is_cut").then(pl.concat_str("text_id", pl.lit("."), "chunk_index")).otherwise("text_id")
    return cut.with_columns(text_id=number).drop("is_cut")


def _cut_rows(rows: pl.DataFrame, chunks: Sequence[Sequence[Span]]) -> tuple[pl.DataFrame, IntArray]:
    """Replace rows by their chunks; also returns the row of each chunk."""
    index, starts, ends = rows_of_spans(chunks)
    texts = rows["text"].to_list()
    parts = [texts[row][start:end] for row, start, end in zip(index.tolist(), starts, ends, strict=True)]
    cut = rows[index].with_columns(
        pl.Series("text", parts, dtype=pl.String), pl.Series("char_count", ends - starts, dtype=pl.Int64)
    )
    if "char_start" not in rows.columns:
        return cut, index
    firsts = np.searchsorted(index, index)  # the first chunk of each row
    return cut.with_columns(
        pl.Series("chunk_index", np.arange(len(index)) - firsts, dtype=pl.Int64),
        char_start=pl.col("char_start") + pl.Series(starts),
        char_end=pl.col("char_start") + pl.Series(ends),
    ), index
