"""What a notebook shows of a dataset: facts that are known without reading it, and its first rows."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.store.reader import Rows
from data_pipeline.utils.displays import table_html
from data_pipeline.utils.terminal import one_line

_ROWS, _CHARS = 5, 200


def describe(rows: Rows, split: str, columns: Sequence[str]) -> list[tuple[str, str]]:
    """Return facts about rows: folder, version, number, columns, and what made the vectors.

    Args:
        rows: the rows.
        split: their split.
        columns: columns of a sample.
    """
    facts = [
        ("folder", str(rows.source.store.folder)),
        ("split", f"{split}, version {rows.source.store.version}"),
        ("rows", f"{len(rows):,}"),
        ("columns", ", ".join(columns)),
        ("metadata", ", ".join(rows.metadata_names)),
    ]
    if "embedding" in columns:
        first = rows.first_shard
        model = first.metadata.get("model", "an unknown model")
        facts.append(("vectors", f"{rows.dim} dimensions, stored as {first.coding.precision}, by {model}"))
    return facts


def first_rows_html(rows: Rows) -> str:
    """Return the first rows as an HTML table, with the beginnings of their texts."""
    index = np.arange(min(len(rows), _ROWS))
    table = rows.records(rows.of_files(index), ["text_id", "text"]).to_pylist()
    cells = [(row["text_id"], one_line(row["text"], _CHARS)) for row in table]
    return table_html("First rows", ("text_id", "text"), cells)
