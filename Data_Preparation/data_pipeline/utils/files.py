"""Files that are written whole or not at all, and folders held by one writer."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from data_pipeline.errors import StoreError
from data_pipeline.utils.system import fsync_path, replace


def publish(temporary: Path, final: Path) -> None:
    """Move a finished file to its real name: fsync, rename, fsync the folder.

    A crash leaves either the old `final` or the new one, never a part of it.

    Raises:
        StoreError: the system does not allow it.
    """
    fsync_path(temporary)
    try:
        replace(temporary, final)
    except PermissionError as error:
        raise StoreError(
            f"Cannot replace {final} ({error.strerror}): it is open in another program, or its folder is not yours to "
            f"write to. The finished file is kept as {temporary}. Close what reads {final.name}, or change the "
            "folder's permissions, and run again."
        ) from error
    fsync_path(final.parent)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that a crash leaves its old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    publish(temporary, path)


def atomic_write_json(path: Path, value: object) -> None:
    """Write JSON for people to read (indented), atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_bytes(path, (text + "\n").encode())


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder, or a file, for one writing process; the kernel lets go of it when the process dies.

    Raises:
        StoreError: another process is writing there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"another process is writing to {folder}; wait for it, or use another --output-dir") from None
    try:
        yield
    finally:
        lock.release()
