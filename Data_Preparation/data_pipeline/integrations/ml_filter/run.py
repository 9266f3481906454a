"""The two pipelines: a job's files, divided among processes of this machine or a Slurm cluster's."""

import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config.execution import LocalSettings, SlurmSettings
from data_pipeline.execution.local import run_local
from data_pipeline.integrations.ml_filter.inputs import File, annotation_files, embedding_files
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, read_job
from data_pipeline.integrations.ml_filter.stage import FileReport, FilesStage, Job


@dataclass(frozen=True)
class JobReport:
    """What became of a job."""

    files: list[FileReport]
    """Of this machine; none yet where Slurm has the job."""
    seconds: float
    slurm_job_id: str | None = None
    logging_dir: Path | None = None

    @property
    def rows(self) -> int:
        """Of all files, those that were finished before included."""
        return sum(report.rows for report in self.files)


def run_embedding_pipeline(config_file_path: Path | EmbeddingJob, overwrite: bool = False) -> JobReport:
    """JSON Lines -> HDF5 files with vectors, one each; finished files are skipped.

    Args:
        config_file_path: a YAML file, or what is in it.
        overwrite: make files again that were made with other settings, or from another input.

    Raises:
        ConfigError: the file is wrong; each key with its path.
        SourceError, ModelError, MissingExtraError: there is nothing to read, or no model.
        FilesFailedError: some files could not be done; all others were.
    """
    job = config_file_path
    if not isinstance(job, EmbeddingJob):
        job = read_job(Path(job), EmbeddingJob)
    return _run(job, embedding_files(job.params), overwrite)


def run_annotation_pipeline(config_file_path: Path | AnnotationJob, overwrite: bool = False) -> JobReport:
    """HDF5 files with vectors -> JSON Lines with scores, one each; finished files are skipped.

    Args:
        config_file_path: a YAML file, or what is in it.
        overwrite: make files again that were made with other heads, keys or vectors.

    Raises:
        ConfigError: the file is wrong; each key with its path.
        SourceError, ModelError, MissingExtraError: there is nothing to read, or a head cannot be loaded.
        FilesFailedError: some files could not be done; all others were.
    """
    job = config_file_path
    if not isinstance(job, AnnotationJob):
        job = read_job(Path(job), AnnotationJob)
    return _run(job, annotation_files(job.params), overwrite)


def _run(job: Job, files: list[File], overwrite: bool) -> JobReport:
    started = time.monotonic()
    if overwrite:
        job = job.model_copy(update={"overwrite": True})
    settings = job.slurm_settings or job.local_settings or LocalSettings()
    logging_dir = settings.logging_dir or job.params.output_dir / "logs"
    stage = FilesStage(job, tuple(files))
    if isinstance(settings, SlurmSettings):
        from data_pipeline.execution import slurm  # needs datatrove

        job_id = slurm.submit(stage, settings, logging_dir)
        return JobReport([], time.monotonic() - started, job_id, logging_dir)
    results = run_local(stage, settings)
    stage.write_report(results, logging_dir, time.monotonic() - started)
    stage.check(results)
    return JobReport(stage.finish(results), time.monotonic() - started, None, logging_dir)
