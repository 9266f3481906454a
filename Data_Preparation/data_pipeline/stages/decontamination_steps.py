"""Steps of decontamination: items are listed in parts, each is compared with spans of rows, and matches are dropped."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess.decontamination import (
    Decontamination,
    ItemPart,
    Match,
    Matches,
    SharedNgrams,
    drop_matches,
    items_of,
    kinds_of,
    match_part,
    parts_of_items,
    rows_compared,
)
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.number_files import save_numbers
from data_pipeline.preprocess.passes import Assignment
from data_pipeline.stages.base import Advance
from data_pipeline.stages.paragraph_job import ParagraphJob, ParagraphStep, read_assignment
from data_pipeline.utils.files import published, unique_name
from data_pipeline.utils.folders import publish_folder

_TASKS = 32
"""Tasks of a comparison, if there are fewer parts and enough rows."""
_SPAN_ROWS = 65_536

_ITEMS = pa.schema([("name", pa.string()), ("texts", pa.list_(pa.large_string()))])
_MATCHES = pa.schema(
    [
        ("row", pa.int64()),
        ("item", pa.string()),
        ("overlap", pa.float64()),  # of near duplicates
        ("shared", pa.int64()),  # the others of n-grams
        ("covered", pa.binary()),
        ("words", pa.int64()),
    ]
)


@dataclass(frozen=True)
class _KindStep(ParagraphStep):
    kind: str
    """`contaminated` or `leaked`; see `decontamination.kinds_of`."""

    @cached_property
    def assigned(self) -> Assignment:
        """What was decided before."""
        return read_assignment(self.job, ["contaminated"] if self.kind == "leaked" else [])

    @property
    def items(self) -> Path:
        """Folder of the parts of the items."""
        return self.job.work / f"{self.kind}-items"


@dataclass(frozen=True)
class ListItems(_KindStep):
    """List the items in parts, so that every worker sees the same ones."""

    decontamination: Decontamination

    name = "Listing evaluation items"

    def paths(self) -> list[Path]:
        """Return the folder of the parts."""
        return [self.items]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write a file for each part."""
        del index, advance
        work, assigned = path.with_name(f".{path.name}.{uuid4().hex}"), self.assigned
        work.mkdir(parents=True)
        items = items_of(self.kind, self.staging, assigned.keep, assigned.positions, self.decontamination)
        for number, part in enumerate(parts_of_items(items)):
            with pa.ipc.new_file(work / f"{number:06d}.arrow", _ITEMS) as file:
                file.write_table(_table_of_part(part))
        publish_folder(work, path)


@dataclass(frozen=True)
class FindMatches(_KindStep):
    """Compare a span of rows with a part of the items."""

    name = "Comparing with evaluation items"

    @property
    def rows(self) -> int:
        """Number of comparisons of a row with a part."""
        return len(self.staging) * len(self._parts)

    @cached_property
    def _parts(self) -> list[Path]:
        return sorted(self.items.iterdir())

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        rows = len(self.staging)
        count = max(1, min(-(-_TASKS // max(1, len(self._parts))), -(-rows // _SPAN_ROWS)))
        bounds = np.linspace(0, rows, count + 1).astype(np.int64).tolist()
        return list(pairwise(bounds))

    def paths(self) -> list[Path]:
        """Return a file for each part and span."""
        return self.job.files(self.kind, len(self._parts) * len(self._spans))

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the matches."""
        part, span = divmod(index, len(self._spans))
        config = self.job.config
        matches = match_part(
            self.staging,
            self._among,
            _read_part(self._parts[part]),
            config.decontamination,
            config.preprocess.near_threshold,
            self._spans[span],
            advance,
        )
        path.parent.mkdir(exist_ok=True)
        with published(path, unique_name(path)) as temporary, pa.ipc.new_file(temporary, _MATCHES) as file:
            file.write_table(_table_of_matches(matches))

    @cached_property
    def _among(self) -> NDArray[np.bool_]:
        return rows_compared(self.kind, self.assigned.keep, self.assigned.positions, self.job.config.decontamination)


@dataclass(frozen=True)
class DropMatches(_KindStep):
    """Drop the rows that match enough."""

    name = "Dropping evaluation items"

    def paths(self) -> list[Path]:
        """Return the file that is written last."""
        return [self.job.cleared(self.kind)]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write which rows are kept, and the ledger of the others."""
        del index, advance
        matches, keep = Matches(), self.assigned.keep.copy()
        for file in FindMatches(self.job, self.kind).paths():
            matches.add(_read_matches(file))
        dropped = DropLedger(self.job.ledger(self.kind), with_overlap=True)
        drop_matches(self.staging, keep, matches, self.kind, self.job.config.decontamination, dropped)
        dropped.close()
        save_numbers(path, keep=keep.astype(np.int8))


def decontamination_steps(job: ParagraphJob, decontamination: Decontamination) -> list[ParagraphStep]:
    """Return the steps of decontamination, in order; none if it is off."""
    return [
        step
        for kind in kinds_of(decontamination)
        for step in (ListItems(job, kind, decontamination), FindMatches(job, kind), DropMatches(job, kind))
    ]


def _table_of_part(part: ItemPart) -> pa.Table:
    texts: list[list[str]] = [[] for _ in part.names]
    for item, text in zip(part.items, part.texts, strict=True):
        texts[item].append(text)
    return pa.table([part.names, texts], schema=_ITEMS)


def _read_part(path: Path) -> ItemPart:
    part = ItemPart()
    for name, texts in _rows_of(path):
        part.items += [len(part.names)] * len(texts)
        part.names.append(name)
        part.texts += texts
    return part


def _table_of_matches(matches: Matches) -> pa.Table:
    ngrams = [(row, one.item, None, one.shared, one.covered, one.words) for row, one in matches.ngrams.items()]
    near = [(row, one.item, one.overlap, None, None, None) for row, one in matches.near.items()]
    columns = [list(column) for column in zip(*[*ngrams, *near], strict=True)] or [[] for _ in _MATCHES]
    return pa.table(columns, schema=_MATCHES)


def _read_matches(path: Path) -> Matches:
    matches = Matches()
    for row, item, overlap, shared, covered, words in _rows_of(path):
        if overlap is None:
            matches.ngrams[row] = SharedNgrams(item, shared, covered, words)
        else:
            matches.near[row] = Match(item, overlap)
    return matches


def _rows_of(path: Path) -> Iterator[tuple[Any, ...]]:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        for index in range(file.num_record_batches):
            yield from zip(*(column.to_pylist() for column in file.get_batch(index).columns), strict=True)
