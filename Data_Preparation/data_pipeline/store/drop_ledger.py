"""Reader of the drop ledger `dropped.parquet`: the paragraphs that were left out, and why."""

from pathlib import Path

import polars as pl

from data_pipeline.errors import CorruptShardError, NotFoundError
from data_pipeline.utils import converted_errors

_COLUMNS = ("text_id", "document_id", "stage", "reason", "duplicate_of")
_EXAMPLES = "dropped_examples.parquet"


def read_drop_ledger(folder: Path, reason: str | None = None, document_id: str | None = None) -> pl.DataFrame:
    """Read rows of the drop ledger.

    Args:
        folder: the `<corpus>_processed` folder.
        reason: reason of the rows; None for all.
        document_id: document of the rows; None for all.

    Returns:
        Columns `text_id`, `document_id`, `stage`, `reason`, `duplicate_of`, in the order of the ledger.

    Raises:
        NotFoundError: the folder has no ledger, as the older pipeline wrote it.
        CorruptShardError: the ledger cannot be read.
    """
    path = folder / "dropped.parquet"
    if not path.is_file():
        raise NotFoundError(f"no list of dropped paragraphs: {path}. Only `elm run` of this package writes one.")
    with converted_errors((OSError, pl.exceptions.PolarsError), CorruptShardError, f"{path} cannot be read"):
        rows = pl.scan_parquet(path, hive_partitioning=False).select(_COLUMNS)
        if reason is not None:
            rows = rows.filter(pl.col("reason") == reason)
        if document_id is not None:
            rows = rows.filter(pl.col("document_id") == document_id)
        return rows.collect()


def read_example_texts(folder: Path) -> dict[tuple[str, str], str]:
    """Read the texts of the dropped paragraphs that are kept as examples, by `text_id` and reason; empty if none are.

    Raises:
        CorruptShardError: the file of the examples cannot be read.
    """
    path = folder / _EXAMPLES
    if not path.is_file():
        return {}
    with converted_errors((OSError, pl.exceptions.PolarsError), CorruptShardError, f"{path} cannot be read"):
        table = pl.read_parquet(path, columns=["text_id", "reason", "text"], hive_partitioning=False)
    return {(text_id, reason): text for text_id, reason, text in table.iter_rows()}
