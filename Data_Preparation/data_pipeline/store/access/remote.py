"""Remote data folders, by any protocol of fsspec: s3://, gs://, hf://, https://, ...

Files are downloaded when they are first needed, and cached under the hash in the manifest: a cached file is valid
whatever has happened to the remote file since.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_pipeline.errors import CorruptShardError, MissingExtraError, StoreError
from data_pipeline.store.manifest import ShardEntry
from data_pipeline.utils import atomic_write_bytes, human_bytes, published, sha256_of_file
from data_pipeline.utils.remote import open_file_system, reason, with_retries
from data_pipeline.utils.urls import without_secrets

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFolder:
    """Remote data folder.

    Args:
        url: URL of the folder.
        cache: local folder of downloaded files.
    """

    url: str = field(repr=False)
    cache: Path

    def local(self, name: str) -> Path:
        """Download the present manifest of a subfolder to a local folder, and return that folder.

        Raises:
            StoreError: the manifest cannot be read.
        """
        key = hashlib.sha256(f"{self.url}/{name}".encode()).hexdigest()[:20]
        folder = self.cache / "manifests" / key / Path(name).name
        system, root = self._opened
        manifest: bytes | None = None
        with self._converted_errors("cannot be read", f"{name}/manifest.json"), suppress(FileNotFoundError):
            manifest = with_retries(lambda: system.cat_file(f"{root}/{name}/manifest.json"))
        with self._lock(folder.parent):
            if manifest is None:
                (folder / "manifest.json").unlink(missing_ok=True)
            else:
                atomic_write_bytes(folder / "manifest.json", manifest)
        return folder

    def names(self) -> list[str]:
        """Return the names of the subfolders.

        Raises:
            StoreError: the folder cannot be listed.
        """
        with self._converted_errors(
            "cannot be read; if it can only not be listed, name the corpus: ELMDataset(..., corpus=NAME)"
        ):
            system, root = self._opened
            system.invalidate_cache()  # a corpus that was added since the last listing counts
            entries = with_retries(lambda: system.ls(root, detail=True))
        return [Path(entry["name"].rstrip("/")).name for entry in entries if entry["type"] == "directory"]

    def local_path(self, entry: ShardEntry) -> Path:
        """Return the path of the local copy of a file, which may not exist yet.

        Raises:
            CorruptShardError: the manifest has an invalid hash.
        """
        if not _SHA256.fullmatch(entry.sha256):
            raise CorruptShardError(
                f"a manifest in {self.shown} has the hash {entry.sha256!r} for {entry.file}, expected a SHA-256"
            )
        return self.cache / "files" / entry.sha256 / Path(entry.file).name

    def fetch(self, name: str, entry: ShardEntry) -> Path:
        """Return the local copy of a file, downloading it if necessary.

        Raises:
            StoreError: the file cannot be downloaded.
            CorruptShardError: the file does not match its manifest.
        """
        path = self.local_path(entry)
        if path.exists():
            return path
        with self._lock(path.parent):
            if path.exists():
                return path  # another process downloaded it meanwhile
            remote = f"{name}/{path.name}"
            logger.info("Downloading %s/%s%s", self.shown, remote,
                        f" ({human_bytes(entry.bytes)})" if entry.bytes is not None else "")  # fmt: skip
            with published(path, path.with_name(f"{path.name}.tmp")) as temporary:
                with self._converted_errors("cannot be fetched", remote):
                    system, root = self._opened
                    with suppress(_CutError):  # then the hash says it
                        with_retries(lambda: _get(system, f"{root}/{remote}", temporary, entry.bytes))
                if (actual := sha256_of_file(temporary)) != entry.sha256:
                    raise CorruptShardError(
                        f"{self.shown}/{remote} has SHA-256 {actual[:12]}, manifest.json expects "
                        f"{entry.sha256[:12]}: the file was changed or damaged. Upload the folder again."
                    )
        return path

    @property
    def shown(self) -> str:
        """URL without the parts that may hold secrets."""
        return without_secrets(self.url)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """File system, and path of the folder in it."""
        with self._converted_errors("cannot be opened"):
            system, root = open_file_system(self.url)
        return system, root.rstrip("/")

    @contextmanager
    def _converted_errors(self, failure: str, name: str = "") -> Iterator[None]:
        """Convert any error of a file system to a `StoreError` without secrets."""
        try:
            yield
        except (StoreError, MissingExtraError):
            raise
        except Exception as error:  # noqa: BLE001  # file systems raise errors without a common base class
            where = f"{self.shown}/{name}" if name else self.shown
            # The traceback of `from error` would show the URL.
            raise StoreError(f"{where} {failure}: {reason(error)}") from None

    def _lock(self, folder: Path) -> FileLock:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection, which each process opens for itself."""
        return {"url": self.url, "cache": self.cache}


class _CutError(OSError):
    """Fewer bytes arrived than the manifest says."""


def _get(system: Any, name: str, path: Path, size: int | None) -> None:
    system.get_file(name, str(path))
    if size is not None and path.stat().st_size < size:
        raise _CutError
