"""Texts and metadata by row, from a memory-mapped copy of the parquet files.

Parquet is compressed and has to be read a row group at a time; a training loop wants any row at
once. So each shard is written once more as an uncompressed Arrow file, under a name that has the
parquet's hash in it: another parquet is another file. The copies can be deleted at any time.
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
from data_pipeline.store.access.read_ahead import ReadAhead, Where
from data_pipeline.store.hashing import ColumnHash
from data_pipeline.store.paragraphs import ParagraphShard
from data_pipeline.types import IntArray
from data_pipeline.utils import publish, sha256_of_json
from data_pipeline.utils.system import remove_unused

logger = logging.getLogger(__name__)

_FORMAT = 1
_ADVICE = "Delete it; it is made again from parquet."
_BATCH_ROWS = 131_072  # of an Arrow file: few enough to be in memory while it is written
_TEXT_BYTES = 512  # of one text, about
_READ_ROWS = 8192  # of parquet, at a time


@dataclass(frozen=True)
class _Batch:
    """Some rows of an Arrow file: the arrays, and their text column's memory."""

    rows: pa.RecordBatch
    starts: memoryview
    """Where each text begins, and the one before ends; 64-bit numbers."""
    characters: memoryview
    """All texts, in UTF-8."""
    path: Path
    place: int
    """Of the text bytes, in the file."""
    address: int
    """Of the text bytes, in memory."""


class Columns:
    """Row numbers -> texts and metadata, over all shards of a split.

    Args:
        shards: of the split, in order.
        open_shard: the shard of a number, checked, and where its Arrow copy is or shall be.
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
        self._batches: list[_Batch | None] = [None] * len(self._starts)
        self._ahead = ReadAhead(self._where, self._ranges, int(row_starts[-1]), _TEXT_BYTES)
        self._schema: pa.Schema | None = None

    @property
    def schema(self) -> pa.Schema:
        """Of all columns."""
        if self._schema is None:
            self._open_file(0)
        assert self._schema is not None
        return self._schema

    def text(self, row: int) -> str:
        """The text of one row."""
        self._ahead.prepare_row(row)
        place = int(self._starts.searchsorted(row, side="right")) - 1 if len(self._starts) > 1 else 0
        return _text(self._batches[place] or self._batch(place), row - int(self._starts[place]))

    def texts(self, rows: IntArray) -> list[str]:
        """The texts of rows of shape (N,), which should be prepared before.

        Not by Arrow's own `take`: the first call of its functions costs 0.2 s and 30 MB.
        """
        places = self._starts.searchsorted(rows, side="right") - 1
        numbers = places.tolist()
        batches = {number: self._batch(number) for number in set(numbers)}
        firsts, ends = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        for number, batch in batches.items():
            here = slice(None) if len(batches) == 1 else places == number
            starts, locals_ = np.frombuffer(batch.starts, np.int64), rows[here] - self._starts[number]
            firsts[here], ends[here] = starts[locals_], starts[locals_ + 1]
        if len(batches) == 1 and (firsts[1:] == ends[:-1]).all():  # neighbours
            pieces = [batches[numbers[0]].characters[firsts[0] : ends[-1]]]
        else:
            lines = zip(numbers, firsts.tolist(), ends.tolist(), strict=True)
            pieces = [batches[number].characters[first:end] for number, first, end in lines]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(ends - firsts, out=offsets[1:])
        joined = pa.py_buffer(b"".join(pieces))
        # Arrow believes what offsets say, and would read on behind the end.
        if joined.size != offsets[-1] or (ends < firsts).any():
            raise _damaged(batches[numbers[0]], "texts do not lie where they should")
        try:
            array = pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(offsets), joined)
            found: list[str] = array.to_pylist()
        except UnicodeDecodeError as error:
            raise _damaged(batches[numbers[0]], error) from error
        return found

    def records(self, rows: IntArray, columns: Sequence[str]) -> pa.Table:
        """Some columns of rows of shape (N,)."""
        order, parts = self._parts(rows)
        schema = pa.schema([self.schema.field(name) for name in columns])
        taken = [self._batch(place).rows.select(columns).take(_arrow(locals_)) for place, locals_ in parts]
        table = pa.Table.from_batches(taken, schema)
        if order is None:
            return table
        return table.combine_chunks().take(_arrow(np.argsort(order)))

    def batches(self, columns: Sequence[str]) -> list[pa.RecordBatch]:
        """Some columns of all rows, as they lie in the files; nothing is read yet."""
        return [self._batch(place).rows.select(columns) for place in range(len(self._batches))]

    def prepare(self, rows: IntArray, count: int = 1) -> None:
        """Have the texts of runs of `count` rows fetched that are to be read soon; `rows` are the first of each."""
        self._ahead.prepare(rows, count)

    def _parts(self, rows: IntArray) -> tuple[IntArray | None, list[tuple[int, IntArray]]]:
        """Rows by batch: their positions, batch by batch (None: as they are), and the rows within each."""
        if len(rows) == 0:
            return None, []
        places = self._starts.searchsorted(rows, side="right") - 1
        if places[0] == places[-1] and (places == places[0]).all():
            return None, [(int(places[0]), rows - self._starts[places[0]])]
        order = np.argsort(places, kind="stable")
        present, firsts = np.unique(places[order], return_index=True)
        locals_ = (rows - self._starts[places])[order]
        return order, list(zip(present.tolist(), np.split(locals_, firsts[1:]), strict=True))

    def _batch(self, place: int) -> _Batch:
        found = self._batches[place]
        if found is None:
            self._open_file(int(self._first_batches.searchsorted(place, side="right")) - 1)
            found = self._batches[place]
            assert found is not None
        return found

    def _open_file(self, index: int) -> None:
        shard, path = self._open_shard(index)
        if not path.exists():
            write_copy(shard, path)
        try:
            source = pa.memory_map(str(path))
            start = source.read_buffer(8).address
            # Without Arrow's threads: a forked process would wait for them for ever.
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False))
            rows = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            expected = _copy_schema(pq.read_schema(shard.path))
        except (OSError, pa.ArrowException) as error:
            raise CorruptShardError(f"{path} cannot be read: {error}. {_ADVICE}") from error
        sizes = [min(_BATCH_ROWS, shard.rows - done) for done in range(0, shard.rows, _BATCH_ROWS)]
        if [batch.num_rows for batch in rows] != sizes or reader.schema != expected:
            raise CorruptShardError(f"{path} has other rows or columns than {shard.path}. {_ADVICE}")
        if (self._schema or expected) != expected:
            raise CorruptShardError(f"{shard.path} has other columns than the shards before it")
        self._schema = expected
        first = int(self._first_batches[index])
        for number, batch in enumerate(rows):
            self._batches[first + number] = _opened(batch, path, start)

    def _where(self, row: int) -> Where:
        place = int(self._starts.searchsorted(row, side="right")) - 1
        batch = self._batch(place)
        return batch.path, batch.place + batch.starts[row - int(self._starts[place])]

    def _ranges(self, rows: IntArray, count: int, around: int) -> tuple[IntArray, IntArray]:
        addresses, sizes = [], []
        for place, locals_ in self._parts(rows)[1]:
            batch = self._batch(place)
            starts = np.frombuffer(batch.starts, np.int64)
            begins = locals_ - locals_ % around
            first = starts[begins]
            addresses.append(batch.address + first)
            sizes.append(starts[np.minimum(begins + count + around - 1, batch.rows.num_rows)] - first)
        return np.concatenate(addresses), np.concatenate(sizes)


def copy_path(folder: Path, shard: ParagraphShard, owner: str = "") -> Path:
    """Name of a shard's Arrow copy in a folder of such; the same content has the same name.

    Args:
        folder: with the copies.
        shard: that is copied.
        owner: what the shard belongs to, where copies of several data sets share the folder.
    """
    size = shard.path.stat().st_size
    key = sha256_of_json([_FORMAT, _BATCH_ROWS, shard.rows, shard.ids_sha256, shard.texts_sha256, shard.sha256, size])
    stem = f"{shard.path.stem}-{sha256_of_json(owner)[:8]}" if owner else shard.path.stem
    return folder / f"{stem}.{key[:20]}.arrow"


def copy_faults(shard: ParagraphShard, path: Path) -> list[str]:
    """What is wrong with a shard's Arrow copy, where there is one; reads its ids and texts."""
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
        return [f"{path}: its ids or texts are not those of {shard.path.name}. {_ADVICE}"]
    return []


def write_copy(shard: ParagraphShard, path: Path) -> None:
    """Write a shard's Arrow copy; see `make_once`.

    Raises:
        CorruptShardError: the shard's texts are not those its hashes speak of.
    """
    make_once(path, shard.path.name, partial(_write_arrow, shard))


def make_once(path: Path, name: str, write: Callable[[Path], None]) -> None:
    """Write a copy once, also where several processes come at the same time.

    Older copies of the file and what a killed process left are removed.

    Args:
        path: of the copy, `<stem>.<key>.arrow`.
        name: of the file that is copied, for the log.
        write: writes the copy to the path it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name.split(".")[0]
    with FileLock(path.parent / f".{stem}.lock"):
        if path.exists():
            return
        for stale in path.parent.glob(f"{stem}.*.arrow*"):
            remove_unused(stale)
        logger.info("preparing %s for random access", name)
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            write(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        publish(temporary, path)
        pa.default_memory_pool().release_unused()


def _write_arrow(shard: ParagraphShard, temporary: Path) -> None:
    ids, texts = ColumnHash(), ColumnHash()
    try:
        with pq.ParquetFile(shard.path) as file:
            schema = _copy_schema(file.schema_arrow)
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                hashed = _hashed((batch.cast(schema) for batch in file.iter_batches(_READ_ROWS)), ids, texts)
                for table in _rebatched(hashed):
                    writer.write_table(table, max_chunksize=_BATCH_ROWS)
    except (OSError, pa.ArrowException) as error:
        raise CorruptShardError(f"{shard.path} cannot be read: {error}. Run the pipeline with --overwrite.") from error
    if (ids.hexdigest(), texts.hexdigest()) != (shard.ids_sha256, shard.texts_sha256):
        raise CorruptShardError(
            f"{shard.path}: its ids or texts are not those its hashes speak of. "
            "Restore the file, or run the pipeline with --overwrite."
        )


def _copy_schema(schema: pa.Schema) -> pa.Schema:
    """Of a copy, by that of its parquet file."""
    # 64-bit offsets: the texts of a batch may be more than 2 GB.
    return pa.schema(
        [field.with_type(pa.large_string()) if field.name == "text" else field for field in schema.remove_metadata()]
    )


def _hashed(batches: Iterable[pa.RecordBatch], ids: ColumnHash, texts: ColumnHash) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        ids.update(batch["text_id"].to_pylist())
        texts.update(batch["text"].to_pylist())
        yield batch


def _rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows as tables of one chunk and `_BATCH_ROWS` rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    room = _BATCH_ROWS
    for batch in batches:
        while batch.num_rows:
            some, batch = batch.slice(0, room), batch.slice(room)
            held.append(some)
            room -= some.num_rows
            if room == 0:
                yield pa.Table.from_batches(held).combine_chunks()
                held, room = [], _BATCH_ROWS
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _opened(rows: pa.RecordBatch, path: Path, start: int) -> _Batch:
    _, starts, characters = rows["text"].buffers()
    if characters is None:  # no text has any
        characters = pa.py_buffer(b"")
    if starts is None or starts.size < 8 * (rows.num_rows + 1):
        raise CorruptShardError(f"{path} is damaged: it ends too early. {_ADVICE}")
    will_need(np.array([starts.address]), np.array([starts.size]))
    place = characters.address - start
    return _Batch(rows, memoryview(starts).cast("q"), memoryview(characters), path, place, characters.address)


def _text(batch: _Batch, row: int) -> str:
    try:
        return str(batch.characters[batch.starts[row] : batch.starts[row + 1]], "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(batch, error) from error


def _arrow(numbers: IntArray) -> pa.Array:
    """As an Arrow array; `pa.array` would import pandas, which takes 0.15 s."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _damaged(batch: _Batch, what: object) -> CorruptShardError:
    return CorruptShardError(f"{batch.path} (or one beside it) is damaged: {what}. {_ADVICE}")
