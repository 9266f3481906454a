"""Files at URLs, by any protocol of fsspec: s3://, gs://, hf://, https://, ...

A file is read in blocks, each of which is requested again if it fails or is cut off; a short answer is never taken for
the end of a file. Credentials and endpoints are those of the protocol's own library (environment, configuration files).
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from data_pipeline.errors import SourceError
from data_pipeline.utils import converted_errors
from data_pipeline.utils.remote import ATTEMPTS, identity_of, is_permanent, open_file_system, reason, with_retries
from data_pipeline.utils.urls import without_secrets

BLOCK_BYTES = 8 << 20
"""Size of a request; larger ones need more memory, smaller ones wait more often."""


@dataclass(frozen=True)
class RemoteFile:
    """File at a URL, with the interface of a path as far as readers need it."""

    url: str = field(repr=False)
    """URL, which may hold secrets."""
    size: int = field(compare=False)
    """Size in bytes."""
    identity: str = field(compare=False)
    """Checksum or entity tag of the server, or else the time of the last change, with the size; empty for none."""

    def __str__(self) -> str:
        """URL without the parts that may hold secrets."""
        return without_secrets(self.url)

    @property
    def name(self) -> str:
        """Last part of the URL."""
        return PurePosixPath(str(self)).name

    @property
    def stem(self) -> str:
        """Name without its last ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Last ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def check_unchanged(self) -> None:
        """Check that the file is still the one that was listed.

        Raises:
            SourceError: it was replaced or removed.
        """
        system, path = self.opened
        system.invalidate_cache()
        info = _info(system, path, self.url)
        if (identity_of(info), info.get("size")) != (self.identity, self.size):
            raise SourceError(f"{self} was changed while it was read. Run again, once it stays as it is.")

    def open(self, on_bytes: Callable[[int], object] | None = None) -> io.BufferedReader:
        """Open the file as a stream of bytes that can be positioned.

        Args:
            on_bytes: called with the number of bytes of each block.
        """
        return io.BufferedReader(_Blocks(self, on_bytes), BLOCK_BYTES)

    def first_bytes(self, count: int) -> bytes:
        """Read the beginning of the file, without the rest of its first block.

        Raises:
            OSError: it cannot be read.
        """
        with _Blocks(self, None) as blocks:
            return blocks.read(count)

    def sha256(self) -> str:
        """Compute the SHA-256 of the content, for which it is read.

        Raises:
            SourceError: it cannot be read.
        """
        with converted_errors(OSError, SourceError, f"{self} cannot be read"), self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """File system of the file, and its path there."""
        return open_file_system(self.url)


class _Blocks(io.RawIOBase):
    """Stream of the bytes of a remote file."""

    def __init__(self, file: RemoteFile, on_bytes: Callable[[int], object] | None) -> None:
        self._file, self._on_bytes, self._position = file, on_bytes, 0
        self._handle: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._drop_handle()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        start = self._position
        stop = min(start + len(buffer), self._file.size)
        if start >= stop:
            return 0
        buffer[: stop - start] = self._fetch(start, stop)
        self._position = stop
        if self._on_bytes is not None:
            self._on_bytes(stop - start)
        return stop - start

    def _fetch(self, start: int, stop: int) -> bytes:
        """Read the bytes from `start` to `stop`, exclusive.

        Raises:
            OSError: they cannot be read, or fewer of them arrive, in each of four attempts.
        """

        def read() -> bytes:
            try:
                block = self._read(start, stop - start)
            except BaseException:
                self._drop_handle()  # it may be in the middle of an answer
                raise
            if len(block) == self._file.size:
                return block[start:stop]  # all of it, from a server without byte ranges
            if len(block) != stop - start:
                self._drop_handle()
                raise OSError(f"{len(block):,} of {stop - start:,} bytes arrived from byte {start:,}")
            return block

        try:
            return with_retries(read)
        except Exception as error:  # noqa: BLE001  # see is_permanent
            attempts = "" if is_permanent(error) else f", after {ATTEMPTS} attempts"
            advice = ". Download the file first" if "range requests" in str(error) else ""
            raise OSError(f"{reason(error)}{attempts}{advice}") from None

    def _read(self, start: int, count: int) -> bytes:
        if self._handle is None:
            system, path = self._file.opened
            self._handle = system.open(path, "rb", cache_type="none")
        self._handle.seek(start)
        block: bytes = self._handle.read(count)
        return block

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def list_remote(url: str, setting: str) -> tuple[list[RemoteFile], bool]:
    """List the file at a URL, or the files of a folder and its subfolders, or those that match a pattern with `*`.

    Args:
        url: URL of a file or folder, or a pattern.
        setting: name of the setting with the URL, for messages.

    Returns:
        The files, sorted by URL, without hidden ones in a folder; and whether the URL names one file.

    Raises:
        SourceError: the URL cannot be read, or nothing is there.
        MissingExtraError: the library of the protocol is not installed.
    """
    system, path = open_file_system(url)
    system.invalidate_cache()  # a file that was added since the last listing counts
    shown = without_secrets(url)
    is_web = url.startswith(("http://", "https://"))  # where every path could be a folder, and ? begins a query
    if "*" not in path and (is_web or not _is_folder(system, path, url)):
        return [_remote_file(url, _info(system, path, url))], True
    try:
        found = system.glob(path, detail=True) if "*" in path else system.find(path, detail=True)
    except Exception as error:  # noqa: BLE001  # see is_permanent
        raise SourceError(f"{setting}: {shown} cannot be listed: {reason(error)}") from None
    root = path.split("*")[0].rpartition("/")[0] if "*" in path else path
    names = [name for name, info in found.items() if info["type"] == "file" and not _is_hidden(name, root)]
    if not names:
        raise SourceError(f"{setting}: nothing is at {shown}")
    return [_remote_file(system.unstrip_protocol(name), found[name]) for name in sorted(names)], False


def _remote_file(url: str, info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    if size is None:
        raise SourceError(f"{without_secrets(url)}: the server does not say how long the file is. Download it first.")
    return RemoteFile(url, int(size), identity_of(info))


def _info(system: Any, path: str, url: str) -> Mapping[str, Any]:
    shown = without_secrets(url)
    try:
        info: Mapping[str, Any] = with_retries(lambda: system.info(path))
    except FileNotFoundError as error:
        cause = f" ({reason(error.__cause__)})" if error.__cause__ else ""
        raise SourceError(f"nothing can be read at {shown}{cause}. Check the address.") from None
    except Exception as error:  # noqa: BLE001  # see is_permanent
        raise SourceError(f"{shown} cannot be read: {reason(error)}") from None
    return info


def _is_folder(system: Any, path: str, url: str) -> bool:
    try:
        return bool(system.isdir(path))
    except Exception as error:  # noqa: BLE001  # see is_permanent
        raise SourceError(f"{without_secrets(url)} cannot be read: {reason(error)}") from None


def _is_hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in name.removeprefix(root).split("/"))
