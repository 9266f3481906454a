"""One part of a job: some of its files, and what became of each."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import Embedder, load_embedder
from data_pipeline.errors import DataPipelineError, FilesFailed
from data_pipeline.integrations.ml_filter.inputs import File
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob, embedding_config
from data_pipeline.utils import atomic_write_json

logger = logging.getLogger(__name__)

Job = EmbeddingJob | AnnotationJob


@dataclass(frozen=True)
class FileReport:
    """What became of one file."""

    file: str
    output: str
    rows: int = 0
    skipped: bool = False
    error: str | None = None


def run_part(job: Job, files: Sequence[File], rank: int, world_size: int) -> list[FileReport]:
    """One part of a job: every `world_size`-th file, from number `rank` on. A file that fails does not stop the others.

    Raises:
        ModelError, SourceError: the model or a head cannot be loaded.
    """
    mine = files[rank::world_size]
    if not mine:
        return []
    work = _embedding(job, rank) if isinstance(job, EmbeddingJob) else _annotation(job, rank)
    return [_attempt(work, file) for file in mine]


def _attempt(work: Callable[[File], tuple[int, bool]], file: File) -> FileReport:
    try:
        rows, skipped = work(file)
    except (DataPipelineError, OSError) as error:
        logger.error("FAILED %s: %s", file.path, error)
        # It may quote what no file can hold, half of a surrogate pair.
        message = str(error).encode(errors="backslashreplace").decode()
        return FileReport(str(file.path), str(file.final), error=message)
    logger.info("%s: %d rows%s", file.final, rows, ", finished before" if skipped else "")
    return FileReport(str(file.path), str(file.final), rows, skipped)


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
    """The model, loaded once for all parts that a process does."""
    return _embedder_of(config.model_dump_json())


def device_of(asked: str, rank: int) -> str:
    """`auto` to one of several GPUs by rank; anything else, and `auto` without GPUs, stays as it is."""
    import torch

    if asked == "auto" and torch.cuda.is_available():
        return f"cuda:{rank % torch.cuda.device_count()}"
    return asked


def write_report(job: Job, reports: Sequence[FileReport], logging_dir: Path, seconds: float, part: str = "") -> Path:
    """Write what became of a job, or of a part of it, for people and for scripts."""
    stage = "embedding" if isinstance(job, EmbeddingJob) else "annotation"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = logging_dir / f"{stage}{part}-{stamp}-{os.getpid()}.json"
    content: dict[str, Any] = {
        "job": job.model_dump(mode="json"),
        "seconds": round(seconds, 3),
        "files": [asdict(report) for report in reports],
    }
    atomic_write_json(path, content)
    return path


def check_reports(reports: Sequence[FileReport]) -> None:
    """Raise what failed.

    Raises:
        FilesFailed: one line for each file.
    """
    failed = [report for report in reports if report.error is not None]
    if failed:
        raise FilesFailed(
            f"{len(failed)} of {len(reports)} files failed, the others are done:\n"
            + "\n".join(f"  - {report.file}: {report.error}" for report in failed)
            + "\nRun the same command again when they are mended; what is finished is skipped."
        )
