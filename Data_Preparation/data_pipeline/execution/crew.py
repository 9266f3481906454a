"""A crew of workers: one leads through the stages of a run, the others run tasks of the stage that it is at.

They share a folder, so they may be on different machines. For each stage it has a folder with the stage, the leases of
its tasks, and the receipts of those that are done. It holds pickled objects, so it belongs to one user alone.
"""

import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataPipelineError
from data_pipeline.execution.leases import Leases
from data_pipeline.execution.worker import Receipt, Receipts, SharedWork, work
from data_pipeline.stages.base import Advance, Stage, Task, TaskResult, WorkerPlace, is_portable, run_in_order
from data_pipeline.utils.files import atomic_write_bytes, atomic_write_json

_POLL_S = 0.1
_LOOK_S = 0.5
_OVER = "over"


@dataclass(frozen=True)
class StageAbout:
    """What is known of a stage without its objects, for those who look on."""

    name: str
    unit: str
    rows: int | None
    tasks: int
    started: float
    """Time in seconds since 1970."""


class CrewFolder:
    """Folder of a crew.

    Args:
        path: the folder; it is made if it is not there, for this user alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def stages(self) -> list[Path]:
        """Folders of the stages so far, in order."""
        return sorted(path for path in (self.path / "stages").glob("*") if path.is_dir())

    @property
    def is_over(self) -> bool:
        """Whether the leader is through with all stages, or gave up."""
        return (self.path / _OVER).exists()

    @property
    def failure(self) -> str | None:
        """Message of the error that the leader gave up with; None if it did not."""
        try:
            return (self.path / _OVER).read_text() or None
        except FileNotFoundError:
            return None

    def end(self, failure: str = "") -> None:
        """Tell the others that it is over, because of a failure if one is given."""
        atomic_write_bytes(self.path / _OVER, failure.encode(errors="backslashreplace"))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def begin_stage(self, stage: Stage[Any], tasks: Sequence[Task], message: bytes | None) -> SharedWork:
        """Make the folder of the next stage.

        Args:
            stage: the stage.
            tasks: its tasks.
            message: the stage as others get it, pickled; None if only the leader runs its tasks.
        """
        last = int(self.stages[-1].name) if self.stages else 0
        shared = SharedWork(tasks, self.path / "stages" / f"{last + 1:06d}")
        about = StageAbout(stage.name, stage.unit, stage.rows, len(tasks), time.time())
        atomic_write_json(shared.folder / "about.json", asdict(about))
        if message is not None:
            atomic_write_bytes(shared.folder / "stage", message)
        return shared


class Leader:
    """Executor of a crew, for `stages.base.run_stage`.

    Args:
        folder: folder of the crew.
        place: where this process runs.
        workers: number of workers of the crew.
        look: looks after the others, from a thread, while tasks are run.
    """

    def __init__(
        self, folder: CrewFolder, place: WorkerPlace, workers: int, look: Callable[[], object] = lambda: None
    ) -> None:
        self._folder, self._place, self._look = folder, place, look
        self.workers = workers

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run all tasks; an error of a task is raised."""
        if len(tasks) <= 1 or not is_portable(stage):
            return self._alone(stage, tasks, advance)
        shared = self._folder.begin_stage(stage, tasks, pickle.dumps((stage.portable(), tasks)))
        try:
            with _looking_on(shared, advance, self._look):
                work(stage.for_worker(self._place), shared, self._place.name)
            shared.receipts.check()
        except BaseException:
            shared.receipts.write_failure("the stage", DataPipelineError("it was ended"))
            raise
        found = [shared.receipts.read(task.name) for task in tasks]
        return [receipt.result for receipt in found if receipt is not None]

    def _alone(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run all tasks here, and write receipts for those who look on."""
        shared, rows = self._folder.begin_stage(stage, tasks, None), [0]

        def count(number: int) -> None:
            rows[0] += number
            advance(number)

        results = run_in_order(stage, tasks, count)
        for position, result in enumerate(results):
            shared.receipts.write(Receipt(result, 0 if position else rows[0], self._place.name))
        return results


def follow(folder: CrewFolder, place: WorkerPlace, look: Callable[[], bool] = lambda: False) -> None:
    """Run tasks of each stage that the leader comes to, until it is over.

    Args:
        folder: folder of the crew.
        place: where this process runs.
        look: called while there is nothing to do; ends the work if it returns true.
    """
    done: Path | None = None
    while not folder.is_over:
        present = folder.stages[-1] if folder.stages else None
        if present is None or present == done or not (present / "stage").exists():
            if look():
                return
            time.sleep(_POLL_S)
            continue
        receipts = Receipts(present / "receipts")
        try:
            stage, tasks = pickle.loads((present / "stage").read_bytes())  # noqa: S301  from the leader
            own = stage.for_worker(place)
        except Exception as error:  # noqa: BLE001  every error goes to the leader
            receipts.write_failure(place.name, error)
        else:
            work(own, SharedWork(tasks, present), place.name)
            del stage, own
        done = present


def lead_or_follow(
    folder: CrewFolder, place: WorkerPlace, workers: int, lead: Callable[[Leader], object], stale_s: float
) -> None:
    """Be a member of a crew in which any may lead: the first one does, and after its death another one.

    Args:
        folder: folder of the crew.
        place: where this process runs.
        workers: number of workers of the crew.
        lead: runs all stages with the executor that it gets; what an earlier leader finished is there.
        stale_s: time without a sign of life after which a worker counts as dead, in seconds.

    Raises:
        DataPipelineError: this process led, and a stage failed.
    """
    leases = Leases(folder.path / "leader", stale_s=stale_s)

    def try_to_lead() -> bool:
        with leases.taken("leader") as lease:
            if lease is None or folder.is_over:
                return folder.is_over
            try:
                lead(Leader(folder, place, workers))
            except Exception as error:  # and not if this process alone was told to end: another one leads then
                folder.end(str(error) or type(error).__name__)
                raise
            folder.end()
            return True

    if not try_to_lead():
        follow(folder, place, try_to_lead)


@contextmanager
def _looking_on(shared: SharedWork, advance: Advance, look: Callable[[], object]) -> Iterator[None]:
    """Tell the progress of all workers, and look after them, while a block runs."""
    stop = threading.Event()

    def look_on() -> None:
        told, is_last = 0, False
        while not is_last:
            is_last = stop.wait(_LOOK_S)
            total = shared.progress()
            if total > told:
                advance(total - told)
                told = total
            try:
                if not is_last:
                    look()
            except DataPipelineError as error:
                shared.receipts.write_failure("the other workers", error)

    thread = threading.Thread(target=look_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
