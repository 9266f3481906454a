"""Stages whose tasks are files of a user, run by any engine; a file that fails does not stop the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data_pipeline.config.execution import ExecutionConfig, LocalSettings
from data_pipeline.execution.engines import open_engine
from data_pipeline.execution.local_engine import LocalEngine
from data_pipeline.stages.base import PortableStage, Task, TaskResult, WorkerPlace, run_in_order
from data_pipeline.utils.devices import device_of_worker
from data_pipeline.utils.system import usable_cores


class FilesStage(PortableStage, Protocol):
    """Stage with one task for each file, whose results name the errors of those that failed."""

    @property
    def device(self) -> str:
        """Torch device that the job asks for."""

    def write_report(self, results: Sequence[TaskResult], folder: Path, seconds: float) -> Path:
        """Write the report of a run, and return its path."""

    def check(self, results: Sequence[TaskResult]) -> None:
        """Check that no task failed; the error lists all that did."""


def run_on_this_machine(stage: FilesStage, settings: LocalSettings, folder: Path) -> list[TaskResult]:
    """Run the files that belong to this machine; see `LocalSettings`.

    Args:
        stage: the stage.
        settings: share of this machine, and number of processes.
        folder: folder of the processes that run together.

    Raises:
        DataPipelineError: a model cannot be loaded, or processes die again and again.
    """
    tasks = [task for task in stage.tasks() if task.index % settings.tasks in settings.ranks]
    ranks = {task.index % settings.tasks for task in tasks}
    count = min(len(ranks) if settings.workers == -1 else settings.workers, len(ranks))
    if count <= 1:
        return run_in_order(stage, tasks, _ignore)
    threads = max(1, usable_cores() // count)
    places = [WorkerPlace(f"worker-{n}", device_of_worker(stage.device, n), threads) for n in range(count)]
    with LocalEngine(places, folder) as engine:
        return engine(stage, tasks, _ignore)


def run_by_engine(stage: FilesStage, settings: ExecutionConfig, folder: Path) -> list[TaskResult]:
    """Run all files by an engine.

    Args:
        stage: the stage.
        settings: the engine.
        folder: folder of the processes that run together.

    Raises:
        ConfigError: see `engines.open_engine`.
        DataPipelineError: a model cannot be loaded, or processes die again and again.
    """
    tasks: Sequence[Task] = stage.tasks()
    with open_engine(settings, folder) as (place, execute):
        own = stage.for_worker(place) if place is not None and (settings.workers or settings.devices) else stage
        return execute(own, tasks, _ignore)


def _ignore(rows: int) -> None:
    del rows
