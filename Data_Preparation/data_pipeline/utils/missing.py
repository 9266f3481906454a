"""Missing numbers: what is read has null for NaN, which some libraries compare as larger than any number."""

from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def without_nan(rows: Rows) -> Rows:
    """The same rows with null instead of NaN in columns of numbers."""
    if not any(pa.types.is_floating(kind) for kind in rows.schema.types):
        return rows
    columns = []
    for column in rows.columns:
        if pa.types.is_floating(column.type):
            # Arrow has no `is_nan` for half precision.
            wide = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
            column = pc.if_else(pc.is_nan(wide), None, wide)
        columns.append(column)
    found: Rows = type(rows).from_arrays(columns, names=rows.schema.names)
    return found
