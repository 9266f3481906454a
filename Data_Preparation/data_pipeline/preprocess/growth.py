"""Candidates of a dataset that grows: its own rows, those that were set aside, and those of new documents, in order.

All of them go through the passes of `passes.decide_rows` again, as if they had been read now, so that the rows that are
kept are those of a run on the whole corpus. Nothing is cleaned, filtered or counted a second time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.errors import StoreError
from data_pipeline.preprocess.passes import Assignment
from data_pipeline.preprocess.staging import StagedFile, Staging, in_order, staged_file
from data_pipeline.store.documents import (
    Documents,
    id_keys,
    set_aside_batches,
    write_documents,
    write_set_aside,
)
from data_pipeline.store.paragraphs import ParagraphStore
from data_pipeline.types import SPLITS, IntArray

_NEW = -1


def write_growth(
    folder: Path,
    staging: Staging,
    assigned: Assignment,
    schema: pa.Schema,
    listed: Iterable[pa.Table],
    documents: int,
    sources: Sequence[Mapping[str, Any]],
) -> None:
    """Write what a dataset needs to grow; see `store.documents`.

    Args:
        folder: processed folder that is not published yet.
        staging: all candidates.
        assigned: which of them are kept.
        schema: schema of the paragraph files.
        listed: the documents in order, in parts.
        documents: number of the documents.
        sources: see `Documents.sources`.
    """
    numbers = staging.numbers("document_number")
    rows = np.bincount(numbers[assigned.keep], minlength=documents).astype(np.int64)
    write_documents(folder, listed, rows, assigned.new_ids, sources)
    candidates = candidate_schema(schema)
    left_out = (
        staged.filter(pa.array(~assigned.keep[start : start + staged.num_rows])).select(candidates.names)
        for start, staged in staging.batches()
    )
    write_set_aside(folder, left_out, candidates)


def candidate_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of candidates: the columns of the paragraph files, and the number of the document."""
    return schema.append(pa.field("document_number", pa.int64()))


@dataclass(frozen=True)
class Candidates:
    """All candidates of a dataset that grows, staged in the order of their documents."""

    file: StagedFile
    splits: NDArray[np.int8]
    """Split that has a candidate already, as an index into `SPLITS`, shape (N,); -1 for none."""
    rows: IntArray
    """Its row number in that split, shape (N,)."""
    stored_ids: Mapping[int, str]
    """Ids that documents had been renamed to, by number of the document."""

    @cached_property
    def staging(self) -> Staging:
        """The candidates."""
        return Staging([self.file])

    def stays(self, assigned: Assignment) -> NDArray[np.bool_]:
        """Whether a candidate stays the row that it is, shape (N,)."""
        stays = assigned.keep & (self.splits == assigned.positions)
        numbers = self.stored_ids.keys() | assigned.new_ids.keys()
        if renamed := [n for n in numbers if self.stored_ids.get(n) != assigned.new_ids.get(n)]:
            stays &= ~np.isin(self.staging.numbers("document_number"), renamed)
        return stays


def stage_again(
    store: ParagraphStore,
    documents: Documents,
    renumbered: IntArray,
    new: Path | None,
    new_numbers: IntArray,
    schema: pa.Schema,
    work: Path,
) -> Candidates:
    """Stage all candidates of a dataset that grows.

    Memory grows by 34 bytes for each row and 16 bytes for each document; the texts are written twice to `work`.

    Args:
        store: the paragraphs as they are.
        documents: their documents.
        renumbered: new number of each document, shape (documents,); -1 for those that are left out.
        new: staged rows of new documents; None for none.
        new_numbers: number of each new document, in the order of its rows' `document_number`.
        schema: schema of the paragraph files.
        work: folder for the staged rows, where `staging` is left.
    """
    candidates, unordered = candidate_schema(schema), work / "unordered"
    places: list[tuple[NDArray[np.int8], IntArray]] = []
    keys: list[tuple[IntArray, IntArray, IntArray]] = []
    with pa.ipc.new_file(unordered, candidates) as file:
        for table, split, rows in _all_rows(store, documents, renumbered, new, new_numbers, candidates):
            file.write_table(table)
            places.append((np.full(table.num_rows, split, np.int8), rows))
            keys.append(_order_keys(table))
    numbers, major, minor = (np.concatenate(parts) for parts in zip(*keys, strict=True))
    order = np.lexsort((minor, major, numbers))
    with pa.ipc.new_file(work / "staging", candidates) as file:
        reader = pa.ipc.open_file(pa.memory_map(str(unordered)))
        for table in in_order([reader.get_batch(index) for index in range(reader.num_record_batches)], order):
            file.write_table(table)
    unordered.unlink()
    splits, rows_of_split = (np.concatenate(parts)[order] for parts in zip(*places, strict=True))
    renamed = np.flatnonzero(documents.table["stored_id"].is_valid().to_numpy())
    stored = documents.table["stored_id"].take(pa.array(renamed)).to_pylist()
    stored_ids = dict(zip(renumbered[renamed].tolist(), stored, strict=True))
    stored_ids.pop(_NEW, None)
    return Candidates(staged_file(work / "staging"), splits, rows_of_split, stored_ids)


def _all_rows(
    store: ParagraphStore,
    documents: Documents,
    renumbered: IntArray,
    new: Path | None,
    new_numbers: IntArray,
    candidates: pa.Schema,
) -> Iterator[tuple[pa.Table, int, IntArray]]:
    """Yield tables of candidates, each with its split, or -1, and the row numbers in it."""
    number_of = _numbers_of_stored_ids(documents)
    for split in store.splits:
        names = [name for name in candidates.names if name != "document_number"]
        for batch, rows in store.live_batches(split, names):
            old = number_of(batch["document_id"])
            table = _with_ids_of_source(pa.Table.from_batches([batch]), documents, old)
            table, kept = _renumbered(table, old, renumbered, candidates)
            yield table, SPLITS.index(split), rows[kept]
    for batch in set_aside_batches(store.folder):
        table = pa.Table.from_batches([batch])
        table, kept = _renumbered(table, table["document_number"].to_numpy(), renumbered, candidates)
        yield table, _NEW, np.full(len(kept), _NEW, np.int64)
    if new is not None:
        for _, table in Staging([staged_file(new)]).batches():
            table, kept = _renumbered(table, table["document_number"].to_numpy(), new_numbers, candidates)
            yield table, _NEW, np.full(len(kept), _NEW, np.int64)


def _renumbered(
    table: pa.Table, old: IntArray, renumbered: IntArray, candidates: pa.Schema
) -> tuple[pa.Table, IntArray]:
    """Return the rows whose documents stay, with new numbers, and their positions in the table."""
    numbers = renumbered[old]
    kept = np.flatnonzero(numbers >= 0)
    names = [name for name in candidates.names if name != "document_number"]
    table = table.select(names).take(pa.array(kept)) if len(kept) < table.num_rows else table.select(names)
    return table.append_column("document_number", pa.array(numbers[kept])).cast(candidates), kept


def _numbers_of_stored_ids(documents: Documents) -> Callable[[pa.Array], IntArray]:
    """Return a function from ids in the paragraph files to numbers of their documents."""
    owners = np.flatnonzero(documents.table["rows"].to_numpy() > 0)  # of several with an id, one has the rows
    keys = documents.stored_keys()[owners]
    order = np.argsort(keys, kind="stable")
    keys, owners = keys[order], owners[order]

    def number_of(name: str, key: np.uint64) -> int:
        start, end = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
        for number in owners[start:end].tolist():
            record = documents.table.slice(number, 1)
            if (record["stored_id"][0].as_py() or record["document_id"][0].as_py()) == name:
                return int(number)
        raise StoreError(
            f"{documents.folder} does not record the document {name!r}, which has rows. {documents.ADVICE}"
        )

    def numbers_of(ids: pa.Array) -> IntArray:
        encoded = ids.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        found = np.array(
            [number_of(name, key) for name, key in zip(names, id_keys(names), strict=True)] or [0], np.int64
        )
        return found[encoded.indices.to_numpy()]

    return numbers_of


def _with_ids_of_source(table: pa.Table, documents: Documents, numbers: IntArray) -> pa.Table:
    """Give the rows of renamed documents the ids that these have in their source."""
    stored = documents.table["stored_id"].take(pa.array(np.unique(numbers)))
    if stored.null_count == len(stored):
        return table
    columns: dict[str, list[str]] = {"document_id": [], "text_id": []}
    own = {number: documents.table["document_id"][number].as_py() for number in np.unique(numbers).tolist()}
    for number, document_id, text_id in zip(
        numbers.tolist(), table["document_id"].to_pylist(), table["text_id"].to_pylist(), strict=True
    ):
        columns["document_id"].append(own[number])
        columns["text_id"].append(own[number] + text_id.removeprefix(document_id))
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def _order_keys(table: pa.Table) -> tuple[IntArray, IntArray, IntArray]:
    """Numbers by which rows are ordered: of the document, of the paragraph, and of the part of a paragraph."""
    ids = pl.Series(pl.from_arrow(table["text_id"]))
    major, minor = (
        ids.str.extract(r"#[a-z](\d+)(?:\.(\d+))?$", group).cast(pl.Int64).fill_null(0).to_numpy() for group in (1, 2)
    )
    return table["document_number"].to_numpy(), major, minor
