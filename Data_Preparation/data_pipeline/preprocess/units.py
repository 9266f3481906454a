"""Candidates of one unit of a corpus: it is read, cut, cleaned, filtered and counted by itself, into files of its own.

rows.arrow        rows that pass the filters; none if there are no such rows
documents.arrow   the documents, in order
dropped.parquet   what is left out, and dropped_examples.parquet, examples of it with their texts
counts.json       `UnitCounts`
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_pipeline.config import PreprocessConfig
from data_pipeline.download.corpus import Unit
from data_pipeline.preprocess.bad_records import RecordCounts, usable_documents
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.passes import CandidateCounts, stage_candidates
from data_pipeline.preprocess.row_filters import Filters
from data_pipeline.preprocess.staging import StagedFile, Staging
from data_pipeline.preprocess.tokens import TokenCounter
from data_pipeline.store.documents import DocumentWriter
from data_pipeline.store.dropped import DROPPED
from data_pipeline.user_files import OnBytes
from data_pipeline.utils.files import atomic_write_json
from data_pipeline.utils.folders import publish_folder
from data_pipeline.utils.system import fsync_path


@dataclass(frozen=True)
class UnitCounts:
    """Counts of a unit."""

    read: CandidateCounts
    records: RecordCounts
    dropped: dict[str, int]
    """Numbers of rows of the ledger, by reason."""
    personal_data: dict[str, int]
    """See `Filters.counts`."""
    token_counter: str
    """See `TokenCounter.method`."""


@dataclass(frozen=True)
class UnitSource:
    """A unit, and the corpus that it is of."""

    unit: Unit
    source: int
    """Number of the corpus among those that are read."""
    metadata: dict[str, str]
    """Types of the documents' metadata, by name."""
    max_bad_share: float | None
    """See `Corpus.max_bad_share`."""
    is_first: bool
    """Whether it is the first one of its corpus, in which bad records are counted while it is read."""


def stage_unit(
    unit: UnitSource,
    counter: TokenCounter,
    config: PreprocessConfig,
    filters: Filters,
    with_overlap: bool,
    folder: Path,
    on_bytes: OnBytes,
) -> UnitCounts:
    """Write the files of a unit to a folder, which appears when all are there; several processes may do so at once.

    Args:
        unit: the unit.
        counter: counter of tokens.
        config: settings of cutting, cleaning and filtering.
        filters: filters of the section `filters`.
        with_overlap: see `DropLedger`.
        folder: folder of the unit.
        on_bytes: called with the number of bytes of each read.

    Raises:
        SourceError: the unit cannot be read, or has too many bad records.
    """
    work = folder.with_name(f".{folder.name}.{uuid4().hex}")
    work.mkdir(parents=True)
    dropped, listed = DropLedger(work / DROPPED, with_overlap), DocumentWriter(work / "documents.arrow")
    personal_before, records = Counter(filters.counts()), RecordCounts()
    max_share = unit.max_bad_share
    early = 1.0 if max_share is not None and not unit.is_first else max_share
    documents = listed.watch(usable_documents(unit.unit.read, early, dropped, records, on_bytes), unit.source)
    read = stage_candidates(documents, unit.metadata, counter, config, work / "rows.arrow", dropped, filters)
    listed.close()
    dropped.close()
    if read.rows:
        fsync_path(work / "rows.arrow")
    personal = Counter(filters.counts()) - personal_before
    counts = UnitCounts(read, records, dict(dropped.counts), dict(personal), counter.method)
    atomic_write_json(work / "counts.json", asdict(counts))
    publish_folder(work, folder)
    return counts


def read_counts(folder: Path) -> UnitCounts:
    """Read the counts of a unit."""
    values: dict[str, Any] = json.loads((folder / "counts.json").read_bytes())
    values["read"], values["records"] = CandidateCounts(**values["read"]), RecordCounts(**values["records"])
    return UnitCounts(**values)


@dataclass
class Totals:
    """Counts of all units."""

    read: CandidateCounts = field(default_factory=CandidateCounts)
    dropped: Counter[str] = field(default_factory=Counter)
    personal_data: Counter[str] = field(default_factory=Counter)
    token_counter: str = ""

    @property
    def long_share(self) -> float:
        """Share of the tokens in rows that were dropped as too long, 0 to 1."""
        return self.read.long_tokens / max(1, self.read.tokens)

    def add(self, unit: UnitCounts) -> None:
        """Add the counts of the next unit."""
        self.read.add(unit.read)
        self.dropped.update(unit.dropped)
        self.personal_data.update(unit.personal_data)
        self.token_counter = unit.token_counter


def staged_rows(folders: Sequence[Path], counts: Sequence[UnitCounts]) -> Staging:
    """Open the rows of units as one."""
    return Staging(list(_staged_files(folders, counts)))


def _staged_files(folders: Sequence[Path], counts: Sequence[UnitCounts]) -> Iterator[StagedFile]:
    first = 0
    for folder, unit in zip(folders, counts, strict=True):
        if unit.read.rows:
            yield StagedFile(folder / "rows.arrow", unit.read.rows, first)
        first += unit.read.documents
