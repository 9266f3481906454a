"""What the steps of making paragraphs share: the job, its folder, and what earlier steps found."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipeline.config import Config
from data_pipeline.preprocess.decontamination import KINDS
from data_pipeline.preprocess.near_pairs import in_row_order
from data_pipeline.preprocess.number_files import load_numbers
from data_pipeline.preprocess.passes import Assignment, Repeats
from data_pipeline.preprocess.staging import StagedFile, Staging
from data_pipeline.preprocess.units import UnitCounts, UnitSource, read_counts, staged_rows
from data_pipeline.stages.base import Advance, Output, Task, TaskResult, WorkerPlace
from data_pipeline.store.dropped import DROPPED
from data_pipeline.types import IntArray

_PART_ROWS = 65_536


@dataclass(frozen=True)
class Written:
    """Output of a step: a file or folder that appears when it is complete."""

    path: Path

    def is_finished(self, overwrite: bool) -> bool:
        """Return whether it is there; a work folder holds nothing that was made with other settings."""
        del overwrite
        return self.path.exists()


@dataclass(frozen=True)
class ParagraphJob:
    """Work of making paragraphs, as any process needs to know it."""

    config: Config
    tokenizer: Any
    units: tuple[UnitSource, ...]
    on_duplicate_id: str
    work: Path
    """Folder that the steps share."""
    staged: StagedFile | None = None
    """Rows that were staged before; None for those of the units."""

    @property
    def unit_folders(self) -> list[Path]:
        """Folders of the units, in order."""
        return [self.work / "units" / f"{number:06d}" for number in range(len(self.units))]

    def cleared(self, kind: str) -> Path:
        """Path of the file that says which rows are kept after decontamination of a kind."""
        return self.work / f"{kind}.arrow"

    def ledger(self, kind: str) -> Path:
        """Path of the ledger of the rows that decontamination of a kind dropped."""
        return self.work / f"{kind}.parquet"

    def files(self, folder: str, count: int) -> list[Path]:
        """Paths of numbered files of a step."""
        return [self.work / folder / f"{number:06d}.arrow" for number in range(count)]


@dataclass(frozen=True)
class ParagraphStep:
    """Part that all steps of making paragraphs share; see `stages.base.Stage`."""

    job: ParagraphJob

    name = ""

    @property
    def rows(self) -> int | None:
        """Number of rows of all tasks; see `Stage`."""
        return 0

    @property
    def unit(self) -> str:
        """What progress counts."""
        return "row"

    def fingerprint(self) -> str:
        """Return nothing: the work folder is that of one fingerprint."""
        return ""

    @property
    def outputs(self) -> Sequence[Output]:
        """Return one output for each task."""
        return [Written(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """Return the file or folder that each task writes."""
        raise NotImplementedError

    def tasks(self) -> list[Task]:
        """Return one task for each file or folder."""
        return [Task(path.name, index) for index, path in enumerate(self.paths())]

    def finish(self, results: Sequence[TaskResult]) -> None:
        """Leave the files as they are."""

    def portable(self) -> Self:
        """Return the stage, without what this process has opened."""
        return self

    def for_worker(self, place: WorkerPlace) -> Self:
        """Return the step, which opens files and loads filters when they are needed."""
        del place
        return self

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Run one task, unless its file is there."""
        path = self.paths()[task.index]
        if path.exists():
            return TaskResult(task.name, skipped=True)
        self.write(task.index, path, advance)
        return TaskResult(task.name)

    def write(self, index: int, path: Path, advance: Advance) -> None:
        """Write the file of a task."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a process has opened or loaded."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def counts(self) -> list[UnitCounts]:
        """Counts of the units, in order."""
        return [read_counts(folder) for folder in self.job.unit_folders]

    @cached_property
    def staging(self) -> Staging:
        """All rows."""
        staged = self.job.staged
        return staged_rows(self.job.unit_folders, self.counts) if staged is None else Staging([staged])

    @cached_property
    def part_starts(self) -> IntArray:
        """First row of each unit, or of parts of rows that were staged before, and the number of all rows."""
        if self.job.staged is not None:
            return np.array([*range(0, self.job.staged.rows, _PART_ROWS), self.job.staged.rows])
        return np.cumsum([0, *(unit.read.rows for unit in self.counts)])


def ledgers_of(job: ParagraphJob) -> list[Path]:
    """Return the ledgers of the rows that are left out because of other rows, in order."""
    cleared = (job.ledger(kind) for kind in KINDS)
    return [job.work / DROPPED, *(path for path in cleared if path.exists())]


def read_repeats(job: ParagraphJob) -> Repeats:
    """Read which rows repeat an earlier one, as far as it is known."""
    near = in_row_order([_pairs(path) for path in sorted((job.work / "near").glob("*.arrow"))])
    return Repeats(_pairs(job.work / "exact.arrow"), near)


def read_assignment(job: ParagraphJob, kinds: Sequence[str] = KINDS) -> Assignment:
    """Read what was decided, after the decontamination of some kinds if they were looked for."""
    columns = load_numbers(job.work / "assigned.arrow")
    new_ids = json.loads((job.work / "new_ids.json").read_bytes())
    keep = columns["keep"].astype(np.bool_)
    for kind in kinds:
        if (cleared := job.cleared(kind)).exists():
            keep = load_numbers(cleared)["keep"].astype(np.bool_)
    return Assignment(keep, columns["position"], {int(number): name for number, name in new_ids.items()})


def _pairs(path: Path) -> IntArray:
    columns = load_numbers(path)
    return np.stack([columns["row"], columns["first"]], axis=1).astype(np.int64)
