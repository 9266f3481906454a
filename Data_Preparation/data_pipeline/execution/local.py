"""A job's parts on this machine, one after the other or in several processes."""

import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from data_pipeline.integrations.ml_filter.inputs import File
from data_pipeline.integrations.ml_filter.jobs import LocalSettings
from data_pipeline.integrations.ml_filter.parts import FileReport, Job, run_part
from data_pipeline.utils import configure_logging
from data_pipeline.utils.system import usable_cores

logger = logging.getLogger(__name__)


def run(job: Job, files: Sequence[File]) -> list[FileReport]:
    """Do the parts of this machine; see `LocalSettings`. A part that fails does not stop the others.

    Raises:
        ModelError, SourceError: the model or a head cannot be loaded.
    """
    settings = job.local_settings or LocalSettings()
    # A part without files needs no process.
    ranks = [rank for rank in settings.ranks if rank < len(files)]
    workers = min(len(ranks) if settings.workers == -1 else settings.workers, len(ranks))
    if workers <= 1:
        return [report for rank in ranks for report in run_part(job, files, rank, settings.tasks)]
    threads = max(1, usable_cores() // workers)
    # Not by fork: threads of torch and of HDF5 do not survive it.
    context = multiprocessing.get_context("spawn")
    reports: list[FileReport] = []
    with ProcessPoolExecutor(workers, context, _prepare, (threads,)) as pool:
        waiting = {rank: pool.submit(run_part, job, files, rank, settings.tasks) for rank in ranks}
        for rank, future in waiting.items():
            try:
                reports += future.result()
            except BrokenProcessPool as error:
                logger.error("part %d: its process died: %s", rank, error)
                reports += [
                    FileReport(
                        str(file.path), str(file.final),
                        error="its process, or one beside it, was killed; was there too little memory?",
                    )
                    for file in files[rank :: settings.tasks]
                ]  # fmt: skip
    return reports


def _prepare(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    configure_logging(None)
