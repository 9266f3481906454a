"""Rows that a dataset leaves out: the ledger that lists all of them, and examples of each reason with their texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.errors import CorruptShardError, NotFoundError
from data_pipeline.utils.files import published, unique_name

DROPPED = "dropped.parquet"
"""The drop ledger of a processed folder."""
DROPPED_EXAMPLES = "dropped_examples.parquet"
"""Examples of its rows, with their texts."""

EXAMPLES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("text_id", "document_id", "stage", "reason", "duplicate_of", "text")]
)
"""Columns of the examples: those of the ledger, and the beginning of the text; null where there is no text."""


def read_dropped(folder: Path, reason: str | None = None) -> pa.Table:
    """Read the drop ledger: a row for every paragraph that was left out.

    Args:
        folder: processed folder, or that of an earlier version.
        reason: read only the rows that were left out for this reason; None for all.

    Returns:
        Rows with `text_id`, `document_id`, `stage`, `reason`, `duplicate_of`, and after decontamination or semantic
        deduplication `overlap`.

    Raises:
        NotFoundError: the folder has no ledger, or no row was left out for the reason; the message names those there
            are.
        CorruptShardError: the ledger cannot be read.
    """
    path = folder / DROPPED
    if reason is None:
        return _read(path)
    table = _read(path, filters=[("reason", "=", reason)])
    if not table.num_rows:
        reasons = sorted(pc.unique(_read(path, columns=["reason"])["reason"]).to_pylist())
        raise NotFoundError(
            f"{path}: no row was dropped for the reason {reason!r}; expected one of {', '.join(reasons)}"
            if reasons
            else f"{path}: no row was dropped for the reason {reason!r}, or for any other"
        )
    return table


def read_dropped_examples(folder: Path) -> pa.Table | None:
    """Read examples of the rows that were left out; see `EXAMPLES_SCHEMA`.

    Returns:
        Up to ten rows for each reason, by reason; None if an earlier version of this package made the dataset, which
        kept no examples.

    Raises:
        NotFoundError: the folder has no drop ledger either.
        CorruptShardError: the file cannot be read.
    """
    path = folder / DROPPED_EXAMPLES
    if not path.is_file():
        _read(folder / DROPPED, columns=[])
        return None
    return _read(path)


def dropped_of_document(folder: Path, document_id: str) -> pa.Table:
    """Read the rows of the drop ledger that belong to one document; empty if none were left out.

    Args:
        folder: processed folder, or that of an earlier version.
        document_id: id of the document in its source, which the ledger has also of documents that were renamed
            (`corpus.on_duplicate_id: suffix`).

    Raises:
        NotFoundError: the folder has no ledger.
        CorruptShardError: the ledger cannot be read.
    """
    return _read(folder / DROPPED, filters=[("document_id", "=", document_id)])


def examples_path(ledger: Path) -> Path:
    """Return the path of the examples of a ledger, which are beside it."""
    return ledger.with_name(f"{ledger.stem}_examples.parquet")


def write_examples(path: Path, examples: pa.Table) -> None:
    """Write examples of dropped rows (see `EXAMPLES_SCHEMA`); several processes may write the same ones at once."""
    with published(path, unique_name(path)) as temporary:
        pq.write_table(examples.cast(EXAMPLES_SCHEMA), temporary, compression="zstd")


def _read(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=filters)
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}. An older pipeline wrote no list of dropped rows") from None
    except (OSError, pa.ArrowException) as error:
        raise CorruptShardError(f"{path} cannot be read: {error}. Run again with --overwrite.") from error
