"""Parts of a stage: every n-th task, run by one worker; a failed task does not stop the others."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from data_pipeline.errors import DataPipelineError
from data_pipeline.stages.base import Stage, Task, TaskResult

logger = logging.getLogger(__name__)


class FilesStage(Stage[Any], Protocol):
    """Stage that can be pickled, to run in other processes and on other machines."""

    def for_worker(self, rank: int) -> Self:
        """Return the stage for worker `rank`, with models loaded on the device of this worker.

        Raises:
            ModelError, SourceError: a model cannot be loaded.
        """

    def write_report(self, results: Sequence[TaskResult], folder: Path, seconds: float, part: str = "") -> Path:
        """Write the report of a run or a part, and return its path."""

    def check(self, results: Sequence[TaskResult]) -> None:
        """Check that no task failed; the error lists all that did."""


def run_part(stage: FilesStage, rank: int, parts: int) -> list[TaskResult]:
    """Run one part of a stage: every `parts`-th task, starting with `rank`.

    Raises:
        ModelError, SourceError: a model cannot be loaded.
    """
    tasks = tasks_of_part(stage, rank, parts)
    if not tasks:
        return []
    worker = stage.for_worker(rank)
    return [_attempt(worker, task) for task in tasks]


def tasks_of_part(stage: FilesStage, rank: int, parts: int) -> list[Task]:
    """Return the tasks of one part."""
    return list(stage.tasks())[rank::parts]


def _attempt(stage: FilesStage, task: Task) -> TaskResult:
    try:
        result = stage.run(task)
    except (DataPipelineError, OSError) as error:
        logger.error("FAILED %s: %s", task.name, error)
        # The message may quote lone surrogates, which no file can store.
        return TaskResult(task.name, error=str(error).encode(errors="backslashreplace").decode())
    logger.info("%s: %d rows%s", task.name, result.rows, ", finished before" if result.skipped else "")
    return result
