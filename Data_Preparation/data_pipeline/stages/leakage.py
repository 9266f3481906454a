"""Stage that measures how much of the test split leaks from train; each task compares a part of train."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from data_pipeline.preprocess.leakage import Leaks, TestRows
from data_pipeline.stages.base import (
    Advance,
    Executor,
    Output,
    Task,
    TaskResult,
    WorkerPlace,
    run_in_order,
    run_stage,
)
from data_pipeline.store import ParagraphStore
from data_pipeline.store.paragraphs import ShardPart

_PART_ROWS = 16_384


@dataclass(frozen=True)
class FindLeaks:
    """Stage that finds what the parts of train have in common with test."""

    folder: Path
    """Processed folder."""
    threshold: float
    """See `TestRows`."""
    name: str = "Measuring leakage of test from train"
    unit: str = "row"
    outputs: Sequence[Output] = ()

    @property
    def rows(self) -> int:
        """Number of rows of train."""
        return ParagraphStore(self.folder).live_count("train")

    def fingerprint(self) -> str:
        """Return nothing, since nothing is written."""
        return ""

    def tasks(self) -> list[Task]:
        """Return one task for each part of train."""
        return [Task(f"train-{index:06d}", index) for index in range(len(self._parts))]

    @cached_property
    def _parts(self) -> list[ShardPart]:
        return ParagraphStore(self.folder).parts("train", _PART_ROWS)

    @cached_property
    def _test(self) -> TestRows:
        """What a process has loaded of test."""
        return TestRows(ParagraphStore(self.folder), self.threshold)

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Compare one part."""
        return TaskResult(task.name, facts=asdict(self._test.leaks(self._parts[task.index], advance)))

    def finish(self, results: Sequence[TaskResult]) -> dict[str, Any]:
        """Return the figures; see `TestRows.figures`."""
        return self._test.figures(Leaks(**result.facts) for result in results)

    def portable(self) -> Self:
        """Return the stage, without what this process has opened."""
        return self

    def for_worker(self, place: WorkerPlace) -> Self:
        """Return the stage, which reads the texts of test when they are needed."""
        del place
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the texts that a process has loaded."""
        return {name: value for name, value in self.__dict__.items() if name not in {"_test", "_parts"}}


def measure_leakage(folder: Path, threshold: float, execute: Executor = run_in_order) -> dict[str, Any]:
    """Measure the leakage of the paragraphs in a folder; see `TestRows.figures`.

    Args:
        folder: processed folder.
        threshold: see `TestRows`.
        execute: runs the tasks.
    """
    return run_stage(FindLeaks(folder, threshold), execute=execute)
