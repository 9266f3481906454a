"""Whole files in a folder at a URL: listed, fetched and put, each request with retries, each transfer checked.

A file is there only when all of it is: object stores see to that themselves, and elsewhere a file is put under another
name and renamed.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from data_pipeline.errors import DataPipelineError, StoreError
from data_pipeline.utils.remote import identity_of, open_file_system, reason, with_retries
from data_pipeline.utils.urls import without_secrets

T = TypeVar("T")

# Stores that show an object when all of it has arrived, and have no folders.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf"}


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """File at a URL."""

    size: int
    """Size in bytes."""
    identity: str
    """What changes with its content (an entity tag, or the time of the change)."""


class RemoteObjects:
    """Files in a folder at a URL, by their names relative to it.

    Args:
        url: URL of the folder, which may hold secrets.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.shown = without_secrets(url)
        """The URL without secrets."""

    def list(self) -> dict[str, RemoteEntry]:
        """List all files of the folder and its subfolders, by name.

        Raises:
            StoreError: the folder cannot be listed.
        """
        system, root = self._opened

        def found() -> dict[str, Any]:
            system.invalidate_cache()
            entries: dict[str, Any] = system.find(root, detail=True)
            return entries

        try:
            entries = self._call("cannot be listed", "", found)
        except _NotFoundError:
            return {}
        prefix = f"{root}/"
        return {
            name.removeprefix(prefix): RemoteEntry(int(info["size"]), identity_of(info))
            for name, info in sorted(entries.items())
            if name.startswith(prefix) and info["type"] == "file"
        }

    def fetch(self, name: str, path: Path, size: int) -> None:
        """Download a file.

        Args:
            name: name of the file.
            path: local path that it is written to.
            size: size in bytes that it must have.

        Raises:
            StoreError: it cannot be downloaded, or has another size.
        """
        system, root = self._opened

        def get() -> None:
            system.get_file(f"{root}/{name}", str(path))
            if (found := path.stat().st_size) != size:
                raise OSError(f"{found:,} of {size:,} bytes arrived")

        self._call("cannot be fetched", name, get)

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if there is none.

        Raises:
            StoreError: it cannot be read.
        """
        system, root = self._opened
        try:
            content: bytes = self._call("cannot be read", name, lambda: system.cat_file(f"{root}/{name}"))
        except _NotFoundError:
            return None
        return content

    def put(self, path: Path, name: str) -> RemoteEntry:
        """Upload a file, replacing the one that is there.

        Raises:
            StoreError: it cannot be written.
        """
        system = self._opened[0]
        return self._put(name, path.stat().st_size, lambda target: system.put_file(str(path), target))

    def write(self, name: str, content: bytes) -> RemoteEntry:
        """Write a small file, replacing the one that is there.

        Raises:
            StoreError: it cannot be written.
        """
        system = self._opened[0]
        return self._put(name, len(content), lambda target: system.pipe_file(target, content))

    def copy(self, source: str, target: str, size: int) -> RemoteEntry:
        """Copy a file within the folder, without a transfer where the store can do that.

        Raises:
            StoreError: it cannot be copied.
        """
        system, root = self._opened
        return self._put(target, size, lambda whole: system.cp_file(f"{root}/{source}", whole))

    def create(self, name: str, content: bytes, replaced: bytes | None = None) -> bool:
        """Write a small file if there is none yet, or if the one that is there has a certain content.

        Args:
            name: name of the file.
            content: content, which no other process writes.
            replaced: content of the one that may be there.

        Returns:
            Whether the file is now this one.

        Raises:
            StoreError: it cannot be written.
        """
        system, root = self._opened

        def write() -> bytes:
            options: dict[str, Any] = {"mode": "create"}
            if replaced is not None:
                options = self._match_of(name)
                if self.read(name) != replaced:
                    return b""
            self._make_parent(name)
            failure: Exception | None = None
            try:
                system.pipe_file(f"{root}/{name}", content, **options)
            except Exception as error:  # noqa: BLE001  # also if it was written, and the answer got lost
                failure = error
            found = self.read(name)
            if found is None:
                raise failure or OSError("it is not there after it was written")
            return found

        return self._call("cannot be written", name, write) == content

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, which need not be there.

        Raises:
            StoreError: one cannot be removed.
        """
        system, root = self._opened
        for name in names:
            with suppress(_NotFoundError):
                self._call("cannot be removed", name, lambda name=name: system.rm_file(f"{root}/{name}"))  # type: ignore[misc]

    def _put(self, name: str, size: int, write: Callable[[str], object]) -> RemoteEntry:
        system, root = self._opened
        target = f"{root}/{name}"

        def put() -> RemoteEntry:
            if self._is_object_store:
                write(target)
            else:
                self._make_parent(name)
                parent, _, last = target.rpartition("/")
                temporary = f"{parent}/.{last}.{uuid4().hex}.tmp"
                try:
                    write(temporary)
                    system.mv(temporary, target)
                except BaseException:
                    with suppress(Exception):
                        system.rm_file(temporary)
                    raise
            system.invalidate_cache()
            info = system.info(target)
            if (found := int(info["size"])) != size:
                raise OSError(f"{found:,} of {size:,} bytes arrived")
            return RemoteEntry(size, identity_of(info))

        return self._call("cannot be written", name, put)

    def _make_parent(self, name: str) -> None:
        system, root = self._opened
        if not self._is_object_store:
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)

    def _match_of(self, name: str) -> dict[str, str]:
        """Condition of S3 that the file that is there is replaced only if it is still the same."""
        if not self._protocols & {"s3", "s3a"}:
            return {}
        system, root = self._opened
        system.invalidate_cache()
        with suppress(FileNotFoundError):
            return {"IfMatch": system.info(f"{root}/{name}")["ETag"]}
        return {}

    def _call(self, failure: str, name: str, action: Callable[[], T]) -> T:
        """Call a function of the file system, with retries; any error becomes one without secrets."""
        where = f"{self.shown}/{name}" if name else self.shown
        try:
            return with_retries(action)
        except DataPipelineError:
            raise
        except Exception as error:  # noqa: BLE001  # file systems raise errors without a common base class
            kind = _NotFoundError if isinstance(error, FileNotFoundError) else StoreError
            # The traceback of `from error` would show the URL.
            raise kind(f"{where} {failure}: {reason(error)}") from None

    @property
    def _is_object_store(self) -> bool:
        return bool(self._protocols & _OBJECT_STORES)

    @cached_property
    def _protocols(self) -> set[str]:
        protocol = self._opened[0].protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        system, root = open_file_system(self._url)
        return system, root.rstrip("/")


class _NotFoundError(StoreError):
    """There is no such file."""
