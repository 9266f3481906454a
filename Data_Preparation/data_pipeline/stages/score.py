"""Stage that scores embeddings by heads, written to `data/scores/<head>/{split}.parquet`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from data_pipeline.config import Config, FolderName
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.heads.apply import Scorer, column_names
from data_pipeline.heads.files import head_sha256
from data_pipeline.heads.identity import check_identity, identity_settings
from data_pipeline.heads.model import Head
from data_pipeline.stages.base import Advance, Executor, Task, TaskResult, WorkerPlace, run_in_order, run_stages
from data_pipeline.stages.score_output import ScoreOutput
from data_pipeline.store import ScoreWriter, open_scores
from data_pipeline.store.access.mapped_files import release
from data_pipeline.store.manifest import ScoreManifest, read_manifest_to_replace
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.types import SPLITS, Split
from data_pipeline.utils import sha256_of_json
from data_pipeline.utils.displays import Displayed
from data_pipeline.utils.system import same_file_names

_BLOCK_ROWS = 8192  # of vectors at a time


@dataclass(frozen=True, repr=False)
class ScoredSplit(Displayed):
    """Result of scoring one split."""

    rows: int
    columns: list[str]
    skipped: bool
    """Whether an earlier run finished all heads."""

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        done = ", finished before" if self.skipped else ""
        return [("rows", f"{self.rows:,}{done}"), ("columns", ", ".join(self.columns))]


def annotate(
    config: Config,
    heads: Mapping[str, Head],
    splits: Sequence[Split] = SPLITS,
    overwrite: bool = False,
    device: str = "cpu",
    execute: Executor = run_in_order,
) -> dict[Split, ScoredSplit]:
    """Score the paragraphs of a corpus by all heads, reading the vectors once.

    Finished files are skipped, so a killed run resumes at its unfinished file.

    Args:
        config: configuration with the folders, the corpus and the variant.
        heads: heads by name, which is also the name of the folder and of the column.
        splits: splits to score.
        overwrite: whether to replace scores of other heads or other embeddings.
        device: device that computes the scores.
        execute: runs the tasks.

    Raises:
        ConfigError: a name is not valid for a folder or a column.
        WrongEmbedderError: a head was trained on vectors of another embedder.
        StaleStageError: other scores exist under the same name, and `overwrite` is false.
        StoreError: the embeddings are missing or damaged.
    """
    _check_names(heads)
    scorer = Scorer(heads, device)

    def stages() -> Iterator[HeadScores]:
        for name in heads:
            read_manifest_to_replace(config.scores_dir / name, overwrite, ScoreManifest)
        for split in splits:
            yield _open_stage(config, scorer, split)

    scored = run_stages(stages(), config.scores_dir, overwrite=overwrite, execute=execute)
    return dict(zip(splits, scored, strict=True))


@dataclass(frozen=True)
class HeadScores:
    """Stage that scores all rows of a split by any number of heads."""

    source: Rows
    scorer: Scorer
    outputs: Sequence[ScoreOutput]
    """Outputs of the heads, in the order of the scorer."""
    unit: str = "row"

    @property
    def name(self) -> str:
        """Activity of the stage, for the progress bar."""
        return f"Scoring {self.source.source.split}"

    @property
    def rows(self) -> int:
        """Number of rows of the split."""
        return len(self.source)

    def fingerprint(self) -> str:
        """Compute the fingerprint of the outputs."""
        return sha256_of_json([output.fingerprint for output in self.outputs])

    def tasks(self) -> list[Task]:
        """Return one task for each paragraph shard that a head has not scored yet."""
        tasks = {task.index: task for output in self.outputs for task in output.tasks()}
        return [tasks[index] for index in sorted(tasks)]

    def portable(self) -> Self:
        """Return the stage; other processes open the vectors for themselves."""
        return self

    def for_worker(self, place: WorkerPlace) -> Self:
        """Return the stage with the heads on the device of a worker."""
        if place.device in (None, str(self.scorer.device)):
            return self
        return replace(self, scorer=Scorer(self.scorer.heads, str(place.device)))

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Score one shard by the heads whose file does not exist yet."""
        paragraphs = self.source.source.paragraphs[task.index]
        waiting = [output for output in self.outputs if not output.is_written(task.index)]
        if not waiting:
            advance(paragraphs.rows)
            return TaskResult(task.name, paragraphs.rows, skipped=True)
        writers: list[ScoreWriter] = []
        try:
            writers += [output.writer(task.index) for output in waiting]
            self._write(task.index, waiting, writers, advance)
            for writer in writers:
                writer.finish()
        except BaseException:
            for writer in writers:
                writer.abandon()
            raise
        return TaskResult(task.name, paragraphs.rows)

    def finish(self, results: Sequence[TaskResult]) -> ScoredSplit:
        """Write the manifest of every head."""
        if results:
            for output in self.outputs:
                output.publish()
        return ScoredSplit(len(self.source), self.scorer.columns, skipped=not results)

    def _write(
        self, index: int, waiting: Sequence[ScoreOutput], writers: Sequence[ScoreWriter], advance: Advance
    ) -> None:
        heads = {output.folder.name: self.scorer.heads[output.folder.name] for output in waiting}
        scorer = self.scorer if len(heads) == len(self.scorer.heads) else Scorer(heads, str(self.scorer.device))
        vectors = self.source.source.open_embeddings(index)
        start = 0
        for batch in self.source.source.paragraphs[index].batches(["text_id"], _BLOCK_ROWS):
            try:
                scores = scorer.score(vectors.vectors(slice(start, start + batch.num_rows)))
            except ModelError as error:
                raise ModelError(f"{vectors.path}, counted from row {start}: {error}") from error
            for output, writer in zip(waiting, writers, strict=True):
                writer.write({"text_id": batch["text_id"], **{column: scores[column] for column in output.types}})
            release(vectors.stored[start : start + batch.num_rows])
            start += batch.num_rows
            advance(batch.num_rows)


def _open_stage(config: Config, scorer: Scorer, split: Split) -> HeadScores:
    rows = open_rows(config, split, scores=[])
    source = rows.source
    existing_columns = {*pq.read_schema(source.open_paragraphs(0).path).names, "embedding"}
    others = [scores for scores in open_scores(config.scores_dir, split) if scores.name not in scorer.heads]
    if clash := existing_columns.union(*(scores.columns for scores in others)) & set(scorer.columns):
        raise ConfigError(
            f"the paragraphs, or scores of another head, have a column {', '.join(sorted(clash))} already; rename the "
            "head"
        )
    first = rows.first_shard if len(rows) else source.open_embeddings(0)
    outputs = []
    for name, head in scorer.heads.items():
        recorded = {"dim": str(first.dim)} | dict(first.metadata)
        check_identity(name, head.embedder, head.dim, recorded, str(first.path.parent))
        settings: dict[str, Any] = {
            "head": head_sha256(head),
            "kind": head.kind,
            "labels": list(head.labels),
            "embedder": identity_settings(first.metadata),
            "precision": first.coding.precision,
        }
        outputs.append(ScoreOutput.of(rows, config.scores_dir / name, _types(name, head), settings))
    return HeadScores(rows, scorer, outputs)


def _check_names(heads: Mapping[str, Head]) -> None:
    seen: dict[str, str] = {}
    for name, head in heads.items():
        try:
            TypeAdapter(FolderName).validate_python(name)
        except ValidationError as error:
            raise ConfigError(f"the head's name {name!r} names a folder: {error.errors()[0]['msg']}") from None
        for column in column_names(name, head):
            other = seen.setdefault(column, name)
            if other != name:
                raise ConfigError(f"the heads {other} and {name} would both write the column {column}; rename one")
    for first, second in same_file_names(heads):
        raise ConfigError(
            f"the heads {first} and {second} would share a folder of scores on macOS and Windows, where case does not "
            "count; rename one"
        )


def _types(name: str, head: Head) -> dict[str, pa.DataType]:
    return {
        column: pa.string() if column == f"{name}_label" and head.kind != "regression" else pa.float32()
        for column in column_names(name, head)
    }
