"""Settings of executors: processes on this machine, or a Slurm cluster."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from data_pipeline.config.base import Section

SlurmArguments = dict[str, str | int | float | bool | None]


class LocalSettings(Section):
    """Processes on this machine, and on others that share the folders."""

    tasks: int = Field(1, ge=1)
    """Into how many parts the files are divided, over all machines."""
    local_tasks: int = Field(-1, ge=-1)
    """How many of the parts this machine does; -1: all from local_rank_offset on."""
    local_rank_offset: int = Field(0, ge=0)
    """The first part that this machine does."""
    workers: int = Field(-1, ge=-1)
    """Parts done at the same time; -1: all."""
    logging_dir: Path | None = None
    """Reports of the run; none: <output_dir>/logs."""

    @property
    def ranks(self) -> range:
        """The parts this machine does."""
        count = self.tasks - self.local_rank_offset if self.local_tasks == -1 else self.local_tasks
        return range(self.local_rank_offset, self.local_rank_offset + count)

    @model_validator(mode="after")
    def _parts_are_there(self) -> Self:
        if self.workers == 0 or self.local_tasks == 0:
            raise ValueError("workers and local_tasks must be 1 or more, or -1")
        if self.local_rank_offset + max(1, self.local_tasks) > self.tasks:
            raise ValueError(
                f"local_rank_offset + local_tasks = {self.local_rank_offset + max(1, self.local_tasks)} "
                f"goes beyond tasks = {self.tasks}"
            )
        return self


# Arguments of sbatch that older files of ML-Filter have beside the settings.
_SBATCH_ARGUMENTS = ("nodes", "ntasks", "ntasks_per_node", "gres", "mem_per_gpu")


class SlurmSettings(Section):
    """A job array on a Slurm cluster, by datatrove's executor."""

    @model_validator(mode="before")
    @classmethod
    def _take_sbatch_arguments(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        moved = {name: settings[name] for name in _SBATCH_ARGUMENTS if name in settings}
        others = {name: value for name, value in settings.items() if name not in moved}
        return {**others, "sbatch_args": {**moved, **(others.get("sbatch_args") or {})}} if moved else settings

    tasks: int = Field(1, ge=1)
    """Into how many parts the files are divided."""
    time: str = "00:30:00"
    """Limit of a part."""
    partition: str = "default"
    """Where it runs."""
    cpus_per_task: int = Field(4, ge=1)
    """Cores of a part."""
    mem_per_cpu_gb: int = Field(8, ge=1)
    """Memory of a core, in GB."""
    gpus_per_task: int = Field(0, ge=0)
    """GPUs of a part."""
    workers: int = Field(-1, ge=-1)
    """Parts at the same time; -1: as many as Slurm gives."""
    job_name: str | None = None
    """none: embedding_pipeline or annotation_pipeline."""
    qos: str = "normal"
    """Quality of service; empty for none."""
    account: str | None = None
    """Whom the time is charged to."""
    env_command: str | None = None
    """Shell line that makes this package available on a node; none: the environment that submits."""
    condaenv: str | None = None
    """Instead: a conda environment."""
    venv_path: str | None = None
    """Instead: the activate script of a venv."""
    output: str | None = None
    """Slurm's log file; none: in logging_dir."""
    error: str | None = None
    """Slurm's error file; none: the log file."""
    sbatch_args: SlurmArguments = Field(default_factory=dict)
    """Further arguments of sbatch; underscores become hyphens."""
    srun_args: SlurmArguments = Field(default_factory=dict)
    """Further arguments of srun; underscores become hyphens."""
    logging_dir: Path | None = None
    """Logs and reports; none: <output_dir>/logs."""
    slurm_logs_folder: Path | None = None
    """Slurm's log files; none: in logging_dir."""
    max_array_size: int = Field(1001, ge=-1)
    """Largest job array of the cluster."""
    max_array_launch_parallel: bool = False
    """Several arrays at once, where one is too small."""
    stagger_max_array_jobs: int = Field(0, ge=0)
    """Seconds between them."""
    tasks_per_job: int = Field(1, ge=1)
    """Parts of one job of the array, one after the other."""
    randomize_start_duration: int = Field(0, ge=0)
    """Seconds over which the parts' beginnings are spread."""
    skip_completed: bool = True
    """Accepted, and without effect: what is finished is known by file, and always skipped."""
    depends_job_id: str | None = None
    """Begin after this job."""
    run_on_dependency_fail: bool = False
    """Also if it failed."""
    requeue: bool = True
    """Let Slurm start a part again after a failed node."""
    requeue_signals: list[str] | str | None = "SIGUSR1"
    """Signals upon which a part asks to be started again."""
    mail_type: str = "ALL"
    """What mails are about."""
    mail_user: str | None = None
    """Where they go."""
