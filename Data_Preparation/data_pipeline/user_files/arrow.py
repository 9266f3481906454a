"""Records of Arrow files: the file format, and the stream format in which `datasets` saves its data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from data_pipeline.errors import SourceError
from data_pipeline.user_files.inputs import InputFile, size_of
from data_pipeline.user_files.text import OnBytes, open_bytes
from data_pipeline.utils import converted_errors
from data_pipeline.utils.missing import without_nan

_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_ROWS = 1000


def arrow_schema(path: InputFile) -> pa.Schema:
    """Read the names and types of the columns of an Arrow file.

    Raises:
        SourceError: the file cannot be read.
    """
    with _readable(path), _opened(path, None) as (schema, _):
        return schema


def arrow_records(
    path: InputFile, columns: Sequence[str], on_bytes: OnBytes | None = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the row numbers, from 1, and rows of an Arrow file.

    Args:
        path: the file.
        columns: columns to read.
        on_bytes: called with the number of bytes of each read.

    Raises:
        SourceError: the file cannot be read, or is cut.
    """
    number = 0
    with _readable(path), _opened(path, on_bytes) as (_, batches):
        for batch in batches:
            rows = batch.select(list(columns))
            for start in range(0, len(rows), _ROWS):
                for values in without_nan(rows.slice(start, _ROWS)).to_pylist():
                    number += 1
                    yield number, values


def _readable(path: InputFile) -> Any:
    return converted_errors((OSError, pa.ArrowException), SourceError, f"{path} cannot be read as Arrow")


@contextmanager
def _opened(path: InputFile, on_bytes: OnBytes | None) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with open_bytes(path, on_bytes) as stream:
        is_file = stream.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        if not is_file:
            stream.seek(max(0, size_of(path) - len(_STREAM_END)))
            if stream.read() != _STREAM_END:
                raise SourceError(f"{path} is not Arrow, or its end is missing. Write or copy it again.")
        stream.seek(0)
        source = pa.PythonFile(stream, "r")
        if not is_file:
            reader = pa.ipc.open_stream(source)
            yield reader.schema, iter(reader)
            return
        file = pa.ipc.open_file(source)
        yield file.schema, map(file.get_batch, range(file.num_record_batches))
