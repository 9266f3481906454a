"""Executor that runs the parts of a stage on this machine, in this process or in several."""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from data_pipeline.config.execution import LocalSettings
from data_pipeline.execution.parts import FilesStage, run_part, tasks_of_part
from data_pipeline.stages.base import TaskResult
from data_pipeline.utils import configure_logging
from data_pipeline.utils.system import usable_cores

logger = logging.getLogger(__name__)


def run_local(stage: FilesStage, settings: LocalSettings) -> list[TaskResult]:
    """Run the parts of this machine; see `LocalSettings`. A failed task does not stop the others.

    Raises:
        ModelError, SourceError: a model cannot be loaded.
    """
    # A part without tasks needs no process.
    ranks = [rank for rank in settings.ranks if rank < len(stage.tasks())]
    workers = min(len(ranks) if settings.workers == -1 else settings.workers, len(ranks))
    if workers <= 1:
        return [result for rank in ranks for result in run_part(stage, rank, settings.tasks)]
    threads = max(1, usable_cores() // workers)
    # Threads of torch and HDF5 do not survive a fork.
    context = multiprocessing.get_context("spawn")
    results: list[TaskResult] = []
    with ProcessPoolExecutor(workers, context, _prepare_worker, (threads,)) as pool:
        waiting = {rank: pool.submit(run_part, stage, rank, settings.tasks) for rank in ranks}
        for rank, future in waiting.items():
            try:
                results += future.result()
            except BrokenProcessPool as error:
                logger.error("part %d: its process died: %s", rank, error)
                reason = "its process, or one beside it, was killed; was there too little memory?"
                results += [TaskResult(task.name, error=reason) for task in tasks_of_part(stage, rank, settings.tasks)]
    return results


def _prepare_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    configure_logging(None)
