"""Score files: a folder for each head or metric, with a parquet file for each paragraph shard.

`data/scores/<name>/{train,val,test}.parquet` has `text_id` and the score columns, in the row order of the paragraphs;
its manifest holds the hashes of the ids and texts that were scored.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import CorruptShardError, ShardMismatchError
from data_pipeline.store.access.text_columns import make_once
from data_pipeline.store.hashing import column_sha256
from data_pipeline.store.manifest import ScoredSplitRecord, ScoreManifest, ShardEntry, fingerprint, read_manifest
from data_pipeline.store.paragraphs import ParagraphShard, earlier_fingerprints, reading_parquet
from data_pipeline.types import IntArray, Split
from data_pipeline.user_files import visible
from data_pipeline.utils import publish, sha256_of_file

ADVICE = "Make them again with: elm annotate --overwrite"
_ROW_GROUP_ROWS = 65_536


class ScoreWriter:
    """Writer of one score file as a stream of row groups.

    Args:
        final: path of the finished file.
        columns: names and types of the score columns.
        metadata: metadata of the file.
    """

    def __init__(self, final: Path, columns: Mapping[str, pa.DataType], metadata: Mapping[str, str]) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        self._final, self._temporary = final, final.with_name(f".{final.name}.tmp")
        schema = pa.schema([("text_id", pa.string()), *columns.items()], metadata=dict(metadata))
        self._file = pq.ParquetWriter(self._temporary, schema, compression="zstd")

    def write(self, rows: Mapping[str, Any]) -> None:
        """Append rows, given by column."""
        self._file.write_table(pa.table(dict(rows), schema=self._file.schema), row_group_size=_ROW_GROUP_ROWS)

    def finish(self) -> None:
        """Publish the file under its final name."""
        self._file.close()
        publish(self._temporary, self._final)

    def abandon(self) -> None:
        """Discard the unfinished file."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class ScoreFolder:
    """Scores of one split by one head or metric."""

    folder: Path
    split: Split
    manifest: ScoreManifest
    shards: frozenset[tuple[int, str, str]] | None = None
    """Contents of the paragraph shards whose scores are read; None for all."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def listed(self) -> ScoredSplitRecord:
        """Entry of the split in the manifest."""
        return self.manifest["splits"][self.split]

    @property
    def columns(self) -> list[str]:
        """Names of the score columns."""
        return list(self.listed["columns"])

    @property
    def entries(self) -> list[ShardEntry]:
        """Manifest entries of the files, in order."""
        listed = [ShardEntry(**entry) for entry in self.listed["shards"]]
        return listed if self.shards is None else [entry for entry in listed if entry.content in self.shards]

    def of(self, shards: Sequence[ParagraphShard]) -> "ScoreFolder":
        """Return the scores of some shards, which the split had before others were appended."""
        return replace(self, shards=frozenset(shard.content for shard in shards))

    def mismatch(self, shards: Sequence[ParagraphShard]) -> str | None:
        """Return a message if the scores were not made from these paragraphs, else None."""
        listed, wanted = [entry.content for entry in self.entries], [shard.content for shard in shards]
        if listed[: len(wanted)] == wanted:
            return None
        if listed == wanted[: len(listed)]:
            return (
                f"the scores in {self.folder} are those of the first {len(listed)} of {len(wanted)} files of "
                f"{self.split}, which has grown. Make those of the new rows with: elm annotate"
            )
        return f"the scores in {self.folder} were made from other paragraphs of {self.split}. {ADVICE}"

    def paths(self) -> list[Path]:
        """Return the paths of the files, in order; all are in the folder."""
        return [self.folder / Path(entry.file).name for entry in self.entries]

    @cached_property
    def table(self) -> pa.Table:
        """Score columns of all rows, memory-mapped from Arrow copies that are made at the first use.

        Raises:
            CorruptShardError: a file is missing or damaged, or does not match its manifest.
        """
        return pa.concat_tables(
            [self._part(path, entry) for path, entry in zip(self.paths(), self.entries, strict=True)]
        )

    @cached_property
    def _fingerprints(self) -> set[str]:
        """Fingerprints that the files may have: that of the manifest, and those before the split grew."""
        listed = [ShardEntry(**entry) for entry in self.listed["shards"]]
        return {self.listed["fingerprint"], *earlier_fingerprints(self.listed["settings"], listed)}

    def _part(self, path: Path, entry: ShardEntry) -> pa.Table:
        with reading_parquet(f"{path} is missing or damaged", ADVICE):
            size = path.stat().st_size
            if size != entry.bytes:
                raise CorruptShardError(f"{path} has {size} bytes, manifest.json expects {entry.bytes}. {ADVICE}")
            recorded = (pq.read_metadata(path).metadata or {}).get(b"fingerprint", b"").decode(errors="replace")
            if recorded not in self._fingerprints:
                raise CorruptShardError(f"{path} was made with other settings than manifest.json says. {ADVICE}")
            if not os.access(self.folder, os.W_OK):
                return self._read(path)
            copy = self.folder / ".cache" / f"{path.stem}.{entry.sha256[:20]}.arrow"
            if not copy.exists():
                make_once(copy, str(path.relative_to(self.folder.parent)), partial(self._write_copy, path))
            # A forked process would wait forever for threads of Arrow.
            options = pa.ipc.IpcReadOptions(use_threads=False)
            return pa.ipc.open_file(pa.memory_map(str(copy)), options=options).read_all()

    def _read(self, path: Path) -> pa.Table:
        return pq.read_table(path, columns=self.columns, partitioning=None)

    def _write_copy(self, path: Path, temporary: Path) -> None:
        table = self._read(path).combine_chunks()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open table, which a worker process opens for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "table"}


def open_scores(scores_dir: Path, split: Split, names: Sequence[str] | None = None) -> list[ScoreFolder]:
    """Open the scores of a split.

    Args:
        scores_dir: `data/scores`.
        split: split to open.
        names: names of the folders; None for all.

    Raises:
        ShardMismatchError: a named folder has no scores of the split.
    """
    existing = [path.parent for path in visible(scores_dir.glob("*/manifest.json"), scores_dir)]
    opened = []
    for folder in existing if names is None else [scores_dir / name for name in names]:
        manifest = read_manifest(folder, ScoreManifest)
        if manifest is not None and split in manifest["splits"]:
            opened.append(ScoreFolder(folder, split, manifest))
        elif names is not None:
            raise ShardMismatchError(f"no scores of {split} in {folder}. Make them with: elm annotate")
    return opened


def score_faults(scores: ScoreFolder, shards: Sequence[ParagraphShard], deleted: IntArray) -> Iterator[str]:
    """Verify the scores of a split, reading every byte; yields one line for each fault.

    Args:
        scores: the scores.
        shards: the paragraphs.
        deleted: row numbers of deleted rows, ascending, which need no scores.
    """
    listed = scores.listed
    if fingerprint(listed["settings"], listed["upstream"]) != listed["fingerprint"]:
        yield f"{scores.folder}: the settings of {scores.split} do not match their fingerprint"
    if mismatch := scores.mismatch(shards):
        yield mismatch
        return
    scores, end = scores.of(shards), 0
    for path, entry in zip(scores.paths(), scores.entries, strict=True):
        start, end = end, end + entry.rows
        if not path.exists() or sha256_of_file(path) != entry.sha256:
            yield f"{path}: missing, or checksum mismatch with manifest.json"
            continue
        table = pq.read_table(path, partitioning=None)
        if table.num_rows != entry.rows or column_sha256(table["text_id"].to_pylist()) != entry.ids_sha256:
            yield f"{path}: its rows or ids differ from those of the paragraphs"
        first, last = np.searchsorted(deleted, [start, end])
        if first < last:
            table = table.take(pa.array(np.setdiff1d(np.arange(entry.rows), deleted[first:last] - start)))
        for column in scores.columns:
            values = table[column]
            if listed["settings"].get("gaps"):
                continue  # the judge gave no answer for some rows
            if values.null_count or (pa.types.is_floating(values.type) and not np.isfinite(values.to_numpy()).all()):
                yield f"{path}: {column} has missing or non-finite values"
