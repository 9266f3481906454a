"""Columns of typed tables, such as parquet, that have the fields of a config."""

from collections.abc import Sequence

import pyarrow as pa

from data_pipeline.config import CorpusConfig
from data_pipeline.errors import SourceError
from data_pipeline.utils import shortened


def fields_of(config: CorpusConfig) -> list[str]:
    """Return the names of the fields that are read, each once."""
    fields = (config.text_field, config.id_field, config.title_field, config.split_field, *config.metadata_fields)
    return list(dict.fromkeys(name for name in fields if name))


def columns_of(schema: pa.Schema, config: CorpusConfig, where: str) -> list[str]:
    """Return the columns of a typed table that have the fields of a config.

    Raises:
        SourceError: there is no such column, or that of the text does not hold texts.
    """
    columns = check_columns(schema.names, config, where)
    kind = _type_of(schema, config.text_field)
    if kind is not None and not _is_text(kind):
        fields = [f"{config.text_field}.{kind.field(i).name}" for i in range(kind.num_fields)]
        advice = f"Name one of its fields: {shortened(', '.join(fields))}" if pa.types.is_struct(kind) else (
            "Convert the column to texts, or set corpus.text_field to another one"
        )  # fmt: skip
        raise SourceError(f"{where}: the column {config.text_field!r} holds {kind}, expected texts. {advice}.")
    return columns


def check_columns(names: Sequence[str], config: CorpusConfig, where: str) -> list[str]:
    """Return those of the columns of a table that have the fields of a config.

    Raises:
        SourceError: there is no such column.
    """
    columns = dict[str, None]()
    for name in fields_of(config):
        # A dotted name may be that of a field of a struct.
        column = name if name in names else name.partition(".")[0]
        if column not in names:
            raise SourceError(f"{where} has no column {name!r}; it has {shortened(', '.join(names))}")
        columns[column] = None
    return list(columns)


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Type of a column, or of a field of a struct; None if it is not known."""
    if name in schema.names:
        return schema.field(name).type
    column, *path = name.split(".")
    kind = schema.field(column).type
    for part in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(check(kind) for check in checks)
