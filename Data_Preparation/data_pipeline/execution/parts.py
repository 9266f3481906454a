"""Parts of a stage: every n-th task, done by one worker, whose failures do not stop the others."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from data_pipeline.errors import DataPipelineError
from data_pipeline.stages.base import Stage, Task, TaskResult

logger = logging.getLogger(__name__)


class PortableStage(Stage[Any], Protocol):
    """A stage that can be pickled, and so run by other processes and on other machines."""

    def for_worker(self, rank: int) -> Self:
        """The stage as worker `rank` runs it: its models loaded, on the device that is this worker's.

        Raises:
            ModelError, SourceError: a model cannot be loaded.
        """

    def write_report(self, results: Sequence[TaskResult], folder: Path, seconds: float, part: str = "") -> Path:
        """Write the record of a run, or of a part of it."""

    def check(self, results: Sequence[TaskResult]) -> None:
        """Raise an error that lists the tasks that failed."""


def run_part(stage: PortableStage, rank: int, parts: int) -> list[TaskResult]:
    """Do one part of a stage: every `parts`-th task, from number `rank` on.

    Raises:
        ModelError, SourceError: a model cannot be loaded.
    """
    tasks = tasks_of_part(stage, rank, parts)
    if not tasks:
        return []
    worker = stage.for_worker(rank)
    return [_attempt(worker, task) for task in tasks]


def tasks_of_part(stage: PortableStage, rank: int, parts: int) -> list[Task]:
    """The tasks of one part."""
    return list(stage.tasks())[rank::parts]


def _attempt(stage: PortableStage, task: Task) -> TaskResult:
    try:
        result = stage.run(task)
    except (DataPipelineError, OSError) as error:
        logger.error("FAILED %s: %s", task.name, error)
        # It may quote what no file can hold, half of a surrogate pair.
        return TaskResult(task.name, error=str(error).encode(errors="backslashreplace").decode())
    logger.info("%s: %d rows%s", task.name, result.rows, ", finished before" if result.skipped else "")
    return result
