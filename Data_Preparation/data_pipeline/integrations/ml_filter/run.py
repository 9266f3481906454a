"""Entry points of the two file pipelines, which run in local processes or on a Slurm cluster."""

import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config.execution import LocalSettings
from data_pipeline.execution.engines import new_crew
from data_pipeline.execution.files import run_by_engine, run_on_this_machine
from data_pipeline.integrations.ml_filter.inputs import File, annotation_files, embedding_files
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, read_job
from data_pipeline.integrations.ml_filter.stage import FileReport, FilesStage, Job
from data_pipeline.utils.displays import Displayed


@dataclass(frozen=True, repr=False)
class JobReport(Displayed):
    """Result of running a job."""

    files: list[FileReport]
    """Results of the files of this machine; empty if the job was submitted to Slurm."""
    seconds: float
    slurm_job_id: str | None = None
    logging_dir: Path | None = None

    @property
    def rows(self) -> int:
        """Number of rows of all files, including skipped ones."""
        return sum(report.rows for report in self.files)

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        rows = [("rows", f"{self.rows:,}"), ("files", f"{len(self.files):,}"), ("time", f"{self.seconds:.1f} s")]
        rows += [("Slurm job", self.slurm_job_id)] if self.slurm_job_id else []
        return [*rows, ("reports", str(self.logging_dir))]


def run_embedding_pipeline(config_file_path: Path | EmbeddingJob, overwrite: bool = False) -> JobReport:
    """Embed JSON Lines files, each to an HDF5 file; finished files are skipped.

    Args:
        config_file_path: path of the YAML file, or its parsed content.
        overwrite: whether to replace files that were made with other settings or from another input.

    Raises:
        ConfigError: the file is invalid; the message names each key with its path.
        SourceError, ModelError, MissingExtraError: the input is missing, or the model cannot be loaded.
        FilesFailedError: some files failed; all others were processed.
    """
    job = config_file_path
    if not isinstance(job, EmbeddingJob):
        job = read_job(Path(job), EmbeddingJob)
    return _run(job, embedding_files(job.params), overwrite)


def run_annotation_pipeline(config_file_path: Path | AnnotationJob, overwrite: bool = False) -> JobReport:
    """Score HDF5 files with vectors, each to a JSON Lines file; finished files are skipped.

    Args:
        config_file_path: path of the YAML file, or its parsed content.
        overwrite: whether to replace files that were made with other heads, keys or vectors.

    Raises:
        ConfigError: the file is invalid; the message names each key with its path.
        SourceError, ModelError, MissingExtraError: the input is missing, or a head cannot be loaded.
        FilesFailedError: some files failed; all others were processed.
    """
    job = config_file_path
    if not isinstance(job, AnnotationJob):
        job = read_job(Path(job), AnnotationJob)
    return _run(job, annotation_files(job.params), overwrite)


def _run(job: Job, files: list[File], overwrite: bool) -> JobReport:
    started = time.monotonic()
    if overwrite:
        job = job.model_copy(update={"overwrite": True})
    stage = FilesStage(job, tuple(files))
    slurm_settings, execution = job.slurm_settings, job.execution
    if execution is not None and execution.engine == "slurm":
        slurm_settings = execution.slurm
    settings = slurm_settings or job.local_settings or LocalSettings()
    logging_dir = settings.logging_dir or job.params.output_dir / "logs"
    if slurm_settings is not None:
        from data_pipeline.execution import slurm  # needs datatrove

        job_id = slurm.submit(stage, slurm_settings, logging_dir)
        return JobReport([], time.monotonic() - started, job_id, logging_dir)
    folder = job.params.output_dir / ".crews" / new_crew()
    if execution is not None:
        results = run_by_engine(stage, execution, folder)
    else:
        results = run_on_this_machine(stage, job.local_settings or LocalSettings(), folder)
    stage.write_report(results, logging_dir, time.monotonic() - started)
    stage.check(results)
    return JobReport(stage.finish(results), time.monotonic() - started, None, logging_dir)
