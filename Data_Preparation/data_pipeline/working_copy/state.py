"""What the files of a working copy were on both sides when they were last the same, kept in `.published.json`."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.utils import atomic_write_json

_STATE = ".published.json"


@dataclass(frozen=True, slots=True)
class _Same:
    size: int
    mtime_ns: int
    identity: str


class LastSame:
    """Files of a working copy as they were when they were last the same on both sides, by name.

    Args:
        root: local folder.
        url: URL without secrets.

    Raises:
        StoreError: the folder is a working copy of another URL.
        CorruptShardError: the file cannot be read.
    """

    def __init__(self, root: Path, url: str) -> None:
        self._path, self._url = root / _STATE, url
        self._files = self._read()

    def __contains__(self, name: str) -> bool:
        """Whether a file was ever the same on both sides."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        """Names of the files."""
        return iter(list(self._files))

    def __len__(self) -> int:
        """Number of the files."""
        return len(self._files)

    def is_local(self, name: str, stat: os.stat_result) -> bool:
        """Return whether a local file is still what it was."""
        known = self._files.get(name)
        return known is not None and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns)

    def is_remote(self, name: str, identity: str) -> bool:
        """Return whether a file at the URL is still what it was."""
        return name in self._files and self._files[name].identity == identity

    def note(self, name: str, identity: str, stat: os.stat_result) -> None:
        """Note that a file is the same on both sides."""
        self._files[name] = _Same(stat.st_size, stat.st_mtime_ns, identity)

    def forget(self, name: str) -> None:
        """Forget a file."""
        self._files.pop(name, None)

    def save(self) -> None:
        """Write the file."""
        files = {name: asdict(same) for name, same in sorted(self._files.items())}
        atomic_write_json(self._path, {"url": self._url, "files": files})

    def _read(self) -> dict[str, _Same]:
        try:
            state = json.loads(self._path.read_bytes())
            url, files = state["url"], {name: _Same(**values) for name, values in state["files"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise CorruptShardError(
                f"{self._path} cannot be read. Remove it; the files of both sides are compared again then"
            ) from None
        if url != self._url:
            raise StoreError(
                f"{self._path.parent} is a working copy of {url}, not of {self._url}. Name another folder as data_dir"
            )
        return files
