"""Slurm job arrays, submitted by datatrove, and the step of them that runs the files of a stage."""

import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.config.execution import SlurmSettings
from data_pipeline.errors import ConfigError, DataPipelineError
from data_pipeline.execution.crew import CrewFolder, Leader, lead_or_follow
from data_pipeline.execution.files import FilesStage
from data_pipeline.execution.leases import STALE_S
from data_pipeline.stages.base import WorkerPlace, run_timestamp
from data_pipeline.utils import configure_logging, require

require("datatrove", "annotation", "running on Slurm")
from datatrove.executor.slurm import SlurmPipelineExecutor  # noqa: E402
from datatrove.pipeline.base import PipelineStep  # noqa: E402

logger = logging.getLogger(__name__)


class StageStep(PipelineStep):
    """Step of datatrove's pipeline whose ranks are the workers of a crew, which runs the files of a stage."""

    type = "files"

    def __init__(self, stage: FilesStage, folder: Path, threads: int) -> None:
        super().__init__()
        self.name = stage.name
        self._stage, self._folder, self._threads = stage, folder, threads

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Work until nothing is left; datatrove marks the rank as failed if this raises an error."""
        from data_pipeline.utils.devices import device_of_worker  # needs torch

        del data
        configure_logging(None)
        place = WorkerPlace(f"worker-{rank}", device_of_worker(self._stage.device, rank), self._threads)
        lead_or_follow(CrewFolder(self._folder / "crew"), place, world_size, self._lead, STALE_S)
        yield from ()

    def _lead(self, leader: Leader) -> None:
        started = time.monotonic()
        results = leader(self._stage, self._stage.tasks(), lambda rows: None)
        self._stage.write_report(results, self._folder, time.monotonic() - started)
        self._stage.check(results)
        self.stat_update("rows", value=sum(result.rows for result in results))


class _Executor(SlurmPipelineExecutor):
    def launch_merge_stats(self) -> None:
        """Skip this job: parts write their own reports, and it would wait forever for a failed part."""

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """Correct srun flags without a value: datatrove writes `--exact=`, which srun rejects."""
        run_script = re.sub(r"(?<=\s)(--[\w-]+)=(?=\s)", r"\1", run_script)
        return str(super().get_launch_file_contents(sbatch_args, run_script))


def submit(stage: FilesStage, settings: SlurmSettings, logging_dir: Path) -> str:
    """Submit a stage to Slurm.

    Returns:
        The id of the job.

    Raises:
        ConfigError: the path of the log folder has white space.
        DataPipelineError: Slurm is not installed or rejects the job.
    """
    # A new folder for each submission, since receipts of other inputs must not count.
    folder = logging_dir.resolve() / f"{stage.name}-slurm-{run_timestamp()}"
    return submit_step(StageStep(stage, folder, settings.cpus_per_task), settings, folder, f"{stage.name}_pipeline")


def submit_step(step: PipelineStep, settings: SlurmSettings, folder: Path, name: str) -> str:
    """Submit a step of datatrove's pipeline as a job array.

    Args:
        step: the step, each of whose ranks is a task of the array.
        settings: description of the job.
        folder: new folder for logs.
        name: name of the job, if the settings have none.

    Returns:
        The id of the job.

    Raises:
        ConfigError: the path of the log folder has white space.
        DataPipelineError: Slurm is not installed or rejects the job.
    """
    if len(str(folder).split()) != 1:
        raise ConfigError(f"logging_dir {folder}: Slurm's script cannot have white space in this path")
    executor = _Executor(
        pipeline=[step],
        job_name=settings.job_name or name,
        logging_dir=str(folder),
        skip_completed=False,  # finished files are skipped instead of parts
        **_arguments(settings),
    )
    try:
        executor.run()
    except FileNotFoundError as error:
        raise DataPipelineError(
            f"Slurm is not installed on this machine: {error}. Run this on a login node of the cluster, or choose "
            "another execution.engine. Set running_on_slurm: false in a file of ML-Filter."
        ) from error
    except subprocess.CalledProcessError as error:
        raise DataPipelineError(f"Slurm did not take the job: {error}. Its message is above.") from error
    logger.info("Submitted to Slurm as job %s; logs and reports: %s", executor.job_id, folder)
    return str(executor.job_id)


_SAME_NAME = (
    "tasks", "time", "partition", "cpus_per_task", "mem_per_cpu_gb", "gpus_per_task", "workers", "qos", "condaenv",
    "venv_path", "max_array_size", "max_array_launch_parallel", "stagger_max_array_jobs", "tasks_per_job",
    "randomize_start_duration", "depends_job_id", "run_on_dependency_fail", "requeue", "mail_type", "mail_user",
)  # fmt: skip


def _arguments(settings: SlurmSettings) -> dict[str, Any]:
    """Return the arguments of the executor of datatrove."""
    arguments = {name: getattr(settings, name) for name in _SAME_NAME}
    signals = settings.requeue_signals
    arguments["requeue_signals"] = [signals] if isinstance(signals, str) else signals
    arguments["slurm_logs_folder"] = str(settings.slurm_logs_folder) if settings.slurm_logs_folder else None
    named = {"account": settings.account, "output": settings.output, "error": settings.error}
    arguments["sbatch_args"] = {name: value for name, value in named.items() if value} | _dashed(settings.sbatch_args)
    arguments["srun_args"] = _dashed(settings.srun_args)
    arguments["env_command"] = settings.env_command
    if not (settings.env_command or settings.condaenv or settings.venv_path):
        # The submitting environment may not be activated.
        arguments["env_command"] = f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH"
    return arguments


def _dashed(arguments: Mapping[str, Any]) -> dict[str, str]:
    """`{"mem_per_gpu": 4, "exclusive": True}` -> `{"mem-per-gpu": "4", "exclusive": ""}`, without false and null."""
    return {
        name.replace("_", "-"): "" if value is True else str(value)
        for name, value in arguments.items()
        if value is not None and value is not False
    }
