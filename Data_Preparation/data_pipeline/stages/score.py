"""Scores for a corpus of ours: embeddings on disk -> `data/scores/<head>/{split}.parquet`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from data_pipeline.config import Config, FolderName
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import ConfigError, ModelError
from data_pipeline.heads.apply import Scorer, column_names
from data_pipeline.heads.files import head_sha256
from data_pipeline.heads.identity import check_identity, identity_settings
from data_pipeline.heads.model import Head
from data_pipeline.stages.score_files import ScoreStage
from data_pipeline.store import EmbeddingShard, ParagraphShard, ScoreWriter, open_scores, read_manifest_to_replace
from data_pipeline.types import SPLITS, Split
from data_pipeline.utils import exclusive, progress_bar
from data_pipeline.utils.system import same_file_names

_BLOCK_ROWS = 8192  # of vectors at a time


@dataclass(frozen=True)
class ScoredSplit:
    """What became of a split."""

    rows: int
    columns: list[str]
    skipped: bool
    """All heads were finished before."""


def annotate(
    config: Config,
    heads: Mapping[str, Head],
    splits: Sequence[Split] = SPLITS,
    overwrite: bool = False,
    device: str = "cpu",
) -> dict[Split, ScoredSplit]:
    """Score a corpus's paragraphs; all heads are applied while the vectors are read once.

    A file that was finished is skipped, so a killed run goes on with the file it was at.

    Args:
        config: its folders, corpus and variant.
        heads: by name; the name is the folder's and the column's.
        splits: which ones.
        overwrite: replace scores of other heads or other embeddings.
        device: that scores.

    Raises:
        ConfigError: a name cannot be a folder's or a column's.
        WrongEmbedder: a head does not belong to these embeddings.
        StaleStage: other scores are there under the same name, and not `overwrite`.
        StoreError: there are no embeddings, or they are damaged.
    """
    _check_names(heads)
    scorer = Scorer(heads, device)
    with exclusive(config.scores_dir):
        for name in heads:
            read_manifest_to_replace(config.scores_dir / name, overwrite)
        return {split: _annotate_split(config, scorer, split, overwrite) for split in splits}


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
    for one, other in same_file_names(heads):
        raise ConfigError(
            f"the heads {one} and {other} would share a folder of scores on macOS and Windows, where case does not "
            "count; rename one"
        )


@dataclass(frozen=True)
class _Task:
    """One head and one split."""

    name: str
    head: Head
    stage: ScoreStage


def _annotate_split(config: Config, scorer: Scorer, split: Split, overwrite: bool) -> ScoredSplit:
    dataset = ELMDataset(split=split, config=config, scores=[])
    source = dataset.rows.source
    taken = {*pq.read_schema(source.open_paragraphs(0).path).names, "embedding"}
    others = [scores for scores in open_scores(config.scores_dir, split) if scores.name not in scorer.heads]
    if clash := taken.union(*(scores.columns for scores in others)) & set(scorer.columns):
        raise ConfigError(
            f"the paragraphs, or scores of another head, have a column {', '.join(sorted(clash))} already; rename the "
            "head"
        )
    first = dataset.rows.first_shard if len(dataset) else source.open_embeddings(0)
    tasks = []
    for name, head in scorer.heads.items():
        known = {"dim": str(first.dim)} | dict(first.metadata)
        check_identity(name, head.embedder, head.dim, known, str(first.path.parent))
        settings = {
            "head": head_sha256(head),
            "kind": head.kind,
            "labels": list(head.labels),
            "embedder": identity_settings(first.metadata),
            "precision": first.coding.precision,
        }
        stage = ScoreStage(
            config.scores_dir / name, split, _types(name, head), settings, source.fingerprint(), source.corpus,
            source.paragraphs,
        )  # fmt: skip
        tasks.append(_Task(name, head, stage))
    waiting = [task for task in tasks if not task.stage.is_finished(overwrite)]
    if waiting:
        _write(waiting, Scorer({task.name: task.head for task in waiting}, str(scorer.device)), dataset)
    return ScoredSplit(len(dataset), scorer.columns, skipped=not waiting)


def _write(tasks: list[_Task], scorer: Scorer, dataset: ELMDataset) -> None:
    source = dataset.rows.source
    with progress_bar(len(dataset), f"scoring {dataset.split}", "row") as bar:
        for index, paragraphs in enumerate(source.paragraphs):
            missing = [task for task in tasks if not task.stage.is_written(index)]
            if missing:
                writers = {task.name: task.stage.writer(index) for task in missing}
                _write_shard(missing, writers, scorer, paragraphs, source.open_embeddings(index), bar)
            else:
                bar.update(paragraphs.rows)
    for task in tasks:
        task.stage.finish()


def _write_shard(
    tasks: list[_Task],
    writers: Mapping[str, ScoreWriter],
    scorer: Scorer,
    paragraphs: ParagraphShard,
    vectors: EmbeddingShard,
    bar: Any,
) -> None:
    try:
        start = 0
        for batch in paragraphs.batches(["text_id"], _BLOCK_ROWS):
            try:
                scores = scorer.score(vectors.vectors(slice(start, start + batch.num_rows)))
            except ModelError as error:
                raise ModelError(f"{vectors.path}, counted from row {start}: {error}") from error
            for task in tasks:
                columns = {column: scores[column] for column in task.stage.types}
                writers[task.name].write({"text_id": batch["text_id"], **columns})
            start += batch.num_rows
            bar.update(batch.num_rows)
        for writer in writers.values():
            writer.finish()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise


def _types(name: str, head: Head) -> dict[str, pa.DataType]:
    return {
        column: pa.string() if column == f"{name}_label" and head.kind != "regression" else pa.float32()
        for column in column_names(name, head)
    }
