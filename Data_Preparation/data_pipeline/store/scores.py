"""Score files: parquet beside the embeddings, one folder a head, one file a paragraph shard.

`data/scores/<name>/{train,val,test}.parquet` has `text_id` and the head's columns, row by row as the
paragraphs have them; its manifest holds the hash of the ids and texts they were made for.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import CorruptShardError, ShardMismatchError
from data_pipeline.store.access.text_columns import make_once
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import ScoredSplit, ScoreManifest, ShardEntry, fingerprint, read_manifest
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.types import IntArray, Split
from data_pipeline.user_files import visible
from data_pipeline.utils import publish, sha256_of_file

ADVICE = "Make them again with: elm annotate --overwrite"
_ROW_GROUP_ROWS = 65_536


class ScoreWriter:
    """One score file being written, as a stream of row groups; it gets its name when it is finished.

    Args:
        final: name of the finished file.
        columns: of the scores, with their types.
        metadata: goes into the file.
    """

    def __init__(self, final: Path, columns: Mapping[str, pa.DataType], metadata: Mapping[str, str]) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        self._final, self._temporary = final, final.with_name(f".{final.name}.tmp")
        schema = pa.schema([("text_id", pa.string()), *columns.items()], metadata=dict(metadata))
        self._file = pq.ParquetWriter(self._temporary, schema, compression="zstd")

    def write(self, rows: Mapping[str, Any]) -> None:
        """Append rows, by column."""
        self._file.write_table(pa.table(dict(rows), schema=self._file.schema), row_group_size=_ROW_GROUP_ROWS)

    def finish(self) -> None:
        """Give the file its name."""
        self._file.close()
        publish(self._temporary, self._final)

    def abandon(self) -> None:
        """Forget what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class ScoreFolder:
    """The scores of one head for a split."""

    folder: Path
    split: Split
    manifest: ScoreManifest

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def listed(self) -> ScoredSplit:
        """What the manifest says of the split."""
        return self.manifest["splits"][self.split]

    @property
    def columns(self) -> list[str]:
        """Of the scores."""
        return list(self.listed["columns"])

    @property
    def entries(self) -> list[ShardEntry]:
        """Its files."""
        return [ShardEntry(**entry) for entry in self.listed["shards"]]

    def mismatch(self, shards: Sequence[ParagraphShard]) -> str | None:
        """Why these scores are not of these paragraphs; None where they are."""
        ours = [(entry.rows, entry.ids_sha256, entry.texts_sha256) for entry in self.entries]
        theirs = [(shard.rows, shard.ids_sha256, shard.texts_sha256) for shard in shards]
        if ours == theirs:
            return None
        return f"the scores in {self.folder} were made from other paragraphs of {self.split}. {ADVICE}"

    def paths(self) -> list[Path]:
        """Its files, in order; none leaves the folder."""
        return [self.folder / Path(entry.file).name for entry in self.entries]

    @cached_property
    def table(self) -> pa.Table:
        """All score columns of all rows, mapped from Arrow copies that are made at the first use.

        Raises:
            CorruptShardError: a file is missing, damaged, or not the one its manifest speaks of.
        """
        return pa.concat_tables(
            [self._part(path, entry) for path, entry in zip(self.paths(), self.entries, strict=True)]
        )

    def _part(self, path: Path, entry: ShardEntry) -> pa.Table:
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise CorruptShardError(f"{path} has {size} bytes, its manifest speaks of {entry.bytes}. {ADVICE}")
            if (pq.read_metadata(path).metadata or {}).get(b"fingerprint") != self.listed["fingerprint"].encode():
                raise CorruptShardError(f"{path} is not of the head that its manifest speaks of. {ADVICE}")
            if not os.access(self.folder, os.W_OK):
                return self._read(path)
            copy = self.folder / ".cache" / f"{path.stem}.{entry.sha256[:20]}.arrow"
            if not copy.exists():
                make_once(copy, str(path.relative_to(self.folder.parent)), partial(self._write_copy, path))
            # Without Arrow's threads: a forked process would wait for them for ever.
            options = pa.ipc.IpcReadOptions(use_threads=False)
            return pa.ipc.open_file(pa.memory_map(str(copy)), options=options).read_all()
        except (OSError, pa.ArrowException) as error:
            raise CorruptShardError(f"{path} is missing or damaged: {error}. {ADVICE}") from error

    def _read(self, path: Path) -> pa.Table:
        return pq.read_table(path, columns=self.columns, partitioning=None)

    def _write_copy(self, path: Path, temporary: Path) -> None:
        table = self._read(path).combine_chunks()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def __getstate__(self) -> dict[str, Any]:
        """Files are named, not copied: a worker process reads them for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "table"}


def open_scores(scores_dir: Path, split: Split, names: Sequence[str] | None = None) -> list[ScoreFolder]:
    """The scores of a split that are there.

    Args:
        scores_dir: `data/scores`.
        split: which one.
        names: which heads'; None for all.

    Raises:
        ShardMismatchError: a head that is named has no scores of the split.
    """
    there = [path.parent for path in visible(scores_dir.glob("*/manifest.json"), scores_dir)]
    found = []
    for folder in there if names is None else [scores_dir / name for name in names]:
        manifest = read_manifest(folder, ScoreManifest)
        if manifest is not None and split in manifest["splits"]:
            found.append(ScoreFolder(folder, split, manifest))
        elif names is not None:
            raise ShardMismatchError(f"there are no scores of {split} in {folder}. Make them with: elm annotate")
    return found


def score_faults(scores: ScoreFolder, shards: Sequence[ParagraphShard]) -> Iterator[str]:
    """What is wrong with the scores of a split, from their bytes up; one line each."""
    listed = scores.listed
    if fingerprint(listed["settings"], listed["upstream"]) != listed["fingerprint"]:
        yield f"{scores.folder}: the settings of {scores.split} are not those its fingerprint was made from"
    if mismatch := scores.mismatch(shards):
        yield mismatch
        return
    for path, entry in zip(scores.paths(), scores.entries, strict=True):
        if not path.exists() or sha256_of_file(path) != entry.sha256:
            yield f"{path}: is missing, or its bytes are not those its manifest speaks of"
            continue
        table = pq.read_table(path, partitioning=None)
        if table.num_rows != entry.rows or column_sha256(table["text_id"].to_pylist()) != entry.ids_sha256:
            yield f"{path}: its rows or ids are not those of the paragraphs"
        for column in scores.columns:
            values = table[column]
            if listed["settings"].get("gaps"):
                continue  # a judge that gave no answer
            if values.null_count or (pa.types.is_floating(values.type) and not np.isfinite(values.to_numpy()).all()):
                yield f"{path}: {column} has values that are missing or not finite"


class Scores:
    """Score columns by row, over all heads of a split."""

    def __init__(self, folders: Sequence[ScoreFolder]) -> None:
        self._of_column = {column: folder for folder in folders for column in folder.columns}

    @property
    def names(self) -> list[str]:
        """Of all columns."""
        return list(self._of_column)

    def column(self, name: str, rows: IntArray | None = None) -> pa.ChunkedArray:
        """One column, of rows of shape (N,) or of all."""
        whole = self._of_column[name].table[name]
        return whole if rows is None else whole.take(pa.array(rows))
