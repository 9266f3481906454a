"""The filters of the section `filters`, at the places where preprocessing applies them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from data_pipeline.config import FiltersConfig
from data_pipeline.preprocess.language import add_languages, identify_languages, language_reasons
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.own_filters import (
    RowFunction,
    check_conditions,
    condition_reasons,
    function_reasons,
)
from data_pipeline.preprocess.pii.mask import FINDERS, PersonalData
from data_pipeline.preprocess.quality.presets import apply_presets, word_table
from data_pipeline.types import Document
from data_pipeline.utils.functions import load_function, source_sha256

_FUNCTIONS = "filters.functions"

LANGUAGE_COLUMNS: Mapping[str, type[pl.DataType]] = {"language": pl.String, "language_score": pl.Float64}
"""Columns of the rows of a corpus whose languages are identified."""


def filter_columns(staged: pa.Schema) -> dict[str, pa.DataType]:
    """Columns that the filters added to staged rows, with their types in the files."""
    types = {"language": pa.string(), "language_score": pa.float64()}
    return {name: types[name] for name in LANGUAGE_COLUMNS if name in staged.names}


def filters_identity(config: FiltersConfig) -> dict[str, object]:
    """Settings of the filters that decide the rows, for a fingerprint; empty if all are at their defaults.

    Raises:
        ConfigError: a function of the user cannot be imported.
    """
    settings = config.deciding()
    if config.functions:
        settings["functions"] = {name: source_sha256(name, _FUNCTIONS) for name in config.functions}
    return settings


@dataclass(frozen=True)
class Filters:
    """Filters with what they load, ready for the documents and rows of a corpus."""

    config: FiltersConfig = field(default_factory=FiltersConfig)
    personal_data: PersonalData | None = None
    """Personal data to mask or to drop; None if it is kept."""
    functions: Mapping[str, RowFunction] = field(default_factory=dict)
    """Functions of the user, by name."""

    def keep_documents(self, documents: list[Document], dropped: DropLedger) -> dict[int, Document]:
        """Apply the quality presets; documents that are dropped go into the ledger, the others stay in order.

        Returns:
            The documents that are kept, by their positions.
        """
        if not self.config.presets:
            return dict(enumerate(documents))
        kept, others = apply_presets(documents, self.config.presets)
        for document, reason in others:
            dropped.add(document.id, document.id, "quality", reason, None, document.text)
        return kept

    @property
    def mask(self) -> Callable[[pl.Series], pl.Series] | None:
        """Function that masks personal data in lines; None if it is not masked."""
        return self.personal_data.mask if self.personal_data and self.config.pii == "mask" else None

    @property
    def mask_text(self) -> Callable[[str], str] | None:
        """Function that masks personal data in a text, for examples of dropped rows; None if personal data is kept."""
        return self.personal_data.mask_text if self.personal_data else None

    def keep_rows(self, rows: pl.DataFrame, dropped: DropLedger) -> pl.DataFrame:
        """Add the language, and apply the filters of rows; rows that are dropped go into the ledger."""
        config = self.config
        if config.identifies_language:
            rows = add_languages(rows)
            reasons = language_reasons(rows, config.languages, config.min_language_score)
            rows = dropped.record(rows, "language", reasons)
        if self.personal_data and config.pii == "mask":  # in headings, which are those of many rows and not counted
            headings = {name: self.personal_data.mask(rows[name], counts=False) for name in ("title", "section")}
            rows = rows.with_columns(**headings)
        if self.personal_data and config.pii == "drop":
            rows = dropped.record(rows, "personal data", self.personal_data.reasons(rows["text"].to_list()))
        for name, function in self.functions.items():
            rows = dropped.record(rows, "own filters", function_reasons(name, function, rows.drop("document_number")))
        for reason, condition in config.keep_where.items():
            rows = dropped.record(rows, "own filters", condition_reasons(reason, condition, rows))
        return rows

    def counts(self) -> dict[str, int]:
        """Numbers of spans of personal data that were masked, or found in texts that were dropped, by kind."""
        return dict(self.personal_data.counts.most_common()) if self.personal_data else {}


def load_filters(config: FiltersConfig, metadata: Mapping[str, str], cut_columns: tuple[str, ...]) -> Filters:
    """Load what the filters need, before the corpus is read.

    Args:
        config: the filters.
        metadata: types of the metadata columns, by name.
        cut_columns: further columns of integers.

    Raises:
        ConfigError: a function or condition of the user cannot be used.
        MissingExtraError: a package that a filter needs is not installed.
    """
    if config.presets:
        word_table()
    if config.identifies_language:
        identify_languages(["a"])
    if config.keep_where:
        texts = ("text_id", "text", "document_id", "title", "section", "source_split")
        schema: dict[str, type[pl.DataType]] = dict.fromkeys(texts, pl.String)
        schema.update(dict.fromkeys(("token_count", "char_count", *cut_columns), pl.Int64))
        schema.update({name: _POLARS_TYPES[kind] for name, kind in metadata.items()})
        schema.update(LANGUAGE_COLUMNS if config.identifies_language else {})
        check_conditions(config.keep_where, schema)
    finder = FINDERS[config.pii_engine](config.pii_kinds, config.phone_region) if config.pii != "keep" else None
    return Filters(
        config,
        PersonalData(finder) if finder else None,
        {name: load_function(name, _FUNCTIONS) for name in config.functions},
    )


_POLARS_TYPES: Mapping[str, type[pl.DataType]] = {
    "str": pl.String, "int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean
}  # fmt: skip
