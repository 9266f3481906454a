"""A data folder on another machine, by any protocol fsspec knows: s3://, gs://, hf://, https://, ...

Files are fetched when they are first needed, and kept under the hash that the manifest gives: a file
that is there is the right one, whatever happened since to the remote one.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from filelock import FileLock

from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.utils import atomic_write_bytes, human_bytes, publish, sha256_of_file

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"[\w+.-]+://[^\s'\"<>()]*")


@dataclass(frozen=True)
class RemoteFolder:
    """A data folder elsewhere.

    Args:
        url: of the folder.
        cache: where copies are kept.
    """

    url: str = field(repr=False)
    cache: Path

    def local(self, name: str) -> Path:
        """A local folder that holds the manifest of one of its folders, as it is now, and nothing else.

        Raises:
            StoreError: it cannot be read.
        """
        key = hashlib.sha256(f"{self.url}/{name}".encode()).hexdigest()[:20]
        folder = self.cache / "manifests" / key / Path(name).name
        manifest = self._read(f"{name}/manifest.json")
        with self._lock(folder.parent):
            if manifest is None:
                (folder / "manifest.json").unlink(missing_ok=True)
            else:
                atomic_write_bytes(folder / "manifest.json", manifest)
        return folder

    def names(self) -> list[str]:
        """Names of its folders.

        Raises:
            StoreError: they cannot be listed.
        """
        with self._talking(
            "cannot be read; if it only cannot be listed, say which corpus, ELMDataset(..., corpus=NAME)"
        ):
            found = self._system.ls(self._root, detail=True)
        return [Path(entry["name"].rstrip("/")).name for entry in found if entry["type"] == "directory"]

    def place(self, entry: ShardEntry) -> Path:
        """Where the copy of a file is, or will be.

        Raises:
            CorruptShardError: the manifest is not one of this package.
        """
        if not _SHA256.fullmatch(entry.sha256):
            raise CorruptShardError(
                f"a manifest in {self.shown} gives {entry.file} the hash {entry.sha256!r}: no SHA-256"
            )
        return self.cache / "files" / entry.sha256 / Path(entry.file).name

    def fetch(self, name: str, entry: ShardEntry) -> Path:
        """The local copy of a file of a folder, fetched if it is not there.

        Raises:
            StoreError: it cannot be fetched.
            CorruptShardError: it is not the file that the manifest speaks of.
        """
        path = self.place(entry)
        if path.exists():
            return path
        with self._lock(path.parent):
            if path.exists():
                return path  # another process was quicker
            remote = f"{name}/{path.name}"
            logger.info("fetching %s/%s%s", self.shown, remote,
                        f" ({human_bytes(entry.bytes)})" if entry.bytes is not None else "")  # fmt: skip
            temporary = path.with_name(f"{path.name}.tmp")
            try:
                with self._talking("cannot be fetched", remote):
                    self._system.get_file(f"{self._root}/{remote}", str(temporary))
                if (found := sha256_of_file(temporary)) != entry.sha256:
                    raise CorruptShardError(
                        f"{self.shown}/{remote} has the SHA-256 {found[:12]}, its manifest speaks of "
                        f"{entry.sha256[:12]}: it was changed or damaged. Upload the folder again."
                    )
                publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        return without_secrets(self.url)

    @cached_property
    def _system(self) -> Any:
        with self._talking("cannot be opened"):
            return fsspec.core.url_to_fs(self.url)[0]

    @cached_property
    def _root(self) -> str:
        return str(fsspec.core.url_to_fs(self.url)[1]).rstrip("/")

    def _read(self, name: str) -> bytes | None:
        system, path = self._system, f"{self._root}/{name}"
        with self._talking("cannot be read", name):
            try:
                return bytes(system.cat_file(path))
            except FileNotFoundError:
                return None

    @contextmanager
    def _talking(self, what: str, name: str = "") -> Iterator[None]:
        """Whatever a file system raises, as one kind of error that tells no secrets."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # each file system has errors of its own, of no common kind
            where = f"{self.shown}/{name}" if name else self.shown
            # Not `from error`: its traceback would show the URL.
            raise StoreError(f"{where} {what}: {without_secrets(str(error)) or type(error).__name__}") from None

    def _lock(self, folder: Path) -> FileLock:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock")

    def __getstate__(self) -> dict[str, Any]:
        """A process opens its own connections."""
        return {"url": self.url, "cache": self.cache}


def without_secrets(text: str) -> str:
    """A text whose URLs have neither users and passwords nor queries, which may hold tokens."""

    def cleaned(match: re.Match[str]) -> str:
        links = []
        for link in match[0].split("::"):  # of a chain of file systems
            scheme, separator, rest = link.partition("://")
            host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
            links.append(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}".rstrip("/"))
        return "::".join(links)

    return _URL.sub(cleaned, text)
