"""Text files: decompressed by their content, UTF-8 with or without a byte-order mark, read line by line."""

import contextlib
import io
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipeline.errors import RecordError, SourceError
from data_pipeline.user_files.inputs import InputFile, first_bytes
from data_pipeline.user_files.remote import RemoteFile
from data_pipeline.utils import converted_errors

MAX_LINE_BYTES = 1 << 26
"""Maximum size of a line: to decode a text and to count its tokens takes up to a hundred times its size in memory."""

OnBytes = Callable[[int], object]
"""Called with the number of bytes of each read from the disk."""

OnBad = Callable[[int, RecordError], object]
"""Called with the number of a line or row that cannot be used, from 1, and the reason; the others are read on."""

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# First bytes of compressed files, and pyarrow's names of the formats.
_COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"))
_XZ = b"\xfd7zXZ\x00"


class _CountedFile(io.FileIO):
    """A file that reports the number of bytes of each read."""

    def __init__(self, path: Path, on_bytes: OnBytes | None) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if self._on_bytes is not None:
            self._on_bytes(count)
        return count


@contextlib.contextmanager
def open_bytes(path: InputFile, on_bytes: OnBytes | None = None) -> "Iterator[io.BufferedReader[Any]]":
    """Open a file as a stream of its bytes, which can be positioned.

    Args:
        path: the file.
        on_bytes: called with the number of bytes of each read from the disk or the network.

    Raises:
        OSError: the file cannot be read.
        SourceError: a remote file was changed while it was read.
    """
    if isinstance(path, RemoteFile):
        with path.open(on_bytes) as stream:
            yield stream
        path.check_unchanged()
        return
    with io.BufferedReader(_CountedFile(path, on_bytes), _BLOCK_BYTES) as stream:
        yield stream


@contextlib.contextmanager
def open_stream(path: InputFile, on_bytes: OnBytes | None = None) -> Iterator[Any]:
    """Open a file as a stream of bytes, decompressed if its content is gzip, Zstandard, bzip2 or xz.

    Args:
        path: the file.
        on_bytes: called with the number of bytes of each read from the disk or the network.

    Raises:
        OSError: the file cannot be read, or its compressed data is truncated.
        SourceError: a remote file was changed while it was read.
    """
    with open_bytes(path, on_bytes) as raw:
        magic_bytes = raw.peek(6)
        if magic_bytes.startswith(_XZ):
            with lzma.open(raw) as unpacked:
                yield unpacked
            return
        compression = next((name for magic, name in _COMPRESSIONS if magic_bytes.startswith(magic)), None)
        if compression is None:
            yield raw
            return
        with pa.CompressedInputStream(pa.PythonFile(raw, "r"), compression) as stream:
            yield stream


def set_aside(number: int, error: RecordError, on_bad: OnBad | None) -> None:
    """Report a line or row that cannot be used, or raise its error if nobody wants the report."""
    if on_bad is None:
        raise error
    on_bad(number, error)


def is_compressed(path: Path) -> bool:
    """Return whether the content of a local file is compressed; see `open_stream`.

    Raises:
        SourceError: the file cannot be read.
    """
    with converted_errors(OSError, SourceError, f"{path} cannot be read"):
        start = first_bytes(path, 6)
    return start.startswith(_XZ) or any(start.startswith(magic) for magic, _ in _COMPRESSIONS)


def line_ranges(path: Path, size: int) -> Iterator[tuple[int, int, int]]:
    """Cut a file that is not compressed into ranges of at least `size` bytes that end at line ends, the last one apart.

    Yields:
        Position of the first byte, exclusive position of the last byte, and number of the first line, from 1.

    Raises:
        SourceError: the file cannot be read.
    """
    start, position, first, lines = 0, 0, 1, 0
    with converted_errors(OSError, SourceError, f"{path} cannot be read"), path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            read = 0
            while (end := block.find(b"\n", max(read, start + size - position - 1))) >= 0:
                lines += block.count(b"\n", read, end + 1)
                read = end + 1
                yield start, position + read, first
                start, first, lines = position + read, first + lines, 0
            lines += block.count(b"\n", read)
            position += len(block)
    if position > start:
        yield start, position, first


def read_lines(
    path: InputFile,
    on_bytes: OnBytes | None = None,
    on_bad: OnBad | None = None,
    encoding: str = "utf-8",
    span: tuple[int, int] | None = None,
    first_number: int = 1,
) -> Iterator[tuple[int, str]]:
    """Read line numbers, from 1, and lines without their ends; only line feeds end a line (U+2028 and U+0085 are text).

    Args:
        path: the file.
        on_bytes: see `open_stream`.
        on_bad: called with lines that cannot be decoded or are longer than `MAX_LINE_BYTES`; None to raise their error.
        encoding: encoding of the file, other than UTF-16 and UTF-32.
        span: first and exclusive last byte to read, of a file that is not compressed; None for all.
        first_number: number of the first line of these.

    Raises:
        RecordError: a line cannot be decoded, or is longer than `MAX_LINE_BYTES`.
        SourceError: the file cannot be read, or is UTF-16 or UTF-32.
    """
    number = first_number - 1
    try:
        with open_stream(path, on_bytes) as stream:
            for number, line in enumerate(_lines(stream, path, span), start=first_number):
                try:
                    text = _decoded(line, f"{path}, line {number}", encoding)
                except RecordError as error:
                    set_aside(number, error, on_bad)
                    continue
                yield number, text
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise SourceError(f"{path} cannot be read after line {number}: {error}") from error


def _decoded(line: bytes | None, where: str, encoding: str) -> str:
    if line is None:
        raise RecordError(
            f"{where}: longer than {MAX_LINE_BYTES >> 20} MiB. Is each record on a line of its own? Cut longer texts "
            "into several records.",
            "line_too_long",
        )
    try:
        return line.removesuffix(b"\r").decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper()
        raise RecordError(
            f"{where}: not {name}: byte 0x{error.object[error.start]:02x} at position {error.start}. Find out the "
            "file's encoding and convert it (iconv -f ENCODING -t UTF-8).",
            f"not_{name.lower().replace('-', '')}",
        ) from error


def _lines(stream: Any, path: InputFile, span: tuple[int, int] | None) -> Iterator[bytes | None]:
    """Iterate over lines; None for a line of more than `MAX_LINE_BYTES`, which is not kept in memory."""
    parts: list[bytes] = []  # parts of a line that continues in the next block
    size = 0
    is_first = span is None or span[0] == 0
    left = None
    if span is not None:
        stream.seek(span[0])
        left = span[1] - span[0]
    while block := stream.read(_BLOCK_BYTES if left is None else min(left, _BLOCK_BYTES)):
        left = None if left is None else left - len(block)
        if is_first:
            block = _strip_mark(block, path)
            is_first = False
        continuation, *others = block.split(b"\n")
        parts.append(continuation)
        size += len(continuation)
        if size > MAX_LINE_BYTES:
            parts.clear()
        if others:
            yield b"".join(parts) if size <= MAX_LINE_BYTES else None
            yield from others[:-1]
            parts, size = [others[-1]], len(others[-1])
    if size:
        yield b"".join(parts) if size <= MAX_LINE_BYTES else None


def _strip_mark(block: bytes, path: InputFile) -> bytes:
    """Remove the byte-order mark from the first block of a file; rejects UTF-16 and UTF-32."""
    if block[:2] in {b"\xff\xfe", b"\xfe\xff"} or (b"\0" in block[:2] and block[:4].strip(b"\0")):
        raise SourceError(
            f"{path} is encoded as UTF-16 or UTF-32, expected UTF-8. Convert it: "
            f"iconv -f UTF-16 -t UTF-8 {path.name} > new-{path.name}"
        )
    return block.removeprefix(_BYTE_ORDER_MARK)
