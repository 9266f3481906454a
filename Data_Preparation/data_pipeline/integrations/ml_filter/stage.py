"""Stage of the file pipelines: one task for each file, which has a record of its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.errors import FilesFailedError
from data_pipeline.integrations.ml_filter.inputs import File
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, embedding_config
from data_pipeline.stages.base import Advance, Task, TaskResult, write_run_record
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
    """Stage that processes the files of a job, each to an output file."""

    job: Job
    files: tuple[File, ...]
    outputs: tuple[()] = ()  # each file has a record of its own, which its task checks
    rows: int = 0
    unit: str = "row"
    process: Callable[[File], tuple[int, bool]] | None = None
    """Function that processes one file with the models of a worker; returns its rows and whether it was skipped."""

    @property
    def name(self) -> str:
        """See `Stage`; also begins the names of reports."""
        return "embedding" if isinstance(self.job, EmbeddingJob) else "annotation"

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return sha256_of_json([self.name, self.job.params.deciding(), [file.name for file in self.files]])

    def tasks(self) -> list[Task]:
        """Return one task for each file."""
        return [Task(str(file.path), index) for index, file in enumerate(self.files)]

    def for_worker(self, rank: int) -> "FilesStage":
        """See `PortableStage`."""
        job = self.job
        work = _embedding(job, rank) if isinstance(job, EmbeddingJob) else _annotation(job, rank)
        return replace(self, process=work)

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Process one file."""
        assert self.process is not None
        rows, skipped = self.process(self.files[task.index])
        advance(rows)
        return TaskResult(task.name, rows, skipped)

    def finish(self, results: Sequence[TaskResult]) -> list[FileReport]:
        """Return the result of each file."""
        outputs = {str(file.path): str(file.final) for file in self.files}
        return [
            FileReport(result.name, outputs[result.name], result.rows, result.skipped, result.error)
            for result in results
        ]

    def write_report(self, results: Sequence[TaskResult], folder: Path, seconds: float, part: str = "") -> Path:
        """See `PortableStage`."""
        content: dict[str, Any] = {
            "job": self.job.model_dump(mode="json"),
            "seconds": round(seconds, 3),
            "files": [asdict(report) for report in self.finish(results)],
        }
        return write_run_record(folder, content, f"{self.name}{part}-")

    def check(self, results: Sequence[TaskResult]) -> None:
        """See `PortableStage`.

        Raises:
            FilesFailedError: one line for each file that failed.
        """
        failed = [result for result in results if result.error is not None]
        if failed:
            raise FilesFailedError(
                f"{len(failed)} of {len(results)} files failed, the others are done:\n"
                + "\n".join(f"  - {result.name}: {result.error}" for result in failed)
                + "\nCorrect them and run the same command again; finished files are skipped."
            )


def _embedding(job: EmbeddingJob, rank: int) -> Callable[[File], tuple[int, bool]]:
    from data_pipeline.integrations.ml_filter.embed import embed_file

    config = embedding_config(job.params)
    if config.threads is not None:
        import torch

        torch.set_num_threads(config.threads)
    embedder = _embedder(config.model_copy(update={"device": device_of(config.device, rank)}))

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


def _annotation(job: AnnotationJob, rank: int) -> Callable[[File], tuple[int, bool]]:
    from data_pipeline.heads.apply import Scorer
    from data_pipeline.heads.files import load_head
    from data_pipeline.integrations.ml_filter.annotate import annotate_file

    params = job.params
    heads = {name: load_head(source) for name, source in params.regression_head_checkpoints.items()}
    device = device_of(params.device, rank)
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


def device_of(asked: str, rank: int) -> str:
    """Return the device of a worker: with `auto`, one of the GPUs by rank; other devices are unchanged."""
    import torch

    if asked == "auto" and torch.cuda.is_available():
        return f"cuda:{rank % torch.cuda.device_count()}"
    return asked
