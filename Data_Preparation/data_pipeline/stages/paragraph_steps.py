"""Steps that make the paragraphs of a corpus. Each is a stage whose tasks any process can run, in any order.

    ReadUnits       unit of the corpus  -> rows that pass the filters
    FindRepeats     all rows            -> rows with the text of an earlier one
    SignRows        rows of a unit      -> buckets of each row                  (these four with near_dedup only)
    SortBuckets     range of buckets    -> rows that share a bucket
    ConnectRows     all of those        -> parts that can be compared on their own
    CompareRows     part of rows        -> near duplicates
    DecideRows      all rows            -> which are kept, and in which split
    ListItems       evaluation items    -> parts of them                 (these three with decontamination only, and
    FindMatches     part, span of rows  -> rows that repeat items         again with our own val and test as items)
    DropMatches     all of those        -> which rows are kept
    WriteShards     shard               -> paragraph file

The steps share a work folder, and nothing but names goes from one to another. What a task writes appears when it is
complete, so that a run that was interrupted goes on where it was. What units and shards there are does not depend on
who runs the tasks, so neither do the bytes.
"""

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.preprocess import TokenCounter, load_fast_library
from data_pipeline.preprocess.cutting import CHUNK_COLUMNS
from data_pipeline.preprocess.decontamination import Decontamination
from data_pipeline.preprocess.ledger import DropLedger
from data_pipeline.preprocess.near_pairs import (
    bucket,
    bucket_parts,
    compare,
    connect,
    kept_texts,
    sign,
)
from data_pipeline.preprocess.number_files import save_numbers
from data_pipeline.preprocess.passes import (
    Assignment,
    ShardRows,
    decide_rows,
    exact_repeats,
    schema_of_rows,
    shards_of_split,
    write_shard,
)
from data_pipeline.preprocess.row_filters import Filters, load_filters
from data_pipeline.preprocess.units import stage_unit
from data_pipeline.stages.base import Advance
from data_pipeline.stages.decontamination_steps import decontamination_steps
from data_pipeline.stages.paragraph_job import ParagraphJob, ParagraphStep, read_assignment, read_repeats
from data_pipeline.store.dropped import DROPPED
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.types import SPLITS
from data_pipeline.utils.files import atomic_write_json


@dataclass(frozen=True)
class ReadUnits(ParagraphStep):
    """Read, cut, clean and filter the documents of a unit, and count their tokens."""

    name = "Reading"

    @property
    def unit(self) -> str:
        """What progress counts: bytes if their number is known, else documents."""
        return "B" if self.rows else "doc"

    @property
    def rows(self) -> int | None:
        """Bytes of all units; None if they are unknown."""
        sizes = [source.unit.bytes for source in self.job.units]
        return None if None in sizes else sum(filter(None, sizes))

    def paths(self) -> list[Path]:
        """Return the folders of the units."""
        return self.job.unit_folders

    @cached_property
    def _counter(self) -> TokenCounter:
        is_fast = self.job.config.preprocess.fast_tokens == "auto"
        return TokenCounter(self.job.tokenizer, load_fast_library(self.job.tokenizer) if is_fast else None)

    @cached_property
    def _filters(self) -> Filters:
        config = self.job.config
        columns = CHUNK_COLUMNS if config.preprocess.cuts else ()
        return load_filters(config.filters, self.job.units[0].metadata, columns)

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the files of a unit."""
        config, counts_bytes = self.job.config, bool(self.rows)
        counts = stage_unit(
            self.job.units[index],
            self._counter,
            config.preprocess,
            self._filters,
            config.decontamination.is_on,
            path,
            advance if counts_bytes else lambda count: None,
        )
        if not counts_bytes:
            advance(counts.read.documents)


@dataclass(frozen=True)
class FindRepeats(ParagraphStep):
    """Find the rows with the text of an earlier one."""

    name = "Looking for duplicates"

    def paths(self) -> list[Path]:
        """Return the file of the pairs."""
        return [self.job.work / "exact.arrow"]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the pairs."""
        pairs = exact_repeats(self.staging, self.job.config.preprocess)
        save_numbers(path, row=pairs[:, 0], first=pairs[:, 1])


class _NearStep(ParagraphStep):
    @property
    def threshold(self) -> float:
        """Minimum similarity of near duplicates."""
        return self.job.config.preprocess.near_threshold

    @property
    def signed(self) -> list[Path]:
        """Files of `SignRows`."""
        return self.job.files("signed", len(self.part_starts) - 1)

    @cached_property
    def bucketed(self) -> list[Path]:
        """Files of `SortBuckets`."""
        return self.job.files("buckets", bucket_parts(self.signed))

    @property
    def connected(self) -> list[Path]:
        """Files of `ConnectRows`."""
        return [self.job.work / "connected" / path.name for path in self.bucketed]

    @property
    def connection(self) -> Path:
        """File of the number of parts."""
        return self.job.work / "connected.json"


@dataclass(frozen=True)
class SignRows(_NearStep):
    """Compute the buckets of the rows of a unit."""

    name = "Looking for near duplicates"

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return len(self.staging)

    def paths(self) -> list[Path]:
        """Return one file for each unit."""
        return self.signed

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the buckets."""
        start, end = self.part_starts[index : index + 2].tolist()
        sign(kept_texts(self.staging, self._keep, start, end, advance), self.threshold, path)

    @cached_property
    def _keep(self) -> NDArray[np.bool_]:
        return read_repeats(self.job).kept(len(self.staging))


@dataclass(frozen=True)
class SortBuckets(_NearStep):
    """Find the rows that share a bucket, for a range of buckets."""

    name = "Sorting buckets of near duplicates"

    def paths(self) -> list[Path]:
        """Return one file for each range."""
        return self.bucketed

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the rows."""
        bucket(self.signed, index, len(self.bucketed), path)


@dataclass(frozen=True)
class ConnectRows(_NearStep):
    """Divide the rows that share buckets into parts."""

    name = "Dividing near duplicates"

    def paths(self) -> list[Path]:
        """Return the file that is written last."""
        return [self.connection]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the parts, and their number."""
        atomic_write_json(path, connect(self.bucketed, len(self.staging), self.connected[0].parent))


@dataclass(frozen=True)
class CompareRows(_NearStep):
    """Compare the rows of a part that share buckets."""

    name = "Comparing near duplicates"

    def paths(self) -> list[Path]:
        """Return one file for each part."""
        return self.job.files("near", json.loads(self.connection.read_bytes()))

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the pairs."""
        pairs = compare(self.connected, index, self.threshold, partial(self.staging.value, "text"))
        save_numbers(path, row=pairs[:, 0], first=pairs[:, 1])


@dataclass(frozen=True)
class DecideRows(ParagraphStep):
    """Decide which rows are kept before decontamination, and in which split."""

    name = "Deciding"

    def paths(self) -> list[Path]:
        """Return the file that is written last."""
        return [self.job.work / "assigned.arrow"]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the split of each row, new ids, and what is left out because of other rows."""
        config, work = self.job.config, self.job.work
        dropped = DropLedger(work / DROPPED, config.decontamination.is_on)
        repeats, on_duplicate_id = read_repeats(self.job), self.job.on_duplicate_id
        assigned = decide_rows(self.staging, config.preprocess, config.split, on_duplicate_id, dropped, repeats)
        dropped.close()
        atomic_write_json(work / "new_ids.json", {str(number): name for number, name in assigned.new_ids.items()})
        save_numbers(path, keep=assigned.keep.astype(np.int8), position=assigned.positions)


@dataclass(frozen=True)
class WriteShards(ParagraphStep):
    """Write the rows of a shard to its file."""

    name = "Writing"

    @property
    def rows(self) -> int:
        """Number of rows that are kept."""
        return int(self.assigned.keep.sum())

    @cached_property
    def assigned(self) -> Assignment:
        """What was decided."""
        return read_assignment(self.job)

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the files."""
        return schema_of_rows(self.staging, self.job.units[0].metadata)

    @cached_property
    def shards(self) -> list[ShardRows]:
        """Shards of all splits, in order."""
        keep, shard_rows = self.assigned.keep, self.job.config.storage.shard_rows
        return [shard for name in SPLITS for shard in shards_of_split(name, name, keep, self.assigned, shard_rows)]

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.job.work / "shards"

    def paths(self) -> list[Path]:
        """Return the manifest entry of each file, which is written after it."""
        return [self.folder / f"{shard.name}.json" for shard in self.shards]

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the file and its manifest entry."""
        path.parent.mkdir(exist_ok=True)
        entry = write_shard(self.staging, self.shards[index], self.assigned, self.schema, path.parent)
        atomic_write_json(path, entry.to_json())
        advance(entry.rows)

    def entries(self) -> dict[str, list[ShardEntry]]:
        """Return the manifest entries of all files, by split."""
        entries: dict[str, list[ShardEntry]] = {name: [] for name in SPLITS}
        for shard, path in zip(self.shards, self.paths(), strict=True):
            entries[shard.split].append(ShardEntry(**json.loads(path.read_bytes())))
        return entries


def reading_steps(job: ParagraphJob) -> list[ParagraphStep]:
    """Return the steps that find the candidates."""
    return [ReadUnits(job)]


def deciding_steps(job: ParagraphJob, decontamination: Decontamination) -> list[ParagraphStep]:
    """Return the steps from the candidates to what is decided of them, in order."""
    near = [SignRows(job), SortBuckets(job), ConnectRows(job), CompareRows(job)]
    is_near = job.config.preprocess.near_dedup
    cleared = decontamination_steps(job, decontamination)
    return [FindRepeats(job), *(near if is_near else []), DecideRows(job), *cleared]
