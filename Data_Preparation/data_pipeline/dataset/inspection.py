"""One row of a dataset with everything that is known of it: document, neighbours, scores, selections, dropped text."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.config import Config
from data_pipeline.dataset.dataset import ELMDataset
from data_pipeline.dataset.multi_search import Hit, embedded_splits, search_splits
from data_pipeline.errors import NotFoundError, SourceError
from data_pipeline.store import ParagraphStore
from data_pipeline.store.dropped import read_dropped, read_example_texts
from data_pipeline.store.manifest import SelectionManifest, read_manifest
from data_pipeline.types import Split
from data_pipeline.user_files import visible
from data_pipeline.utils import shown

_NEAR_IDS = 5
_COMPARED_IDS = 20_000
"""Ids that a mistyped one is compared with, letter by letter."""


@dataclass(frozen=True)
class DroppedText:
    """Paragraph that was left out."""

    text_id: str
    stage: str
    reason: str
    duplicate_of: str | None
    """Row or evaluation item that it repeats."""
    text: str | None
    """Its text, if it was kept as an example."""


@dataclass(frozen=True)
class DocumentRow:
    """Row of the document of a row."""

    text_id: str
    split: Split
    row: int


@dataclass(frozen=True)
class SelectionRank:
    """Selection that a row is in."""

    name: str
    rank: int
    """Position in the selection, the most wanted row first, from 1."""
    rows: int
    """Number of rows of the selection."""


@dataclass(frozen=True)
class RowDescription:
    """Everything that is known of one text id."""

    text_id: str
    document_id: str | None
    split: Split | None
    """Split of the row; None if it was dropped."""
    row: int | None
    """Index of the row in `ELMDataset(split=split)`."""
    text: str | None
    metadata: Mapping[str, Any]
    """Metadata columns, without scores."""
    scores: Mapping[str, Any]
    """Score columns of heads and measures."""
    selections: Sequence[SelectionRank]
    document: Sequence[DocumentRow]
    """Rows of the same document, this one included, in the order of the document."""
    dropped: Sequence[DroppedText]
    """Paragraphs of the document that were left out; of a dropped id, its own entries first."""
    neighbors: Sequence[Hit]
    """Rows with the nearest vectors, the nearest first."""


def describe_row(config: Config, text_id: str, neighbors: int = 5) -> RowDescription:
    """Describe a row by its id, or say why it was dropped.

    Args:
        config: configuration with the folders, the corpus and the variant.
        text_id: id of the row.
        neighbors: number of nearest rows to find; 0 for none.

    Raises:
        SourceError: there is no such id; the message has near ones.
        StoreError: files are missing or damaged.
    """
    store = ParagraphStore(config.processed_dir)
    datasets = [ELMDataset(split=split, load_embeddings=False, config=config) for split in store.splits]
    for dataset in datasets:
        position = pc.index(dataset.rows.table(["text_id"])["text_id"], text_id).as_py()
        if position >= 0:
            return _describe(config, datasets, dataset, position, neighbors)
    if (document_id := _document_of_dropped(store.folder, text_id)) is not None:
        dropped = sorted(_dropped(store.folder, document_id), key=lambda each: each.text_id != text_id)
        rows = _document(datasets, document_id)
        return RowDescription(
            text_id, document_id, None, None, dropped[0].text, {}, {}, (), rows, dropped, neighbors=()
        )
    raise SourceError(_unknown_id(datasets, store.folder, text_id))


def vector_of(config: Config, text_id: str) -> "np.ndarray[Any, Any]":
    """Return the stored vector of a row, shape (dim,).

    Raises:
        SourceError: no row with a vector has that id; the message has near ones.
        StoreError: files are missing or damaged.
    """
    datasets = [ELMDataset(split=split, config=config) for split in embedded_splits(config)]
    for dataset in datasets:
        position = pc.index(dataset.rows.table(["text_id"])["text_id"], text_id).as_py()
        if position >= 0:
            return dataset.rows.vector(position).astype(np.float32)
    raise SourceError(_unknown_id(datasets, config.processed_dir, text_id))


def _describe(
    config: Config, datasets: Sequence[ELMDataset], dataset: ELMDataset, position: int, neighbors: int
) -> RowDescription:
    rows = dataset.rows
    record = rows.records(rows.of_files(np.array([position])), rows.names).to_pylist()[0]
    text_id, text, document_id = record.pop("text_id"), record.pop("text"), record.get("document_id")
    own = set(rows.columns.schema.names)
    metadata = {name: value for name, value in record.items() if name in own}
    scores = {name: value for name, value in record.items() if name not in own}
    dropped: list[DroppedText] = []
    near: list[Hit] = []
    if document_id is not None and rows.source.store.manifest is not None:
        dropped = _dropped(rows.source.store.folder, document_id)
    if neighbors and dataset.split in _splits_with_vectors(config):
        vector = ELMDataset(split=dataset.split, config=config).rows.vector(position).astype(np.float32)
        near = search_splits(config, vector, neighbors, without=text_id)
    return RowDescription(
        text_id, document_id, dataset.split, position, text, metadata, scores,
        _selections(config, dataset, text_id), _document(datasets, document_id), dropped, near,
    )  # fmt: skip


def _splits_with_vectors(config: Config) -> list[Split]:
    try:
        return embedded_splits(config)
    except SourceError:
        return []


def _dropped(folder: Path, document_id: str) -> list[DroppedText]:
    """Rows of a document that were left out, in the order of the ledger; none where no ledger was written."""
    try:
        ledger = read_dropped(folder, document_id=document_id)
    except NotFoundError:
        return []
    texts = read_example_texts(folder)
    return [
        DroppedText(
            row["text_id"], row["stage"], row["reason"], row["duplicate_of"], texts.get((row["text_id"], row["reason"]))
        )
        for row in ledger.to_pylist()
    ]


def _document_of_dropped(folder: Path, text_id: str) -> str | None:
    """Document of a row that was left out; None if there is no such row."""
    try:
        ledger = read_dropped(folder)
    except NotFoundError:
        return None
    position = pc.index(ledger["text_id"], text_id).as_py()
    return None if position < 0 else str(ledger["document_id"][position])


def _document(datasets: Sequence[ELMDataset], document_id: str | None) -> list[DocumentRow]:
    found = []
    for dataset in datasets:
        if document_id is None or "document_id" not in dataset.rows.names:
            continue
        table = dataset.rows.table(["text_id", "document_id"])
        positions = np.flatnonzero(pc.equal(table["document_id"], document_id).to_numpy())
        ids = table["text_id"].take(positions).to_pylist()
        found += [DocumentRow(name, dataset.split, int(row)) for name, row in zip(ids, positions, strict=True)]
    return sorted(found, key=lambda row: _natural(row.text_id))


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Key that orders the numbers in ids by value: `a#s2` before `a#s10`."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", text)]


def _selections(config: Config, dataset: ELMDataset, text_id: str) -> list[SelectionRank]:
    found, paragraphs = [], set(dataset.rows.source.fingerprints())
    for path in visible(config.selections_dir.glob("*/manifest.json"), config.selections_dir):
        folder = path.parent
        manifest = read_manifest(folder, SelectionManifest)
        listed = manifest["splits"].get(dataset.split) if manifest else None
        if listed is None or listed["about"]["paragraphs"] not in paragraphs:
            continue
        ids = pq.read_table(folder / f"{dataset.split}.parquet", columns=["text_id"], partitioning=None)["text_id"]
        if (rank := pc.index(ids, text_id).as_py()) >= 0:
            found.append(SelectionRank(folder.name, rank + 1, len(ids)))
    return found


def _unknown_id(datasets: Sequence[ELMDataset], folder: Path, text_id: str) -> str:
    rows = _document(datasets, text_id)
    if rows:
        listed = ", ".join(row.text_id for row in rows[:_NEAR_IDS]) + (", ..." if len(rows) > _NEAR_IDS else "")
        return f"{shown(text_id)} is a document; its rows are {listed}"
    ids = [name for dataset in datasets for name in dataset.rows.table(["text_id"])["text_id"].to_pylist()]
    near = ", ".join(_near_ids(text_id, ids))
    where = f"no row with the id {shown(text_id)} in {folder}, and none was dropped"
    return f"{where}; did you mean {near}?" if near else f"{where}. `elm search` finds rows, and prints their ids."


def _near_ids(text_id: str, ids: Sequence[str]) -> list[str]:
    """Return the ids that are most like a mistyped one."""
    if len(ids) > _COMPARED_IDS:
        start = text_id[:3].lower()
        ids = [name for name in ids if name.lower().startswith(start)][:_COMPARED_IDS]
    return difflib.get_close_matches(text_id, ids, n=_NEAR_IDS, cutoff=0.7)
