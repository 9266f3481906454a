"""Missing numbers: null instead of NaN, which some libraries order after all numbers."""

from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def without_nan(rows: Rows) -> Rows:
    """Replace NaN by null in columns of floats."""
    for position, (name, column) in enumerate(zip(rows.schema.names, rows.columns, strict=True)):
        if pa.types.is_floating(column.type):
            # Arrow's is_nan does not support half precision.
            wide = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
            rows = rows.set_column(position, name, pc.if_else(pc.is_nan(wide), None, wide))
    return rows
