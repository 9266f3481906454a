"""Rows that a dataset leaves out: the ledger that lists all of them, and examples of each reason with their texts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


def read_dropped(folder: Path, reason: str | None = None, document_id: str | None = None) -> pa.Table:
    """Read rows of the drop ledger: one for every paragraph that was left out.

    Args:
        folder: processed folder, or that of an earlier version.
        reason: reason of the rows; None for all.
        document_id: document of the rows, by its id in the source, which the ledger has also of documents that were
            renamed (`corpus.on_duplicate_id: suffix`); None for all.

    Returns:
        Rows with `text_id`, `document_id`, `stage`, `reason`, `duplicate_of`, and after decontamination or semantic
        deduplication `overlap`.

    Raises:
        NotFoundError: the folder has no ledger, or no row at all was left out for the reason; the message names those
            there are.
        CorruptShardError: the ledger cannot be read.
    """
    path = folder / DROPPED
    wanted = [
        (name, "=", value) for name, value in (("reason", reason), ("document_id", document_id)) if value is not None
    ]
    table = _read(path, filters=wanted or None)
    if reason is not None and not table.num_rows:
        _check_reason(path, reason)
    return table


def count_dropped(folder: Path) -> Counter[tuple[str, str]]:
    """Count the rows of the drop ledger by stage and reason, reading these two columns as a stream.

    Args:
        folder: processed folder, or that of an earlier version.

    Raises:
        NotFoundError: the folder has no ledger.
        CorruptShardError: the ledger cannot be read.
    """
    counts: Counter[tuple[str, str]] = Counter()
    with _reading(folder / DROPPED), pq.ParquetFile(folder / DROPPED, pre_buffer=False) as file:
        for batch in file.iter_batches(columns=["stage", "reason"]):
            groups = pa.Table.from_batches([batch]).group_by(["stage", "reason"], use_threads=False)
            for row in groups.aggregate([([], "count_all")]).to_pylist():
                counts[row["stage"], row["reason"]] += row["count_all"]
    return counts


def _check_reason(path: Path, reason: str) -> None:
    reasons = sorted(pc.unique(_read(path, columns=["reason"])["reason"]).to_pylist())
    if reason not in reasons:
        raise NotFoundError(
            f"{path}: no row was dropped for the reason {reason!r}; expected one of {', '.join(reasons)}"
            if reasons
            else f"{path}: no row was dropped for the reason {reason!r}, or for any other"
        )


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


def read_example_texts(folder: Path) -> dict[tuple[str, str], str]:
    """Read the texts of the examples of dropped rows, by `text_id` and reason; empty if none are kept.

    Raises:
        NotFoundError: the folder has no drop ledger.
        CorruptShardError: the file cannot be read.
    """
    examples = read_dropped_examples(folder)
    if examples is None:
        return {}
    rows = examples.select(["text_id", "reason", "text"]).to_pylist()
    return {(row["text_id"], row["reason"]): row["text"] for row in rows if row["text"] is not None}


def examples_path(ledger: Path) -> Path:
    """Return the path of the examples of a ledger, which are beside it."""
    return ledger.with_name(f"{ledger.stem}_examples.parquet")


def write_examples(path: Path, examples: pa.Table) -> None:
    """Write examples of dropped rows (see `EXAMPLES_SCHEMA`); several processes may write the same ones at once."""
    with published(path, unique_name(path)) as temporary:
        pq.write_table(examples.cast(EXAMPLES_SCHEMA), temporary, compression="zstd")


def _read(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    with _reading(path):
        return pq.read_table(path, columns=columns, filters=filters)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert errors of reading a file."""
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {path}. An older pipeline wrote no list of dropped rows") from None
    except (OSError, pa.ArrowException) as error:
        raise CorruptShardError(f"{path} cannot be read: {error}. Run again with --overwrite.") from error
