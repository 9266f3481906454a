"""The main pipeline on Slurm: job arrays whose tasks are the workers of a crew, submitted by datatrove.

    elm-paragraphs   array of CPU tasks: they make the paragraphs
    elm-vectors      array of tasks, with GPUs if they are asked for, that waits for the first one: they embed

Each task is a whole worker: it takes tasks of the pipeline's own stages until none is left, and leads the others if
their leader died (see `crew`). So any number of tasks may be lost, requeued or added, and nothing but our own files
decides what is done.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.config import Config
from data_pipeline.config.execution import SlurmSettings
from data_pipeline.errors import ConfigError
from data_pipeline.execution.crew import CrewFolder, Leader, lead_or_follow
from data_pipeline.execution.engines import publishing
from data_pipeline.execution.leases import STALE_S
from data_pipeline.execution.slurm import submit_step
from data_pipeline.stages import pipeline
from data_pipeline.stages.base import WorkerPlace, run_timestamp
from data_pipeline.types import SPLITS, Split
from data_pipeline.utils import configure_logging, require
from data_pipeline.utils.urls import without_secrets
from data_pipeline.working_copy.opened import published

require("datatrove", "annotation", "running on Slurm")
from datatrove.pipeline.base import PipelineStep  # noqa: E402

logger = logging.getLogger(__name__)

Part = Literal["paragraphs", "vectors"]


@dataclass(frozen=True)
class RunArguments:
    """What a run is to do."""

    skip_download: bool = False
    skip_embeddings: bool = False
    overwrite: bool = False
    splits: Sequence[Split] = SPLITS


@dataclass(frozen=True)
class SubmittedJob:
    """Job array that was submitted."""

    name: str
    job_id: str
    logs: Path
    """Folder of its logs."""


class CrewStep(PipelineStep):
    """Step of datatrove's pipeline whose ranks are the workers of a crew."""

    type = "files"

    def __init__(self, config: Config, part: Part, arguments: RunArguments, folder: Path, threads: int) -> None:
        super().__init__()
        self.name = part
        self._config, self._part, self._arguments = config, part, arguments
        self._folder, self._threads = folder, threads

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Work until nothing is left; datatrove marks the rank as failed if this raises an error."""
        del data
        configure_logging(None)
        place = WorkerPlace(f"worker-{rank}", None, self._threads)
        lead_or_follow(CrewFolder(self._folder), place, world_size, self._lead, STALE_S)
        yield from ()

    def _lead(self, leader: Leader) -> None:
        config, arguments = self._config, self._arguments
        with published(config, self._folder.name) as publisher:
            execute = publishing(leader, publisher)
            if self._part == "paragraphs":
                report = pipeline.prepare_paragraphs(config, arguments.skip_download, arguments.overwrite, execute)
            else:
                report = pipeline.embed_and_encode(config, arguments.splits, arguments.overwrite, execute)
            pipeline.save_run(config, report)


def submit_run(config: Config, arguments: RunArguments, parts: Sequence[Part]) -> list[SubmittedJob]:
    """Submit the parts of a run, each of which waits for the one before.

    Args:
        config: settings; `execution.slurm` describes the jobs.
        arguments: what is to be done.
        parts: parts, in order.

    Returns:
        The jobs, in order.

    Raises:
        ConfigError: a URL holds a secret, which would be stored with the job.
        DataPipelineError: Slurm is not installed or rejects a job.
    """
    urls = [("corpus.path", path) for path in config.corpus.path] + [("data_url", config.data_url or "")]
    for setting, url in urls:
        if without_secrets(url) != url:
            raise ConfigError(
                f"{setting}: {without_secrets(url)} was given with a secret in it, which a job would store in a "
                "file. Give it to the nodes by environment variables of its protocol instead"
            )
    name, jobs = run_timestamp(), list[SubmittedJob]()
    for part in parts:
        settings = _settings_of(config, part)
        if jobs:
            settings = settings.model_copy(update={"depends_job_id": jobs[-1].job_id})
        folder = config.crews_dir.resolve() / f"{name}-{part}"
        own = config.model_copy(update={"data_dir": config.data_dir.resolve(), "logs_dir": config.logs_dir.resolve()})
        step = CrewStep(own, part, arguments, folder, settings.cpus_per_task)
        logs = (settings.logging_dir or config.logs_dir).resolve() / f"slurm-{name}-{part}"
        jobs.append(SubmittedJob(part, submit_step(step, settings, logs, f"elm-{part}"), logs))
    return jobs


def _settings_of(config: Config, part: Part) -> SlurmSettings:
    settings = config.execution.slurm
    if part == "vectors" and config.execution.slurm_vectors is not None:
        settings = config.execution.slurm_vectors
    return settings
