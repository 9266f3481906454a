"""Settings of engines: processes on this machine, or a Slurm cluster."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from data_pipeline.config.base import Section, setting

SlurmArguments = dict[str, str | int | float | bool | None]


class LocalSettings(Section):
    """Processes on this machine, and on others that share the folders."""

    tasks: int = Field(1, ge=1)
    """Number of tasks that the files are divided into, over all machines."""
    local_tasks: int = Field(-1, ge=-1)
    """Number of tasks that this machine runs; -1: all from local_rank_offset on."""
    local_rank_offset: int = Field(0, ge=0)
    """Rank of the first task that this machine runs."""
    workers: int = Field(-1, ge=-1)
    """Number of tasks that run at the same time; -1: all."""
    logging_dir: Path | None = None
    """Folder of logs and reports; none: <output_dir>/logs."""

    @property
    def ranks(self) -> range:
        """Ranks of the tasks that this machine runs."""
        count = self.tasks - self.local_rank_offset if self.local_tasks == -1 else self.local_tasks
        return range(self.local_rank_offset, self.local_rank_offset + count)

    @model_validator(mode="after")
    def _ranks_are_valid(self) -> Self:
        if self.workers == 0 or self.local_tasks == 0:
            raise ValueError("workers and local_tasks must be 1 or more, or -1")
        if self.local_rank_offset + max(1, self.local_tasks) > self.tasks:
            raise ValueError(
                f"local_rank_offset + local_tasks = {self.local_rank_offset + max(1, self.local_tasks)} "
                f"goes beyond tasks = {self.tasks}"
            )
        return self


# Older configuration files of ML-Filter have these arguments of sbatch at the level of the settings.
_SBATCH_ARGUMENTS = ("nodes", "ntasks", "ntasks_per_node", "gres", "mem_per_gpu")


class SlurmSettings(Section):
    """Job array on a Slurm cluster, submitted by datatrove's executor."""

    @model_validator(mode="before")
    @classmethod
    def _take_sbatch_arguments(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        moved = {name: settings[name] for name in _SBATCH_ARGUMENTS if name in settings}
        others = {name: value for name, value in settings.items() if name not in moved}
        return {**others, "sbatch_args": {**moved, **(others.get("sbatch_args") or {})}} if moved else settings

    tasks: int = Field(1, ge=1)
    """Number of tasks that the files are divided into."""
    time: str = "00:30:00"
    """Time limit of a task, as Slurm writes it."""
    partition: str = "default"
    """Partition of the cluster."""
    cpus_per_task: int = Field(4, ge=1)
    """Number of CPU cores per task."""
    mem_per_cpu_gb: int = Field(8, ge=1)
    """Memory per CPU core, in GB."""
    gpus_per_task: int = Field(0, ge=0)
    """Number of GPUs per task."""
    workers: int = Field(-1, ge=-1)
    """Maximum number of tasks at the same time; -1: no limit."""
    job_name: str | None = None
    """Name of the job; none: embedding_pipeline or annotation_pipeline."""
    qos: str = "normal"
    """Quality of service of the job; empty: not requested."""
    account: str | None = None
    """Account that the time is charged to."""
    env_command: str | None = None
    """Shell command that makes this package available on a node; none: the submitting environment is used."""
    condaenv: str | None = None
    """Conda environment to activate on a node, instead of env_command."""
    venv_path: str | None = None
    """Activation script of a virtual environment, instead of env_command."""
    output: str | None = None
    """Log file of Slurm; none: in logging_dir."""
    error: str | None = None
    """Error file of Slurm; none: the log file."""
    sbatch_args: SlurmArguments = Field(default_factory=dict)
    """Further arguments of sbatch, with underscores for hyphens."""
    srun_args: SlurmArguments = Field(default_factory=dict)
    """Further arguments of srun, with underscores for hyphens."""
    logging_dir: Path | None = None
    """Folder of logs and reports; none: <output_dir>/logs."""
    slurm_logs_folder: Path | None = None
    """Folder of the log files of Slurm; none: in logging_dir."""
    max_array_size: int = Field(1001, ge=-1)
    """Maximum size of a job array on the cluster."""
    max_array_launch_parallel: bool = False
    """Launch several job arrays at once if the tasks do not fit into one."""
    stagger_max_array_jobs: int = Field(0, ge=0)
    """Delay between the launches of two job arrays, in seconds."""
    tasks_per_job: int = Field(1, ge=1)
    """Number of tasks that one job of the array runs one after the other."""
    randomize_start_duration: int = Field(0, ge=0)
    """Range of the random delay before a task starts, in seconds."""
    skip_completed: bool = True
    """Accepted without effect: finished files are always skipped."""
    depends_job_id: str | None = None
    """Id of the job that this job waits for."""
    run_on_dependency_fail: bool = False
    """Start even if the job waited for has failed."""
    requeue: bool = True
    """Let Slurm restart a task after a node has failed."""
    requeue_signals: list[str] | str | None = "SIGUSR1"
    """Signals on which a task asks to be requeued."""
    mail_type: str = "ALL"
    """Events that Slurm sends mail about."""
    mail_user: str | None = None
    """Address that Slurm sends mail to."""


class RaySettings(Section):
    """Ray cluster whose nodes see the data folder."""

    address: str | None = setting(None, decides=False)
    """Address of the cluster, such as auto or ray://host:10001; none: that of RAY_ADDRESS, or a new one on this
    machine."""
    cpus_per_worker: float = setting(1.0, decides=False, gt=0)
    """CPUs of a worker."""
    gpus_per_worker: float = setting(0.0, decides=False, ge=0)
    """GPUs of a worker that runs a model; a part of one is possible."""


class ExecutionConfig(Section):
    """Engine that runs the tasks of stages, and how many workers there are; it changes no byte of any output."""

    engine: Literal["auto", "inline", "local", "slurm", "ray"] = setting("auto", decides=False)
    """Engine. inline: one process; local: several on this machine; auto: local if there are several workers; slurm: job
    arrays on a Slurm cluster, which `elm run` and `elm embed` submit; ray: a Ray cluster."""
    workers: int | None = setting(None, decides=False, ge=1)
    """Number of worker processes; none: one for each device, or one."""
    devices: tuple[str, ...] = setting((), decides=False)
    """Torch devices, one for each worker (cuda:0 cuda:2), or all for every GPU; none: embedding.device."""
    ray: RaySettings = setting(RaySettings(), decides=False)
    """Cluster of the engine ray."""
    slurm: SlurmSettings = setting(SlurmSettings(), decides=False)
    """Job array of the engine slurm, whose tasks are the workers."""
    slurm_vectors: SlurmSettings | None = setting(None, decides=False)
    """Job array that computes the vectors, with GPUs for example; none: the same as slurm."""

    @field_validator("devices", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            return value
        return tuple(part.strip() for name in names for part in name.split(",") if part.strip())

    @field_validator("devices")
    @classmethod
    def _devices_differ(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        gpus = [device for device in devices if device != "cpu"]
        if len(set(gpus)) < len(gpus) or ("all" in devices and len(devices) > 1):
            raise ValueError(f"{', '.join(devices)}: name each device once, or all alone")
        return devices
