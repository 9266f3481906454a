"""Scores for a corpus of ours: embeddings on disk -> `data/scores/<head>/{split}.parquet`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from data_pipeline.annotation.heads.apply import Scorer, column_names
from data_pipeline.annotation.heads.files import head_sha256
from data_pipeline.annotation.heads.head import Head
from data_pipeline.annotation.heads.identity import check_identity, identity_settings
from data_pipeline.config import Config, FolderName
from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import ConfigError, ModelError, StaleStage
from data_pipeline.store import (
    EmbeddingShard,
    ParagraphShard,
    ScoreWriter,
    check_fresh,
    entry_of,
    fingerprint,
    open_scores,
    read_manifest,
    shard_name,
    write_manifest,
)
from data_pipeline.types import SPLITS, Split
from data_pipeline.utils import exclusive, progress_bar, sha256_of_file

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class _Task:
    """One head and one split."""

    name: str
    head: Head
    folder: Path
    settings: dict[str, Any]
    upstream: str

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says of itself, besides its rows."""
        return {"fingerprint": fingerprint(self.settings, self.upstream)}


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
        tasks.append(_Task(name, head, config.scores_dir / name, settings, source.fingerprint()))
    waiting = [task for task in tasks if not _is_finished(task, split, overwrite)]
    if waiting:
        _write(waiting, Scorer({task.name: task.head for task in waiting}, str(scorer.device)), dataset, split)
    return ScoredSplit(len(dataset), scorer.columns, skipped=not waiting)


def _is_finished(task: _Task, split: Split, overwrite: bool) -> bool:
    manifest = read_manifest(task.folder)
    known = (manifest or {"splits": {}})["splits"].get(split)
    if known is None:
        return False
    if not overwrite:
        check_fresh(known, task.settings, task.upstream, task.folder / split)
    paths = [task.folder / Path(entry["file"]).name for entry in known["shards"]]
    there = True
    for path, entry in zip(paths, known["shards"], strict=True):
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            there = False
        elif overwrite and sha256_of_file(path) != entry["sha256"]:
            path.unlink()  # or it would be taken for finished: its metadata may be whole
            there = False
    if not there and not overwrite:
        raise StaleStage(f"scores in {task.folder} are missing or damaged. Pass --overwrite to make them again.")
    return there and known["fingerprint"] == fingerprint(task.settings, task.upstream)


def _write(tasks: list[_Task], scorer: Scorer, dataset: ELMDataset, split: Split) -> None:
    source = dataset.rows.source
    shards = source.paragraphs
    paths: list[dict[str, Path]] = []
    with progress_bar(len(dataset), f"scoring {split}", "row") as bar:
        for index, paragraphs in enumerate(shards):
            name = shard_name(split, ".parquet", index, len(shards))
            finals = {task.name: task.folder / name for task in tasks}
            missing = [task for task in tasks if not _is_written(finals[task.name], paragraphs, task)]
            if missing:
                _write_shard(missing, finals, scorer, paragraphs, source.open_embeddings(index), bar)
            else:
                bar.update(paragraphs.rows)
            paths.append(finals)
    for task in tasks:
        _finish(task, dataset, split, [finals[task.name] for finals in paths])


def _is_written(path: Path, paragraphs: ParagraphShard, task: _Task) -> bool:
    """Whether a file is what this job would write: it got its name before a crash, and no manifest speaks of it yet."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    found = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items() if key != b"ARROW:schema"}
    return metadata.num_rows == paragraphs.rows and found == _metadata(task, paragraphs)


def _metadata(task: _Task, paragraphs: ParagraphShard) -> dict[str, str]:
    return {**task.metadata, "ids_sha256": paragraphs.ids_sha256, "texts_sha256": paragraphs.texts_sha256}


def _write_shard(
    tasks: list[_Task],
    finals: Mapping[str, Path],
    scorer: Scorer,
    paragraphs: ParagraphShard,
    vectors: EmbeddingShard,
    bar: Any,
) -> None:
    writers = {task.name: ScoreWriter(finals[task.name], _types(task), _metadata(task, paragraphs)) for task in tasks}
    try:
        start = 0
        for batch in paragraphs.batches(["text_id"], _BLOCK_ROWS):
            try:
                scores = scorer.score(vectors.vectors(slice(start, start + batch.num_rows)))
            except ModelError as error:
                raise ModelError(f"{vectors.path}, counted from row {start}: {error}") from error
            for task in tasks:
                columns = {column: scores[column] for column in column_names(task.name, task.head)}
                writers[task.name].write({"text_id": batch["text_id"], **columns})
            start += batch.num_rows
            bar.update(batch.num_rows)
        for writer in writers.values():
            writer.finish()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise


def _types(task: _Task) -> dict[str, pa.DataType]:
    return {
        column: pa.string() if column == f"{task.name}_label" and task.head.kind != "regression" else pa.float32()
        for column in column_names(task.name, task.head)
    }


def _finish(task: _Task, dataset: ELMDataset, split: Split, paths: list[Path]) -> None:
    source = dataset.rows.source
    entries = [
        entry_of(path, shard.rows, shard.ids_sha256, shard.texts_sha256).to_json()
        for path, shard in zip(paths, source.paragraphs, strict=True)
    ]
    manifest = read_manifest(task.folder) or {"stage": "scores", "name": task.name, "splits": {}}
    manifest["splits"][split] = {
        "fingerprint": fingerprint(task.settings, task.upstream),
        "settings": task.settings,
        "upstream": task.upstream,
        "corpus": source.store.folder.name.removesuffix("_processed"),
        "rows": len(dataset),
        "columns": column_names(task.name, task.head),
        "shards": entries,
    }
    write_manifest(task.folder, manifest)
    for pattern in (f"{split}.parquet", f"{split}-?????-of-?????.parquet", f".{split}*.parquet.tmp"):
        for path in task.folder.glob(pattern):
            if path not in paths:
                path.unlink()
    logger.info("%s: %d rows", task.folder / split, len(dataset))
