"""What a stage is, and the one place where it is skipped, refused as stale, locked, run and finished.

    output.is_finished -> skip            the same fingerprint, and its files are whole
                       -> StaleStageError    another fingerprint, and not `overwrite`
                       -> stage.run(task) for every task, which resumes what a killed run left
                       -> stage.finish    the manifest, last

A stage knows no executor, and an executor no stage: names of tasks travel between them, never rows or vectors. A task
is safe to repeat, and to run twice at once.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_pipeline.utils import exclusive, progress_bar

Advance = Callable[[int], object]
"""Called with numbers of rows as they are finished."""

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a stage, the size of a shard; picklable."""

    name: str
    """Stable: the same in every run."""
    index: int = 0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Result of one task."""

    name: str
    rows: int = 0
    skipped: bool = False
    """An earlier run finished it."""
    error: str | None = None
    """Why it failed, if the executor goes on after failures."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further values for `Stage.finish`; picklable."""


class Output(Protocol):
    """Files that a stage makes, and the record of how they were made."""

    def is_finished(self, overwrite: bool) -> bool:
        """Whether the files are whole and were made with the same fingerprint.

        Raises:
            StaleStageError: they were made with other settings, and not `overwrite`.
        """


class Stage(Protocol[R_co]):
    """Settings, stores and algorithms of one step."""

    @property
    def name(self) -> str:
        """What the stage is doing, for progress: `Embedding train`."""

    @property
    def rows(self) -> int:
        """Rows of all its tasks; 0 if it shows no progress."""

    @property
    def outputs(self) -> Sequence[Output]:
        """What it makes."""

    def fingerprint(self) -> str:
        """SHA-256 of its deciding settings, its input's fingerprint and the format."""

    def tasks(self) -> Sequence[Task]:
        """Its parts, in order; one, if it cannot be cut."""

    def run(self, task: Task, advance: Advance = ...) -> TaskResult:
        """Do one part, resuming what an earlier run left of it."""

    def finish(self, results: Sequence[TaskResult]) -> R_co:
        """Reduce, and write the manifest last. Without results, all outputs were finished before."""


class Executor(Protocol):
    """Runs tasks of a stage, here or elsewhere, and gives their results in order."""

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run them all; raises what a task raises."""


def run_in_order(stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
    """The executor of this process: one task after another."""
    return [stage.run(task, advance) for task in tasks]


def run_stage(stage: Stage[R], *, overwrite: bool = False, execute: Executor = run_in_order) -> R:
    """Run a stage, or skip it if all it makes is finished.

    Args:
        stage: what to run.
        overwrite: replace what was made with other settings or is damaged.
        execute: runs its tasks.

    Raises:
        StaleStageError: an output was made with other settings, and not `overwrite`.
    """
    # All are asked: a stale one stops the run before anything is computed.
    finished = [output.is_finished(overwrite) for output in stage.outputs]
    if finished and all(finished):
        return stage.finish([])
    with progress_bar(stage.rows, stage.name, "row") if stage.rows else nullcontext() as bar:
        results = execute(stage, stage.tasks(), _ignore if bar is None else bar.update)
    return stage.finish(results)


def run_stages(
    stages: Iterable[Stage[R]], folder: Path, *, overwrite: bool = False, execute: Executor = run_in_order
) -> list[R]:
    """Run stages that write to one folder, as its only writer; see `run_stage`.

    Raises:
        StoreError: another process is writing to the folder.
    """
    with exclusive(folder):
        return [run_stage(stage, overwrite=overwrite, execute=execute) for stage in stages]


def _ignore(rows: int) -> None:
    del rows
