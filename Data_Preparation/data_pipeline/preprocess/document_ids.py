"""Documents with the id of an earlier one: an error, left out, or renamed."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.errors import SourceError
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.staging import Staging, hashes_of
from data_pipeline.types import IntArray


def reject_duplicate_ids(staging: Staging, keep: NDArray[np.bool_]) -> None:
    """Check that no two documents with kept rows have the same id.

    Raises:
        SourceError: two documents have the same id.
    """
    for row, _ in _duplicates(staging, keep):
        raise SourceError(
            f"two documents have the id {staging.value('document_id', row)!r}, but ids must be unique. "
            "Set corpus.id_field to another field, corpus.on_duplicate_id to drop or suffix, or leave "
            "preprocess.exact_dedup on if they are copies."
        )


def drop_duplicate_ids(staging: Staging, keep: NDArray[np.bool_], dropped: DropLedger) -> None:
    """Leave out all rows of documents with the id of an earlier one, and write them down."""
    numbers = staging.numbers("document_number")
    for row, first in _duplicates(staging, keep):
        start, stop = np.searchsorted(numbers, [numbers[row], numbers[row] + 1])
        for other in (start + np.flatnonzero(keep[start:stop])).tolist():
            keep[other] = False
            text_id, document_id = staging.value("text_id", other), staging.value("document_id", other)
            text, duplicate_of = partial(staging.value, "text", other), staging.value("text_id", first)
            dropped.add(text_id, document_id, "duplicates", "duplicate_id", duplicate_of, text)


def new_ids(staging: Staging, keep: NDArray[np.bool_]) -> dict[int, str]:
    """Return new ids of documents with the id of an earlier one, by number of the document: `id~2`, `id~3`, ..."""
    duplicates = sorted(_duplicates(staging, keep))
    if not duplicates:
        return {}
    numbers, hashes = staging.numbers("document_number"), staging.hashes("document_id")
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]

    def is_taken(candidate: str) -> bool:
        wanted = hashes_of(pl.Series([candidate]))[0]
        rows = order[np.searchsorted(hashes, wanted, "left") : np.searchsorted(hashes, wanted, "right")]
        return any(staging.value("document_id", row) == candidate for row in rows.tolist())

    ids: dict[int, str] = {}
    last_suffix: dict[str, int] = {}
    assigned: set[str] = set()
    for row, _ in duplicates:
        old = staging.value("document_id", row)
        suffix = last_suffix.get(old, 1) + 1
        while (new := f"{old}~{suffix}") in assigned or is_taken(new):
            suffix += 1
        ids[int(numbers[row])] = new
        last_suffix[old] = suffix
        assigned.add(new)
    return ids


def rename_documents(rows: pa.Table, ids: Mapping[int, str]) -> pa.Table:
    """Replace the ids of documents, and those of their paragraphs, by number of the document."""
    if not ids:
        return rows
    columns: dict[str, list[str]] = {"document_id": [], "text_id": []}
    for number, document_id, text_id in zip(
        *(rows[name].to_pylist() for name in ("document_number", "document_id", "text_id")), strict=True
    ):
        new = ids.get(number, document_id)
        columns["document_id"].append(new)
        columns["text_id"].append(new + text_id.removeprefix(document_id))
    for name, values in columns.items():
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, name, pa.array(values, rows.schema.field(name).type))
    return rows


def _duplicates(staging: Staging, keep: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Find documents with the id of an earlier one: the first kept rows of both."""
    is_first = np.zeros(len(keep), np.bool_)
    previous = -1
    for start, table in staging.batches():
        rows = np.flatnonzero(keep[start : start + table.num_rows])
        numbers: IntArray = table["document_number"].to_numpy()[rows]
        is_first[start + rows[np.diff(numbers, prepend=previous) != 0]] = True
        previous = int(numbers[-1]) if len(numbers) else previous
    return staging.repeats("document_id", is_first)
