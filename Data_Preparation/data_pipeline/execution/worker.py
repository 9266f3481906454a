"""A worker: runs tasks of a stage, together with any number of others, until all are done.

Workers share a folder. It has a lease for each task that is being run (see `leases`), and a receipt for each that is
done or failed. Only names and receipts are in it, never rows or vectors.
"""

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline import errors
from data_pipeline.errors import DataPipelineError
from data_pipeline.execution.leases import Leases
from data_pipeline.stages.base import Stage, Task, TaskResult, fails_alone
from data_pipeline.utils.files import published, unique_name

_POLL_S = 0.1
_ATTEMPTS = 3
"""Workers that may die at a task, after which it has failed."""
_DONE = ".done"


@dataclass(frozen=True)
class Receipt:
    """Receipt of a task that is done."""

    result: TaskResult
    rows: int
    """Rows that the worker counted, in the unit of the stage."""
    worker: str
    """Name of the worker."""


class Receipts:
    """Receipts of the tasks of a stage.

    Args:
        folder: folder that all workers see.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failure = folder / "failed.json"
        self._known: dict[str, Receipt] = {}

    def write(self, receipt: Receipt) -> None:
        """Write the receipt of a task."""
        _write_json(self._path(receipt.result.name), asdict(receipt))

    def read(self, name: str) -> Receipt | None:
        """Read the receipt of a task; None if it is not done."""
        try:
            values = json.loads(self._path(name).read_bytes())
        except FileNotFoundError:
            return None
        return Receipt(TaskResult(**values["result"]), values["rows"], values["worker"])

    def all(self) -> dict[str, Receipt]:
        """Return the receipts of all tasks that are done, by name; each file is read once."""
        for path in self._folder.glob(f"*{_DONE}"):
            name = path.name.removesuffix(_DONE)
            if name not in self._known and (receipt := self.read(name)) is not None:
                self._known[name] = receipt
        return self._known

    def is_done(self, name: str) -> bool:
        """Return whether a task is done."""
        return self._path(name).exists()

    def write_failure(self, where: str, error: BaseException) -> None:
        """Record the error that ends the work of all workers; the first one stays.

        Args:
            where: name of the task, or of the worker.
            error: the error.
        """
        if self.has_failed:
            return
        is_known = isinstance(error, DataPipelineError)
        text = str(error) if is_known else "".join(traceback.format_exception(error))
        _write_json(self._failure, {"where": where, "message": text, "kind": type(error).__name__})

    @property
    def has_failed(self) -> bool:
        """Whether a task failed."""
        return self._failure.exists()

    def failure(self) -> str | None:
        """Return the message of the task that failed; None if none did."""
        return str(json.loads(self._failure.read_bytes())["message"]) if self.has_failed else None

    def check(self) -> None:
        """Raise the error of the task that failed, if one did.

        Raises:
            DataPipelineError: the error, of the same class.
            RuntimeError: an error that is none of this package, with its traceback.
        """
        if not self.has_failed:
            return
        values = json.loads(self._failure.read_bytes())
        found = getattr(errors, values["kind"], None)
        if isinstance(found, type) and issubclass(found, DataPipelineError):
            raise found(values["message"])
        raise RuntimeError(f"{values['where']} failed in another process:\n{values['message']}")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_DONE}"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path, unique_name(path)) as temporary:
        temporary.write_bytes(json.dumps(values).encode(errors="backslashreplace"))


@dataclass(frozen=True)
class SharedWork:
    """Tasks of a stage that several workers run together."""

    tasks: Sequence[Task]
    folder: Path
    """Folder that all workers see."""

    @cached_property
    def leases(self) -> Leases:
        """Leases of the tasks."""
        return Leases(self.folder / "leases")

    @cached_property
    def receipts(self) -> Receipts:
        """Receipts of the tasks."""
        return Receipts(self.folder / "receipts")

    def progress(self) -> int:
        """Return the number of rows that all workers have finished, in the unit of the stage."""
        done = self.receipts.all()
        running = {name: holder.rows for name, holder in self.leases.holders().items() if name not in done}
        return sum(receipt.rows for receipt in done.values()) + sum(running.values())


def work(stage: Stage[Any], shared: SharedWork, worker: str) -> None:
    """Run tasks until all are done or one failed, here or by other workers.

    Args:
        stage: the stage.
        shared: tasks of the stage.
        worker: name of this worker.
    """
    leases, receipts, left = shared.leases, shared.receipts, list(shared.tasks)
    while left:
        ran = False
        for task in left:
            if receipts.has_failed:
                return
            ran |= _run_one(stage, task, worker, leases, receipts)
        left = [task for task in left if not receipts.is_done(task.name)]
        if left and not ran:
            time.sleep(_POLL_S)


def _given_up(stage: Stage[Any], task: Task) -> TaskResult:
    """Return the result of a task that workers died at, or raise its error."""
    reason = (
        f"{_ATTEMPTS} processes were killed while they worked on it, one after another, mostly for too little memory. "
        "Set execution.workers (local_settings.workers) to a smaller number"
    )
    if fails_alone(stage):
        return TaskResult(task.name, error=reason)
    raise DataPipelineError(f"{stage.name}, {task.name}: {reason}")


def _run_one(stage: Stage[Any], task: Task, worker: str, leases: Leases, receipts: Receipts) -> bool:
    """Run a task, unless another worker does or did; returns whether it ran."""
    if receipts.is_done(task.name):
        return False
    with leases.taken(task.name) as lease:
        if lease is None or receipts.is_done(task.name):
            return False

        def count(rows: int) -> None:
            lease.rows += rows

        try:
            result = stage.run(task, count) if lease.attempt <= _ATTEMPTS else _given_up(stage, task)
        except Exception as error:  # noqa: BLE001  every error goes to the process that waits for the stage
            receipts.write_failure(task.name, error)
        else:
            receipts.write(Receipt(result, lease.rows, worker))
        return True
