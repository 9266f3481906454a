"""Texts and metadata by row, from a memory-mapped copy of the parquet files.

Parquet is compressed and must be read a row group at a time, but a training loop needs random access to rows.
Therefore each shard is also written as an uncompressed Arrow file, whose name has the hash of the parquet file. The
copies can be deleted at any time.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from data_pipeline.errors import CorruptShardError
from data_pipeline.store.access.mapped_files import will_need
from data_pipeline.store.access.read_ahead import FilePosition, ReadAhead
from data_pipeline.store.hashing import ColumnHash
from data_pipeline.store.paragraphs import ParagraphShard, reading_parquet
from data_pipeline.types import IntArray
from data_pipeline.utils import published, sha256_of_json
from data_pipeline.utils.system import remove_unused

logger = logging.getLogger(__name__)

_FORMAT = 1
_ADVICE = "Delete it; it is rebuilt from parquet."
_BATCH_ROWS = 131_072  # rows of a batch of an Arrow file, which is in memory while it is written
_TEXT_BYTES = 512  # approximate size of a text
_READ_ROWS = 8192  # rows of parquet to read at a time


@dataclass(frozen=True)
class _Batch:
    """Batch of rows of an Arrow file, and the buffers of its text column."""

    rows: pa.RecordBatch
    starts: memoryview
    """Offset of the start of each text, which is the end of the previous one, as 64-bit integers."""
    characters: memoryview
    """All texts, in UTF-8."""
    path: Path
    offset: int
    """Position of the text bytes in the file."""
    address: int
    """Address of the text bytes in memory."""


class Columns:
    """Reader of texts and metadata by row number, over all shards of a split.

    Args:
        shards: shards of the split, in order.
        open_shard: returns a shard by its index, checked, and the path of its Arrow copy.
    """

    def __init__(
        self, shards: Sequence[ParagraphShard], open_shard: Callable[[int], tuple[ParagraphShard, Path]]
    ) -> None:
        self._open_shard = open_shard
        counts = [-(-shard.rows // _BATCH_ROWS) for shard in shards]
        self._first_batches = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        row_starts = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])]).astype(np.int64)
        self._starts: IntArray = np.concatenate(
            [start + np.arange(count) * _BATCH_ROWS for start, count in zip(row_starts, counts, strict=False)]
            or [np.zeros(0)]
        ).astype(np.int64)
        self._batches: dict[int, _Batch] = {}
        self._ahead = ReadAhead(self._where, self._ranges, int(row_starts[-1]), _TEXT_BYTES)
        self._schema: pa.Schema | None = None

    @property
    def schema(self) -> pa.Schema:
        """Schema of all columns."""
        if self._schema is None:
            self._open_file(0)
        assert self._schema is not None
        return self._schema

    def text(self, row: int) -> str:
        """Read the text of one row."""
        self._ahead.prepare_row(row)
        number = int(self._starts.searchsorted(row, side="right")) - 1 if len(self._starts) > 1 else 0
        return _text(self._batches.get(number) or self._batch(number), row - int(self._starts[number]))

    def texts(self, rows: IntArray) -> list[str]:
        """Read the texts of rows, given by row numbers of shape (N,); call `prepare` before."""
        # Arrow's own `take` is avoided: the first call of its compute functions costs 0.2 s and 30 MB.
        owners = self._starts.searchsorted(rows, side="right") - 1
        numbers = owners.tolist()
        batches = {number: self._batch(number) for number in set(numbers)}
        firsts, ends = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for number, batch in batches.items():
            mask = slice(None) if len(batches) == 1 else owners == number
            starts, local_rows = np.frombuffer(batch.starts, np.int64), rows[mask] - self._starts[number]
            firsts[mask], ends[mask] = starts[local_rows], starts[local_rows + 1]
        if len(batches) == 1 and (firsts[1:] == ends[:-1]).all():  # consecutive rows
            pieces = [batches[numbers[0]].characters[firsts[0] : ends[-1]]]
        else:
            lines = zip(numbers, firsts.tolist(), ends.tolist(), strict=True)
            pieces = [batches[number].characters[first:end] for number, first, end in lines]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(ends - firsts, out=offsets[1:])
        joined = pa.py_buffer(b"".join(pieces))
        # Arrow does not check offsets, and would read beyond the end of the buffer.
        if joined.size != offsets[-1] or (ends < firsts).any():
            raise _damaged(batches[numbers[0]], "the offsets of its texts are invalid")
        try:
            array = pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), joined)
            texts: list[str] = array.to_pylist()
        except UnicodeDecodeError as error:
            raise _damaged(batches[numbers[0]], error) from error
        return texts

    def records(self, rows: IntArray, columns: Sequence[str]) -> pa.Table:
        """Read columns of rows, given by row numbers of shape (N,)."""
        order, parts = self._parts(rows)
        schema = pa.schema([self.schema.field(name) for name in columns])
        batches = [self._batch(number).rows.select(columns).take(_arrow(local_rows)) for number, local_rows in parts]
        table = pa.Table.from_batches(batches, schema)
        if order is None:
            return table
        return table.combine_chunks().take(_arrow(np.argsort(order)))

    def batches(self, columns: Sequence[str]) -> list[pa.RecordBatch]:
        """Return columns of all rows as memory-mapped batches."""
        return [self._batch(number).rows.select(columns) for number in range(len(self._starts))]

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Read ahead the texts of runs of `count` rows, given their first rows."""
        self._ahead.prepare(rows, count)

    def _parts(self, rows: IntArray) -> tuple[IntArray | None, list[tuple[int, IntArray]]]:
        """Group rows by batch; returns their order by batch (None: unchanged), and the rows within each batch."""
        if len(rows) == 0:
            return None, []
        owners = self._starts.searchsorted(rows, side="right") - 1
        if owners[0] == owners[-1] and (owners == owners[0]).all():
            return None, [(int(owners[0]), rows - self._starts[owners[0]])]
        order = np.argsort(owners, kind="stable")
        numbers, firsts = np.unique(owners[order], return_index=True)
        local_rows = (rows - self._starts[owners])[order]
        return order, list(zip(numbers.tolist(), np.split(local_rows, firsts[1:]), strict=True))

    def _batch(self, number: int) -> _Batch:
        if number not in self._batches:
            self._open_file(int(self._first_batches.searchsorted(number, side="right")) - 1)
        return self._batches[number]

    def _open_file(self, index: int) -> None:
        shard, path = self._open_shard(index)
        if not path.exists():
            write_copy(shard, path)
        with reading_parquet(f"{path} cannot be read", _ADVICE):
            source = pa.memory_map(str(path))
            start = source.read_buffer(8).address
            # A forked process would wait forever for threads of Arrow.
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False))
            rows = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            expected = _copy_schema(shard.schema())
        sizes = [min(_BATCH_ROWS, shard.rows - done) for done in range(0, shard.rows, _BATCH_ROWS)]
        if [batch.num_rows for batch in rows] != sizes or reader.schema != expected:
            raise CorruptShardError(f"{path} has other rows or columns than {shard.path}. {_ADVICE}")
        if (self._schema or expected) != expected:
            raise CorruptShardError(f"{shard.path} has other columns than the shards before it")
        self._schema = expected
        first = int(self._first_batches[index])
        for number, batch in enumerate(rows):
            self._batches[first + number] = _make_batch(batch, path, start)

    def _where(self, row: int) -> FilePosition:
        number = int(self._starts.searchsorted(row, side="right")) - 1
        batch = self._batch(number)
        return batch.path, batch.offset + batch.starts[row - int(self._starts[number])]

    def _ranges(self, rows: IntArray, count: int, around: int) -> tuple[IntArray, IntArray]:
        addresses, sizes = [], []
        for number, local_rows in self._parts(rows)[1]:
            batch = self._batch(number)
            starts = np.frombuffer(batch.starts, np.int64)
            begins = local_rows - local_rows % around
            first = starts[begins]
            addresses.append(batch.address + first)
            sizes.append(starts[np.minimum(begins + count + around - 1, batch.rows.num_rows)] - first)
        return np.concatenate(addresses), np.concatenate(sizes)


def copy_path(folder: Path, shard: ParagraphShard, owner: str = "") -> Path:
    """Return the path of the Arrow copy of a shard, which depends on the content of the shard.

    Args:
        folder: folder of the copies.
        shard: shard to copy.
        owner: name of the dataset, if copies of several datasets share the folder.
    """
    size = shard.path.stat().st_size
    key = sha256_of_json(
        [_FORMAT, _BATCH_ROWS, shard.rows, shard.ids_sha256, shard.texts_sha256, shard.sha256 or None, size]
    )
    stem = f"{shard.path.stem}-{sha256_of_json(owner)[:8]}" if owner else shard.path.stem
    return folder / f"{stem}.{key[:20]}.arrow"


def copy_faults(shard: ParagraphShard, path: Path) -> list[str]:
    """Verify the ids and texts of the Arrow copy of a shard, if it exists; returns one line for each fault."""
    if not path.exists():
        return []
    ids, texts = ColumnHash(), ColumnHash()
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                ids.update(batch["text_id"].to_pylist())
                texts.update(batch["text"].to_pylist())
    except (OSError, ValueError, KeyError) as error:
        return [f"{path}: cannot be read: {error}. {_ADVICE}"]
    if (ids.hexdigest(), texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        return [f"{path}: its ids or texts differ from those of {shard.path.name}. {_ADVICE}"]
    return []


def write_copy(shard: ParagraphShard, path: Path) -> None:
    """Write the Arrow copy of a shard; see `make_once`.

    Raises:
        CorruptShardError: the ids or texts of the shard do not match their checksums.
    """
    make_once(path, shard.path.name, partial(_write_arrow, shard))


def make_once(path: Path, name: str, write: Callable[[Path], None]) -> None:
    """Write a copy once, even if several processes need it at the same time.

    Outdated copies of the file and leftovers of killed processes are removed.

    Args:
        path: path of the copy, `<stem>.<key>.arrow`.
        name: name of the original file, for the log.
        write: function that writes the copy to a path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name.split(".")[0]
    with FileLock(path.parent / f".{stem}.lock"):
        if path.exists():
            return
        for stale in path.parent.glob(f"{stem}.*.arrow*"):
            remove_unused(stale)
        logger.info("Preparing %s for random access", name)
        with published(path, path.with_name(f"{path.name}.tmp")) as temporary:
            write(temporary)
        pa.default_memory_pool().release_unused()


def _write_arrow(shard: ParagraphShard, temporary: Path) -> None:
    ids, texts = ColumnHash(), ColumnHash()
    with (
        reading_parquet(f"{shard.path} cannot be read", "Run the pipeline with --overwrite."),
        pq.ParquetFile(shard.path, pre_buffer=False) as file,
    ):
        schema = _copy_schema(file.schema_arrow)
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            hashed = _hashed((batch.cast(schema) for batch in file.iter_batches(_READ_ROWS)), ids, texts)
            for table in _rebatched(hashed):
                writer.write_table(table, max_chunksize=_BATCH_ROWS)
    if (ids.hexdigest(), texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        raise CorruptShardError(
            f"{shard.path}: its ids or texts do not match their checksums. "
            "Restore the file, or run the pipeline with --overwrite."
        )


def _copy_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the copy of a parquet file."""
    # 64-bit offsets, since the texts of a batch may exceed 2 GB.
    return pa.schema(
        [field.with_type(pa.large_string()) if field.name == "text" else field for field in schema.remove_metadata()]
    )


def _hashed(batches: Iterable[pa.RecordBatch], ids: ColumnHash, texts: ColumnHash) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        ids.update(batch["text_id"].to_pylist())
        texts.update(batch["text"].to_pylist())
        yield batch


def _rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup rows into tables with one chunk of `_BATCH_ROWS` rows; the last one may be shorter."""
    held: list[pa.RecordBatch] = []
    room = _BATCH_ROWS
    for batch in batches:
        while batch.num_rows:
            fitting, batch = batch.slice(0, room), batch.slice(room)
            held.append(fitting)
            room -= fitting.num_rows
            if room == 0:
                yield pa.Table.from_batches(held).combine_chunks()
                held, room = [], _BATCH_ROWS
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _make_batch(rows: pa.RecordBatch, path: Path, start: int) -> _Batch:
    _, starts, characters = rows["text"].buffers()
    if characters is None:  # all texts are empty
        characters = pa.py_buffer(b"")
    if starts is None or starts.size < 8 * (rows.num_rows + 1):
        raise CorruptShardError(f"{path} is truncated. {_ADVICE}")
    will_need(np.array([starts.address]), np.array([starts.size]))
    offset = characters.address - start
    return _Batch(rows, memoryview(starts).cast("q"), memoryview(characters), path, offset, characters.address)


def _text(batch: _Batch, row: int) -> str:
    try:
        return str(batch.characters[batch.starts[row] : batch.starts[row + 1]], "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(batch, error) from error


def _arrow(numbers: IntArray) -> pa.Array:
    """Convert to an Arrow array without `pa.array`, which would import pandas for 0.15 s."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _damaged(batch: _Batch, fault: object) -> CorruptShardError:
    return CorruptShardError(f"{batch.path} (or one beside it) is damaged: {fault}. {_ADVICE}")
