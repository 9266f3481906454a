"""A working copy: a local folder, the files at its URL, and what both had when they were last the same."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.working_copy.names import published_files
from data_pipeline.working_copy.objects import RemoteObjects
from data_pipeline.working_copy.state import LastSame

T = TypeVar("T")

SAVED_EVERY = 64
"""Files after whose transfer the state is saved."""
_AT_ONCE = 4


class WorkingCopy:
    """Working copy of a data folder at a URL.

    Args:
        root: local folder.
        objects: files at the URL.

    Raises:
        StoreError: the folder is a working copy of another URL.
        CorruptShardError: its record cannot be read.
    """

    def __init__(self, root: Path, objects: RemoteObjects) -> None:
        self.root, self.objects = root, objects
        self.lock = threading.Lock()
        """Held by the thread that fetches or publishes."""
        self.known = LastSame(root, objects.shown)
        """Files as they were when both sides were last the same."""

    def local(self) -> dict[str, os.stat_result]:
        """Return the local files that belong to the URL too, by name."""
        found = {}
        for name, path in published_files(self.root).items():
            try:
                found[name] = path.stat()
            except FileNotFoundError:  # replaced by a stage at this moment
                continue
        return found

    def note(self, name: str, identity: str, stat: os.stat_result | None = None) -> None:
        """Note that a file is the same on both sides; its present state if none is given."""
        self.known.note(name, identity, stat or (self.root / name).stat())


def at_once(action: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """Do something with several files at once; after an error, those that have not begun are left."""
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="transfer")
    try:
        yield from pool.map(action, names)
    finally:
        pool.shutdown(cancel_futures=True)


def listed_files(value: Any) -> Iterator[tuple[str, str]]:
    """Names and hashes of the files in a manifest."""
    if isinstance(value, dict):
        if isinstance(value.get("file"), str) and isinstance(value.get("sha256"), str):
            yield value["file"], value["sha256"]
        for inner in value.values():
            yield from listed_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from listed_files(inner)


def after_vectors(manifest: str) -> tuple[bool, str]:
    """Order of manifests: those of paragraphs last, since readers look for the vectors of the rows that these list."""
    return "_processed/" in manifest, manifest
