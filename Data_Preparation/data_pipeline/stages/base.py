"""Stage protocol, and the only place where stages are skipped, rejected as stale, locked, run, finished and recorded.

    output.is_finished -> skip               same fingerprint, and the files are complete
                       -> StaleStageError    another fingerprint, and `overwrite` is false
                       -> stage.run(task)    for every task, resuming unfinished work
                       -> stage.finish       writes the manifest, last

Stages and executors are independent: only tasks and results are passed between them, never rows or vectors. A task can
be repeated, and run twice at the same time.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

from data_pipeline.utils import atomic_write_json, exclusive, progress_bar

Advance = Callable[[int], object]
"""Progress callback that is called with the number of newly finished rows."""

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Task:
    """Picklable part of a stage, the size of a shard."""

    name: str
    """Name that is the same in every run."""
    index: int = 0
    """Position among the tasks of the stage, or of its file."""
    rows: tuple[int, int] | None = None
    """First and exclusive last row of the file that the task is for; None for all."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Result of one task."""

    name: str
    rows: int = 0
    skipped: bool = False
    """Whether an earlier run finished the task."""
    error: str | None = None
    """Error message of a failed task, if the executor continues after failures."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Picklable values for `Stage.finish`."""


class Output(Protocol):
    """Output files of a stage, and the record of how they were made."""

    def is_finished(self, overwrite: bool) -> bool:
        """Return whether the files are complete and were made with the same fingerprint.

        Raises:
            StaleStageError: the files were made with other settings, and `overwrite` is false.
        """


class Stage(Protocol[R_co]):
    """Step of the pipeline that combines settings, stores and algorithms."""

    @property
    def name(self) -> str:
        """Activity of the stage for the progress bar, such as `Embedding train`."""

    @property
    def rows(self) -> int | None:
        """Number of rows of all tasks; 0 for no progress bar, None if it is not known."""

    @property
    def unit(self) -> str:
        """What progress counts, such as `row`."""

    @property
    def outputs(self) -> Sequence[Output]:
        """Outputs of the stage."""

    def fingerprint(self) -> str:
        """Compute the SHA-256 of the deciding settings, the fingerprint of the input, and the format."""

    def tasks(self) -> Sequence[Task]:
        """Return the tasks in order; a single one if the stage cannot be divided."""

    def run(self, task: Task, advance: Advance = ...) -> TaskResult:
        """Run one task, resuming unfinished work of an earlier run."""

    def finish(self, results: Sequence[TaskResult]) -> R_co:
        """Combine the results, and write the manifest last; without results, all outputs were already finished."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where one of several workers runs."""

    name: str
    """Name that no other worker has."""
    device: str | None = None
    """Torch device of the worker; None for that of the config."""
    threads: int = 1
    """Threads that the worker uses for computing."""


class PortableStage(Stage[Any], Protocol):
    """Stage that can be pickled, so that other processes run its tasks."""

    def portable(self) -> "PortableStage":
        """Return the stage as other processes get it, after what is to be done once."""

    def for_worker(self, place: WorkerPlace) -> Stage[Any]:
        """Return the stage for a worker, which loads what it needs there.

        Raises:
            DataPipelineError: a model cannot be loaded.
        """


def is_portable(stage: Stage[Any]) -> TypeGuard[PortableStage]:
    """Return whether other processes can run the tasks of a stage."""
    return hasattr(stage, "for_worker")


def uses_device(stage: Stage[Any]) -> bool:
    """Return whether the tasks of a stage run a model, which is loaded once for each worker."""
    return bool(getattr(stage, "on_device", False))


def fails_alone(stage: Stage[Any]) -> bool:
    """Return whether a task of a stage that fails leaves the others running, and its result names the error."""
    return bool(getattr(stage, "fails_alone", False))


class Executor(Protocol):
    """Function that runs tasks of a stage, here or elsewhere, and returns their results in order."""

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run all tasks; an error of a task is raised."""


def workers_of(execute: Executor) -> int:
    """Return the number of processes that run the tasks of an executor."""
    return int(getattr(execute, "workers", 1))


def run_in_order(stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
    """Run tasks in this process, one after another."""
    return [stage.run(task, advance) for task in tasks]


def run_at_once(count: int, interrupt: Callable[[str], None]) -> Executor:
    """Make an executor that runs several tasks at once, in threads, and stops all of them when one fails.

    Args:
        count: number of tasks that run at once.
        interrupt: called with a reason after a failure, to end what the other tasks wait for.
    """

    def execute(stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        lock, stop = threading.Lock(), threading.Event()

        def report(rows: int) -> None:
            if stop.is_set():
                raise _StoppedError
            with lock:
                advance(rows)

        pool = ThreadPoolExecutor(count, thread_name_prefix="task")
        futures = [pool.submit(stage.run, task, report) for task in tasks]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:  # the error of the one that failed, before those of the others that it stopped
                if future in finished:
                    future.result()
            return [future.result() for future in futures]
        finally:
            stop.set()
            if not all(future.done() for future in futures):
                interrupt("another task failed")
            pool.shutdown(cancel_futures=True)

    return execute


class _StoppedError(Exception):
    """A task was stopped, because another one failed."""


def run_stage(stage: Stage[R], *, overwrite: bool = False, execute: Executor = run_in_order) -> R:
    """Run a stage, or skip it if all its outputs are finished.

    Args:
        stage: stage to run.
        overwrite: whether to replace outputs that were made with other settings or are damaged.
        execute: executor of the tasks.

    Raises:
        StaleStageError: an output was made with other settings, and `overwrite` is false.
    """
    # A list, not a generator: any stale output stops the run before anything is computed.
    finished = [output.is_finished(overwrite) for output in stage.outputs]
    if finished and all(finished):
        return stage.finish([])
    done, workers = 0, workers_of(execute)
    # Only this process knows how many tokens it has computed.
    tokens = getattr(stage, "tokens_done", None) if workers == 1 else None
    with nullcontext() if stage.rows == 0 else progress_bar(stage.rows, stage.name, stage.unit, tokens) as bar:

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            if bar is not None:
                bar.update(rows)

        try:
            results = execute(stage, stage.tasks(), advance)
        except KeyboardInterrupt as interrupt:
            if not getattr(interrupt, "__notes__", None):  # of a stage within this one, which knows better
                interrupt.add_note(_saved(stage, done, workers))
            raise
    return stage.finish(results)


def _saved(stage: Stage[Any], done: int, workers: int) -> str:
    """Describe what is left of a stage that was interrupted: rows, finished tasks, or nothing."""
    if getattr(stage, "saves_rows", False) and stage.rows:
        seconds = ", but for those of the last seconds" if workers > 1 else ""
        return f"{stage.name}: {done:,} of {stage.rows:,} {stage.unit}s are saved{seconds}"
    if is_portable(stage) and stage.outputs:
        return f"{stage.name}: its finished parts are saved"
    return f"{stage.name}: nothing of it is written yet; what came before is saved"


def run_stages(
    stages: Iterable[Stage[R]], folder: Path, *, overwrite: bool = False, execute: Executor = run_in_order
) -> list[R]:
    """Run stages that write to the same folder, which is locked meanwhile; see `run_stage`.

    Raises:
        StoreError: another process is writing to the folder.
    """
    with exclusive(folder):
        return [run_stage(stage, overwrite=overwrite, execute=execute) for stage in stages]


def run_timestamp() -> str:
    """Return the present time in UTC, to the microsecond, for names of files and folders that belong to one run."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")


def write_run_record(folder: Path, content: Mapping[str, Any], prefix: str = "") -> Path:
    """Write the record of a run: its settings and its results.

    Args:
        folder: folder of the records.
        content: JSON values.
        prefix: beginning of the file name, before the time and the process id.
    """
    path = folder / f"{prefix}{run_timestamp()}-{os.getpid()}.json"
    atomic_write_json(path, content)
    return path
