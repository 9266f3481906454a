"""Stage that embeds the passages of weak labels, by several workers in blocks of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from data_pipeline.config.labels import LabelConfig
from data_pipeline.embeddings import Embedder, Engine, load_embedder
from data_pipeline.retrieval.passage_vectors import VectorFile, embed_passages, vector_file
from data_pipeline.retrieval.passages import Passages
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, WorkerPlace, run_stage, workers_of
from data_pipeline.stages.embed_workers import block_rows, check_same_model, embedding_at
from data_pipeline.stages.label_inputs import open_passages
from data_pipeline.utils import exclusive


@dataclass(frozen=True)
class PassageEmbeddings:
    """Stage that fills a file with the vectors of all passages.

    Args:
        config: settings of the run, which name passages and embedder.
        file: the file.
        count: number of passages.
        size: number of rows of a task.
        place: where this process runs, as one of several workers.
        opened: passages and embedder, in the process that opened them.
    """

    config: LabelConfig
    file: VectorFile
    count: int
    size: int
    place: WorkerPlace | None = None
    opened: tuple[Passages, Embedder] | None = None
    name: str = "Embedding passages"
    unit: str = "row"
    outputs: tuple[()] = ()
    on_device: bool = True

    @property
    def rows(self) -> int:
        """Number of passages."""
        return self.count

    def fingerprint(self) -> str:
        """Return the name of the file, which has the hashes of passages and embedder."""
        return self.file.path.name

    def tasks(self) -> list[Task]:
        """Return one task for each block of rows."""
        starts = range(0, self.count, self.size)
        return [
            Task(f"passages-{number:06d}", number, (start, min(start + self.size, self.count)))
            for number, start in enumerate(starts)
        ]

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Embed one block, resuming where an earlier run stopped."""
        passages, engine = self._loaded
        assert task.rows is not None
        assert self.config.candidates.embedding is not None
        embed_passages(passages, self.file, engine, self.config.candidates.embedding.flush_s, advance, task.rows)
        return TaskResult(task.name, task.rows[1] - task.rows[0])

    def finish(self, results: Sequence[TaskResult]) -> None:
        """Leave the file as it is; the last worker published it."""

    def portable(self) -> "PassageEmbeddings":
        """Return the stage without what this process has opened."""
        return replace(self, opened=None)

    def for_worker(self, place: WorkerPlace) -> "PassageEmbeddings":
        """Return the stage for a worker, which opens the passages and loads the model with its first block."""
        return self if self.opened is not None else replace(self, place=place)

    @cached_property
    def _loaded(self) -> tuple[Passages, Engine]:
        config = self.config.candidates.embedding
        assert config is not None
        if self.opened is None:
            assert self.place is not None
            passages, embedder = open_passages(self.config), load_embedder(embedding_at(config, self.place))
            check_same_model(embedder.identity.to_metadata(), self.file.metadata, self.place.name)
        else:
            passages, embedder = self.opened
        return passages, Engine(embedder, config.batch_tokens, config.batch_size)

    def __getstate__(self) -> Mapping[str, Any]:
        """Leave out what this process has loaded."""
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


def write_passage_vectors(config: LabelConfig, passages: Passages, embedder: Embedder, execute: Executor) -> None:
    """Write the vectors of all passages that have none, where several workers can share the work.

    Args:
        config: settings of the run.
        passages: its passages.
        embedder: the embedder that the config names.
        execute: runs the tasks.

    Raises:
        ModelError, SourceError: a vector cannot be computed.
    """
    rows, workers = passages.dataset_rows, workers_of(execute)
    has_vectors = rows is not None and rows.source.with_embeddings
    is_local = config.candidates.embedding is not None and not embedder.runtime.remote
    if workers < 2 or has_vectors or not (is_local and config.candidates.needs_vectors):
        return
    file = vector_file(passages, config.indexes_dir, embedder)
    if file.path.exists():
        return
    config.indexes_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(file.path):
        size = block_rows(len(passages), workers, 4 * embedder.identity.dim)
        run_stage(PassageEmbeddings(config, file, len(passages), size, opened=(passages, embedder)), execute=execute)
