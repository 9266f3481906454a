"""Paragraph shards: parquet files that define the ids and the order of a split."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os.path import basename
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.errors import CorruptShardError, NotFoundError
from data_pipeline.store.hashing import ColumnHash, column_sha256, digests_of, digests_path
from data_pipeline.store.manifest import (
    ParagraphManifest,
    ShardEntry,
    ShardRecord,
    entry_of,
    fingerprint,
    read_manifest,
    version_of,
)
from data_pipeline.types import SPLITS, IntArray, Split
from data_pipeline.utils import converted_errors, sha256_of_file, sha256_of_json
from data_pipeline.utils.files import publish, unique_name
from data_pipeline.utils.system import fsync_path

if TYPE_CHECKING:
    import polars as pl

_ROW_GROUP_ROWS = 8192
_ADVICE = "Run the pipeline with --overwrite."
_RESTORE = "Restore it, or run the pipeline with --overwrite."


DELETED = "deleted.parquet"
"""File of the row numbers of deleted rows, by split."""


def write_deleted(folder: Path, rows: Mapping[Split, IntArray]) -> ShardRecord:
    """Write the list of deleted rows, given their row numbers in the files by split, and return its manifest entry."""
    path = folder / DELETED
    splits = [split for split, numbers in rows.items() for _ in range(len(numbers))]
    numbers = np.concatenate([np.zeros(0, np.int64), *rows.values()])
    table = pa.table({"split": pa.array(splits, pa.string()), "row": pa.array(numbers, pa.int64())})
    pq.write_table(table, path, compression="zstd")
    fsync_path(path)
    return entry_of(path, len(numbers), "", "").to_json()


def file_of_shard(shard: ShardEntry, split: Split, stem: str, ending: str) -> str:
    """Return the name of a file that belongs to a paragraph shard: `train_embeddings-v0002.safetensors`, for example.

    Args:
        shard: paragraph shard, such as `train-v0002.parquet`.
        split: split of the shard.
        stem: stem of the file, in place of the split.
        ending: ending of the file.
    """
    return stem + Path(shard.file).name.removeprefix(split).removesuffix(".parquet") + ending


def shard_name(stem: str, ending: str, index: int, count: int) -> str:
    """Return the file name of a shard: `train.parquet` for a single shard, else `train-00000-of-00012.parquet`."""
    return f"{stem}{ending}" if count == 1 else f"{stem}-{index:05d}-of-{count:05d}{ending}"


def reading_parquet(message: str, advice: str = "") -> AbstractContextManager[None]:
    """Convert errors of Arrow to a `CorruptShardError`; see `converted_errors`."""
    return converted_errors((OSError, KeyError, pa.ArrowException), CorruptShardError, message, advice)


@dataclass(frozen=True, slots=True)
class ParagraphShard(ShardEntry):
    """Parquet file of a split, and the hashes that it must have; `sha256` is empty without a manifest."""

    path: Path = field(kw_only=True)

    def check(self) -> None:
        """Check that the file matches its manifest, without reading its rows.

        Raises:
            CorruptShardError: the file is missing or truncated, or does not match its manifest.
        """
        rows, metadata, _ = _footer(self.path)
        has_hashes = all(name in metadata for name in (b"ids_sha256", b"texts_sha256"))
        if has_hashes:
            ids, texts = (metadata[name].decode(errors="replace") for name in (b"ids_sha256", b"texts_sha256"))
        else:  # rewritten by another program
            ids, texts = _hash_of_column(self.path, "text_id"), _hash_of_column(self.path, "text")
        if (rows, ids, texts) != self.content:
            raise CorruptShardError(
                f"{self.path} does not match manifest.json: found {rows} rows, ids {ids[:12]} and texts "
                f"{texts[:12]}, expected {self.rows}, {self.ids_sha256[:12]} and {self.texts_sha256[:12]}. {_RESTORE}"
            )
        size = self.path.stat().st_size
        if has_hashes and self.bytes not in (None, size):
            raise CorruptShardError(f"{self.path} has {size} bytes, manifest.json expects {self.bytes}. {_RESTORE}")

    def schema(self) -> pa.Schema:
        """Read the schema of the file.

        Raises:
            CorruptShardError: the file is missing or damaged.
        """
        return _footer(self.path)[2]

    def batches(
        self, columns: Sequence[str], batch_rows: int = _ROW_GROUP_ROWS, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Read columns in order, in batches of rows.

        Args:
            columns: columns to read.
            batch_rows: maximum number of rows of a batch.
            groups: row groups to read; None for all.

        Raises:
            CorruptShardError: the file is damaged.
        """
        # By default all bytes that were read stay in memory until the file is closed.
        with (
            reading_parquet(f"{self.path} cannot be read", _ADVICE),
            pq.ParquetFile(self.path, pre_buffer=False) as file,
        ):
            yield from file.iter_batches(batch_size=batch_rows, columns=list(columns), row_groups=groups)

    def numbers(self, column: str) -> IntArray:
        """Read a column of whole numbers, shape (rows,).

        Raises:
            CorruptShardError: the file is damaged.
        """
        parts = [batch[column].to_numpy() for batch in self.batches([column])]
        return np.concatenate([np.zeros(0, np.int64), *parts])


VERSIONS = ".versions"
"""Folder of the earlier versions of a folder; see `store.versions`."""


def present_folder(folder: Path) -> Path:
    """Return the folder of the present version, for the folder of any version, or of one that is being made."""
    if folder.parent.name == VERSIONS:
        return folder.parent.parent
    name = folder.name
    is_new = name.startswith(".") and name.endswith(".new")  # see `utils.folders.new_folder`
    return folder.with_name(name[1 : -len(".new")]) if is_new else folder


LocalPath = Callable[[ShardEntry], Path]
"""Function that returns the local path of the file of a manifest entry."""


def paragraphs_sha256(shards: Sequence[ShardEntry]) -> str:
    """Compute the SHA-256 of the ids and texts of all rows, in order."""
    return sha256_of_json([[shard.ids_sha256, shard.texts_sha256] for shard in shards])


def earlier_sha256(shards: Sequence[ShardEntry]) -> list[str]:
    """Compute `paragraphs_sha256` of the rows as they may have been before shards were appended, the first ones first.

    What was made from those is still valid for the rows that it has, since rows never move.
    """
    return [paragraphs_sha256(shards[:count]) for count in range(1, len(shards))]


def earlier_fingerprints(settings: Mapping[str, Any], shards: Sequence[ShardEntry]) -> list[str]:
    """Compute the fingerprints that files made from these rows may have had before shards were appended."""
    return [fingerprint(settings, upstream) for upstream in earlier_sha256(shards)]


@dataclass(frozen=True)
class ShardPart:
    """A shard of a split, or some of its row groups."""

    shard: int
    """Number of the shard."""
    first_row: int
    """Number of its first row in the split."""
    groups: tuple[int, ...] | None = None
    """Numbers of the row groups; None for all."""


class ParagraphStore:
    """Parquet files of a processed folder, written by this package or by the original pipeline.

    Args:
        folder: `data/<corpus>_processed`.
        local_path: returns the path of a file that is not in the folder; None if all are.

    Raises:
        NotFoundError: the folder has no paragraphs.
        CorruptShardError: a file of the original pipeline is damaged.
    """

    def __init__(self, folder: Path, local_path: LocalPath | None = None) -> None:
        self.folder = folder
        self.manifest: ParagraphManifest | None = read_manifest(folder, ParagraphManifest)
        self._local_path = local_path
        self._deleted: dict[Split, IntArray] = {}
        self._shards: dict[Split, list[ParagraphShard]] = {}
        if not self.splits:
            raise NotFoundError(f"No paragraphs in {folder}. Run `elm run` first.")

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return present_folder(self.folder).name.removesuffix("_processed")

    @property
    def version(self) -> int:
        """Number of the version; 1 where the manifest names none."""
        return version_of(self.manifest)

    @property
    def splits(self) -> list[Split]:
        """Names of the splits that exist."""
        if self.manifest is None:
            return [split for split in SPLITS if self._of(split)]
        entries = self.manifest["splits"]
        return [split for split in SPLITS if split in entries and entries[split]["shards"]]

    def check(self) -> None:
        """Check the files of all splits; see `ParagraphShard.check`."""
        for split in self.splits:
            self.shards(split)

    def listed(self, split: Split) -> list[ParagraphShard]:
        """Return the shards of a split in order, as the manifest lists them, without checking the files.

        Raises:
            NotFoundError: the split does not exist.
        """
        shards = self._of(split)
        if not shards:
            raise NotFoundError(f"{self.folder} has no split {split!r}; it has {', '.join(self.splits)}")
        return shards

    def shards(self, split: Split) -> list[ParagraphShard]:
        """Return the shards of a split in order, each checked.

        Raises:
            NotFoundError: the split does not exist.
            CorruptShardError: a file is missing or damaged.
        """
        shards = self.listed(split)
        for shard in shards:
            shard.check()
        return shards

    def read(self, split: Split, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """Read all rows of a split, in order, but for those that were deleted."""
        import polars as pl  # 14 MB that a training loop does not need

        paths = [shard.path for shard in self.shards(split)]
        frame = pl.read_parquet(paths, columns=list(columns) if columns else None, hive_partitioning=False)
        rows = self.live_rows(split)
        return frame if rows is None else frame[rows]

    def deleted_rows(self, split: Split) -> IntArray:
        """Return the row numbers in the files of a split that were deleted, ascending; see `elm append`.

        Raises:
            CorruptShardError: the list of deleted rows is missing or damaged.
        """
        if split not in self._deleted:
            self._deleted[split] = self._read_deleted(split)
        return self._deleted[split]

    def live_rows(self, split: Split) -> IntArray | None:
        """Return the row numbers in the files of a split that were not deleted, ascending; None if none was."""
        deleted = self.deleted_rows(split)
        if not len(deleted):
            return None
        return np.setdiff1d(np.arange(sum(shard.rows for shard in self.listed(split))), deleted, assume_unique=True)

    def rows_sha256(self, split: Split) -> str:
        """Compute the SHA-256 of the ids and texts of the rows of a split that were not deleted, in order."""
        files, rows = paragraphs_sha256(self.listed(split)), self.live_rows(split)
        return files if rows is None else hashlib.sha256(files.encode() + rows.tobytes()).hexdigest()

    def live_count(self, split: Split) -> int:
        """Return the number of rows of a split that were not deleted."""
        return sum(shard.rows for shard in self.listed(split)) - len(self.deleted_rows(split))

    def live_batches(
        self, split: Split, columns: Sequence[str], part: ShardPart | None = None
    ) -> Iterator[tuple[pa.RecordBatch, IntArray]]:
        """Read the rows of a split that were not deleted, in order, in batches with their row numbers in the files.

        Args:
            split: the split.
            columns: columns to read.
            part: part to read, of `parts`; None for all.

        Raises:
            CorruptShardError: a file is damaged.
        """
        deleted = self.deleted_rows(split)
        for one in self._whole(split) if part is None else [part]:
            shard, start = self.listed(split)[one.shard], one.first_row
            shard.check()
            for batch in shard.batches(columns, groups=one.groups):
                rows = np.arange(start, start + batch.num_rows)
                start += batch.num_rows
                first, last = np.searchsorted(deleted, [rows[0], start]) if len(rows) else (0, 0)
                if first < last:
                    rows = np.setdiff1d(rows, deleted[first:last], assume_unique=True)
                    batch = batch.take(pa.array(rows - (start - batch.num_rows)))
                yield batch, rows

    def parts(self, split: Split, rows: int) -> list[ShardPart]:
        """Divide the rows of a split into parts of about `rows` rows, or of a row group if that has more."""
        found = []
        for whole in self._whole(split):
            counts = _row_group_rows(self.listed(split)[whole.shard].path)
            first, start, size = 0, whole.first_row, 0
            for group, count in enumerate(counts):
                if size and size + count > rows:
                    found.append(ShardPart(whole.shard, start, tuple(range(first, group))))
                    first, start, size = group, start + size, 0
                size += count
            found.append(ShardPart(whole.shard, start, tuple(range(first, len(counts)))))
        return found

    def _whole(self, split: Split) -> list[ShardPart]:
        starts = np.cumsum([0, *(shard.rows for shard in self.listed(split))]).tolist()
        return [ShardPart(number, start) for number, start in enumerate(starts[:-1])]

    def _read_deleted(self, split: Split) -> IntArray:
        listed = self.manifest.get("deleted") if self.manifest else None
        if listed is None:
            return np.zeros(0, np.int64)
        entry = ShardEntry(**listed)
        path = self._local_path(entry) if self._local_path else self.folder / Path(entry.file).name
        with reading_parquet(f"{path} is missing or damaged", _RESTORE):
            table = pq.read_table(path, partitioning=None)
            rows = table.filter(pc.equal(table["split"], split))["row"].to_numpy().astype(np.int64)
        if sha256_of_file(path) != entry.sha256:
            raise CorruptShardError(f"{path}: checksum mismatch with manifest.json. {_RESTORE}")
        return rows

    def _of(self, split: Split) -> list[ParagraphShard]:
        """Shards of a split; empty if there is none of that name."""
        if split not in self._shards:
            self._shards[split] = self._listed(split, self._local_path) if split in SPLITS else []
        return self._shards[split]

    def _listed(self, split: Split, local_path: LocalPath | None) -> list[ParagraphShard]:
        if self.manifest is None:
            return [_open_unlisted(path) for path in _shard_files(self.folder, split)]
        listed = self.manifest["splits"].get(split)
        records = listed["shards"] if listed else []
        if local_path is not None:
            return [ParagraphShard(**record, path=local_path(ShardEntry(**record))) for record in records]
        return [ParagraphShard(**record, path=self.folder / basename(record["file"])) for record in records]


def _open_unlisted(path: Path) -> ParagraphShard:
    rows, _, _ = _footer(path)
    ids, texts = (_hash_of_column(path, column) for column in ("text_id", "text"))
    return ParagraphShard(path.name, rows, "", ids, texts, path=path)


def _shard_files(folder: Path, split: Split) -> list[Path]:
    single = folder / f"{split}.parquet"
    if single.is_file():
        return [single]
    pattern = re.compile(rf"{split}-(\d{{5}})-of-(\d{{5}})\.parquet")
    paths = sorted(path for path in folder.glob(f"{split}-*.parquet") if pattern.fullmatch(path.name))
    if paths and (expected := int(paths[0].name.split("-of-")[1].split(".")[0])) != len(paths):
        raise CorruptShardError(f"{folder} has {len(paths)} shards of {split}, their names expect {expected}")
    return paths


def _footer(path: Path) -> tuple[int, Mapping[bytes, bytes], pa.Schema]:
    """Number of rows of a file, its metadata, and its schema."""
    with reading_parquet(f"{path} is missing or damaged", _ADVICE):
        stat = path.stat()
        return _read_footer(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(4096)
def _read_footer(path: Path, *state: int) -> tuple[int, Mapping[bytes, bytes], pa.Schema]:
    """Read the footer of a file once for each state of it, since a file is looked at when opened and when used."""
    del state
    metadata = pq.read_metadata(path)
    return metadata.num_rows, metadata.metadata or {}, metadata.schema.to_arrow_schema()


def _row_group_rows(path: Path) -> list[int]:
    """Numbers of rows of the row groups of a file."""
    with reading_parquet(f"{path} is missing or damaged", _ADVICE):
        metadata = pq.read_metadata(path)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _hash_of_column(path: Path, column: str) -> str:
    with reading_parquet(f"{path} has no readable column {column!r}"):
        return column_sha256(pq.read_table(path, columns=[column])[column].to_pylist())


class ShardWriter:
    """Writer of a paragraph file, and of the digests of its texts, which appear when it is closed.

    The bytes depend on the rows alone, not on the tables that they come in. Several processes may write the same file.

    Args:
        path: path of the file, in a folder that is not published yet.
        schema: schema of the rows.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._temporary = path, unique_name(path)
        self._file = pq.ParquetWriter(self._temporary, schema, compression="zstd")
        self._waiting = schema.empty_table()
        self._ids, self._texts = ColumnHash(), ColumnHash()
        self._digests_path = digests_path(path.parent, uuid4().hex)
        self._digests_path.parent.mkdir(exist_ok=True)
        self._digests = self._digests_path.open("wb")
        self.rows = 0

    def write(self, rows: pa.Table) -> None:
        """Append rows."""
        self._waiting = pa.concat_tables([self._waiting, rows])
        self.rows += rows.num_rows
        while self._waiting.num_rows >= _ROW_GROUP_ROWS:
            self._write_group(self._waiting.slice(0, _ROW_GROUP_ROWS))
            self._waiting = self._waiting.slice(_ROW_GROUP_ROWS)

    def close(self) -> ShardEntry:
        """Finish the file, and return its manifest entry."""
        if self._waiting.num_rows:
            self._write_group(self._waiting)
        hashes = {"ids_sha256": self._ids.hexdigest(), "texts_sha256": self._texts.hexdigest()}
        self._file.add_key_value_metadata(hashes)
        self._file.close()
        self._digests.close()
        publish(self._temporary, self._path)
        self._digests_path.replace(digests_path(self._path.parent, hashes["texts_sha256"]))
        return entry_of(self._path, self.rows, hashes["ids_sha256"], hashes["texts_sha256"])

    def _write_group(self, rows: pa.Table) -> None:
        rows = rows.combine_chunks()
        self._file.write_table(rows, row_group_size=_ROW_GROUP_ROWS)
        self._ids.update(rows["text_id"].to_pylist())
        self._texts.update(rows["text"].to_pylist())
        for chunk in rows["text"].chunks:
            self._digests.write(digests_of(chunk))


class ParagraphWriter:
    """Writer of a split as a stream of rows, with a new file every `shard_rows` rows.

    Args:
        folder: empty folder that is not published yet (see `utils.folders`).
        stem: stem of the file names: `train`, `val` or `test`.
        schema: schema of the rows.
        shard_rows: maximum number of rows in a file.
    """

    def __init__(self, folder: Path, stem: str, schema: pa.Schema, shard_rows: int) -> None:
        self._folder, self._stem, self._schema, self._shard_rows = folder, stem, schema, shard_rows
        self._entries: list[ShardEntry] = []
        self._file = self._next_file()

    def write(self, rows: pa.Table) -> None:
        """Append rows."""
        while rows.num_rows:
            if self._file.rows == self._shard_rows:
                self._entries.append(self._file.close())
                self._file = self._next_file()
            room = self._shard_rows - self._file.rows
            self._file.write(rows.slice(0, room))
            rows = rows.slice(room)

    def close(self) -> list[ShardEntry]:
        """Finish the last file and rename all files to their final names; an empty split has one empty file."""
        self._entries.append(self._file.close())
        listed = []
        for index, entry in enumerate(self._entries):
            name = shard_name(self._stem, ".parquet", index, len(self._entries))
            (self._folder / entry.file).replace(self._folder / name)
            listed.append(replace(entry, file=name))
        return listed

    def _next_file(self) -> ShardWriter:
        return ShardWriter(self._folder / f"{self._stem}.{len(self._entries)}.tmp", self._schema)


def paragraph_schema(metadata: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema of a paragraph file: the fixed columns, then the metadata columns."""
    fixed: list[tuple[str, Any]] = [
        ("text_id", pa.string()),
        ("text", pa.string()),
        ("token_count", pa.int64()),
        ("char_count", pa.int64()),
        ("document_id", pa.string()),
        ("title", pa.string()),
        ("section", pa.string()),
        ("source_split", pa.string()),
    ]
    return pa.schema([*fixed, *metadata.items()])
