"""Engine that runs the tasks of a stage on a Ray cluster, whose nodes see the data folder.

Names of tasks travel through Ray, never rows or vectors: stages that use a device run in actors of Ray Data, which load
a model once, all others in Ray tasks. What is done is decided by the stages' own files; Ray runs a task again if its
node died, and a task that was finished after all finds its file.
"""

import os
import pickle
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config.execution import RaySettings
from data_pipeline.errors import ConfigError, DataPipelineError
from data_pipeline.execution.crew import CrewFolder
from data_pipeline.execution.worker import Receipt, Receipts
from data_pipeline.stages.base import (
    Advance,
    Stage,
    Task,
    TaskResult,
    WorkerPlace,
    is_portable,
    run_in_order,
    uses_device,
)
from data_pipeline.utils import require

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless somebody asks for it
ray: Any = require("ray", "ray", "execution.engine ray")
ray_data: Any = require("ray.data", "ray", "execution.engine ray")

_START_DEATHS = 10
"""Workers in a row that may die while they start, before the stage has failed."""
_loaded: dict[str, Stage[Any]] = {}
"""The latest stage of this process, by the path of its file."""


class RayEngine:
    """Executor for `stages.base.run_stage`; use it as a context manager.

    Args:
        settings: address of the cluster, and what a worker needs.
        workers: number of workers; None for as many as the cluster has room for.
        folder: folder of receipts that all nodes see, which is removed at the end.

    Raises:
        ConfigError: there is no such cluster, or it has no room for a worker.
    """

    def __init__(self, settings: RaySettings, workers: int | None, folder: Path) -> None:
        self._settings, self._folder = settings, CrewFolder(folder.resolve())
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            # Without an address, Ray would join any cluster of this machine, such as one of another user.
            address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"execution.ray.address {settings.address!r}: {error}") from error
        room = ray.cluster_resources()
        rooms = [room.get("CPU", 0.0) / settings.cpus_per_worker]
        if settings.gpus_per_worker:
            rooms.append(room.get("GPU", 0.0) / settings.gpus_per_worker)
        if min(rooms) < 1:
            raise ConfigError(
                f"the Ray cluster has {room.get('CPU', 0):g} CPUs and {room.get('GPU', 0):g} GPUs, a worker needs "
                f"{settings.cpus_per_worker:g} and {settings.gpus_per_worker:g} (execution.ray)"
            )
        self.workers = workers or int(min(rooms))

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.remove()
        if self._is_ours:
            ray.shutdown()

    def __call__(self, stage: Stage[Any], tasks: Sequence[Task], advance: Advance) -> list[TaskResult]:
        """Run all tasks; an error of a task is raised.

        Raises:
            DataPipelineError: the cluster went away, or lost its workers again and again.
        """
        if len(tasks) <= 1 or not is_portable(stage):
            return run_in_order(stage, tasks, advance)
        shared = self._folder.begin_stage(stage, tasks, pickle.dumps((stage.portable(), tasks)))
        try:
            for name in self._run(shared.folder, len(tasks), uses_device(stage)):
                if (receipt := shared.receipts.read(name)) is not None:
                    advance(receipt.rows)
        except ray.exceptions.RayError as error:
            raise DataPipelineError(
                f"Ray gave up {stage.name}: {str(error).strip()}. Run the same command again; finished work is kept"
            ) from error
        shared.receipts.check()
        found = [shared.receipts.read(task.name) for task in tasks]
        return [receipt.result for receipt in found if receipt is not None]

    def _run(self, folder: Path, count: int, on_device: bool) -> Any:
        """Run the tasks of a stage, and yield their names."""
        settings, path = self._settings, str(folder)
        if on_device:
            context = ray_data.DataContext.get_current()
            context.enable_progress_bars = False
            context.max_consecutive_actor_init_deaths = _START_DEATHS
            numbers = ray_data.from_items(list(range(count)), override_num_blocks=count)
            done = numbers.map_batches(
                _Worker,
                fn_constructor_args=(path, settings.cpus_per_worker),
                batch_size=1,
                num_cpus=settings.cpus_per_worker,
                num_gpus=settings.gpus_per_worker or None,
                compute=ray_data.ActorPoolStrategy(min_size=1, max_size=self.workers),
            )
            for row in done.iter_rows():
                yield row["name"]
            return
        run: Any = ray.remote(num_cpus=settings.cpus_per_worker, max_retries=-1)(_run_task)
        waiting = [run.remote(path, number, settings.cpus_per_worker) for number in range(count)]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)


class _Worker:
    """Actor that runs tasks of a stage, with its model."""

    def __init__(self, folder: str, threads: float) -> None:
        self._folder, self._threads = folder, threads

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"name": [_run_task(self._folder, int(number), self._threads) for number in batch["item"]]}


def _run_task(folder: str, number: int, threads: float) -> str:
    """Run a task by its number, and return its name."""
    receipts = Receipts(Path(folder) / "receipts")
    place = WorkerPlace(f"{socket.gethostname()}-{os.getpid()}", None, max(1, int(threads)))
    stage, tasks = pickle.loads((Path(folder) / "stage").read_bytes())  # noqa: S301  from the process that runs all
    task: Task = tasks[number]
    if receipts.has_failed or receipts.is_done(task.name):
        return task.name
    rows = [0]

    def count(new: int) -> None:
        rows[0] += new

    try:
        if folder not in _loaded:
            _loaded.clear()
            _loaded[folder] = stage.for_worker(place)
        receipts.write(Receipt(_loaded[folder].run(task, count), rows[0], place.name))
    except Exception as error:  # noqa: BLE001  every error goes to the process that waits for the stage
        receipts.write_failure(task.name, error)
    return task.name
