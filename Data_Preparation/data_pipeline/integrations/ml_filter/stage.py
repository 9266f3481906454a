"""Stage of the file pipelines: one task for each file, which has a record of its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.errors import DataPipelineError, FilesFailedError
from data_pipeline.integrations.ml_filter.inputs import File
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, embedding_config
from data_pipeline.stages.base import Advance, Task, TaskResult, WorkerPlace, write_run_record
from data_pipeline.stages.embed_workers import embedding_at
from data_pipeline.utils import sha256_of_json

logger = logging.getLogger(__name__)

Job = EmbeddingJob | AnnotationJob


@dataclass(frozen=True)
class FileReport:
    """Result of processing one file."""

    file: str
    output: str
    rows: int = 0
    skipped: bool = False
    error: str | None = None


@dataclass(frozen=True)
class FilesStage:
    """Stage that processes the files of a job, each to an output file.

    Args:
        job: the job.
        files: input and output files.
        place: where this process runs, as one of several workers; None for the only one.
    """

    job: Job
    files: tuple[File, ...]
    place: WorkerPlace | None = None
    outputs: tuple[()] = ()  # each file has a record of its own, which its task checks
    rows: int = 0
    unit: str = "row"
    on_device: bool = True
    fails_alone: bool = True

    @property
    def name(self) -> str:
        """See `Stage`; also begins the names of reports."""
        return "embedding" if isinstance(self.job, EmbeddingJob) else "annotation"

    @property
    def device(self) -> str:
        """Torch device that the job asks for."""
        job = self.job
        return embedding_config(job.params).device if isinstance(job, EmbeddingJob) else job.params.device

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return sha256_of_json([self.name, self.job.params.deciding(), [file.name for file in self.files]])

    def tasks(self) -> list[Task]:
        """Return one task for each file."""
        return [Task(f"file-{index:06d}", index) for index in range(len(self.files))]

    def portable(self) -> "FilesStage":
        """Return the stage without what this process has loaded."""
        return replace(self, place=None)

    def for_worker(self, place: WorkerPlace) -> "FilesStage":
        """Return the stage for a worker, which loads its models with the first file."""
        return replace(self, place=place)

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Process one file.

        Raises:
            ModelError, SourceError: a model cannot be loaded.
        """
        file, process = self.files[task.index], self._process
        try:
            rows, skipped = process(file)
        except (DataPipelineError, OSError) as error:
            logger.error("FAILED %s: %s", file.path, error)
            # The message may quote lone surrogates, which no file can store.
            return TaskResult(task.name, error=str(error).encode(errors="backslashreplace").decode())
        logger.info("%s: %d rows%s", file.path, rows, ", finished before" if skipped else "")
        advance(rows)
        return TaskResult(task.name, rows, skipped)

    def finish(self, results: Sequence[TaskResult]) -> list[FileReport]:
        """Return the result of each file."""
        files = {task.name: self.files[task.index] for task in self.tasks()}
        return [
            FileReport(
                str(files[result.name].path), str(files[result.name].final), result.rows, result.skipped, result.error
            )
            for result in results
        ]

    @cached_property
    def _process(self) -> Callable[[File], tuple[int, bool]]:
        """Function that processes one file with the models of this process; returns its rows, and if it was skipped."""
        return (
            _embedding(self.job, self.place)
            if isinstance(self.job, EmbeddingJob)
            else _annotation(self.job, self.place)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the models."""
        return {name: value for name, value in self.__dict__.items() if name != "_process"}

    def write_report(self, results: Sequence[TaskResult], folder: Path, seconds: float) -> Path:
        """Write the report of a run, and return its path."""
        content: dict[str, Any] = {
            "job": self.job.model_dump(mode="json"),
            "seconds": round(seconds, 3),
            "files": [asdict(report) for report in self.finish(results)],
        }
        return write_run_record(folder, content, f"{self.name}-")

    def check(self, results: Sequence[TaskResult]) -> None:
        """Check that no file failed.

        Raises:
            FilesFailedError: one line for each file that failed.
        """
        failed = [report for report in self.finish(results) if report.error is not None]
        if failed:
            raise FilesFailedError(
                f"{len(failed)} of {len(results)} files failed, the others are done:\n"
                + "\n".join(f"  - {report.file}: {report.error}" for report in failed)
                + "\nCorrect them and run the same command again; finished files are skipped."
            )


def _embedding(job: EmbeddingJob, place: WorkerPlace | None) -> Callable[[File], tuple[int, bool]]:
    from data_pipeline.integrations.ml_filter.embed import embed_file

    config = embedding_config(job.params)
    if place is not None:
        config = embedding_at(config, place)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    embedder = _embedder(config)

    def work(file: File) -> tuple[int, bool]:
        done = embed_file(file.path, file.name, file.final, embedder, job.params, job.overwrite)
        for count, what in (
            (done.truncated, "texts were cut to the maximum length"),
            (done.without_label, "records have no label"),
        ):
            if count:
                logger.info("%s: %d %s", file.name, count, what)
        return done.rows, done.skipped

    return work


def _annotation(job: AnnotationJob, place: WorkerPlace | None) -> Callable[[File], tuple[int, bool]]:
    from data_pipeline.heads.apply import Scorer
    from data_pipeline.heads.files import load_head
    from data_pipeline.integrations.ml_filter.annotate import annotate_file
    from data_pipeline.utils.devices import device_of_worker

    params = job.params
    heads = {name: load_head(source) for name, source in params.regression_head_checkpoints.items()}
    device = (place.device if place else None) or device_of_worker(params.device, 0) or params.device
    scorer = Scorer(heads, "cpu" if device == "auto" else device)

    def work(file: File) -> tuple[int, bool]:
        done = annotate_file(file.path, file.final, scorer, params, job.overwrite)
        return done.rows, done.skipped

    return work


@lru_cache(maxsize=1)
def _embedder_of(config_json: str) -> Embedder:
    return load_embedder(EmbeddingConfig.model_validate_json(config_json))


def _embedder(config: EmbeddingConfig) -> Embedder:
    """Load the model once for all tasks of a process."""
    return _embedder_of(config.model_dump_json())
