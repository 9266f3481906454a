"""Atomic writes of files, and locks for folders with a single writer."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from data_pipeline.errors import StoreError
from data_pipeline.utils.system import fsync_path, replace


def publish(temporary: Path, final: Path) -> None:
    """Move a finished file to its final name: fsync, rename, fsync the folder.

    A crash leaves either the old or the new `final`, never a part of it.

    Raises:
        StoreError: the file cannot be replaced.
    """
    fsync_path(temporary)
    try:
        replace(temporary, final)
    except PermissionError as error:
        raise StoreError(
            f"Cannot replace {final} ({error.strerror}): it is open in another program, or its folder is read-only. "
            f"The finished file is kept as {temporary}. Close the program that reads {final.name}, or change the "
            "folder's permissions, and run again."
        ) from error
    fsync_path(final.parent)


@contextlib.contextmanager
def published(final: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Give the temporary path to write a file to; it is published after the block, or removed after an error.

    Args:
        final: final path of the file.
        temporary: temporary path in the same folder; None for `.<name>.tmp`.

    Raises:
        StoreError: the file cannot be replaced; the temporary file is kept.
    """
    temporary = temporary or final.with_name(f".{final.name}.tmp")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    publish(temporary, final)


def unique_name(final: Path) -> Path:
    """Return a temporary path for a file that several processes, also on other machines, may be writing at once."""
    return final.with_name(f".{final.name}.{uuid4().hex}.tmp")


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically: a crash leaves its old or its new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_json(path: Path, value: object) -> None:
    """Write indented JSON atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_bytes(path, (text + "\n").encode())


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)
        fsync_path(target)


def lock_of(folder: Path) -> FileLock:
    """Return the lock that a process holds while it writes to a folder or file; see `exclusive`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.parent / f".{folder.name}.lock")


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder or file for one writing process; the kernel releases the lock when the process dies.

    Raises:
        StoreError: another process holds the lock.
    """
    try:
        acquired = lock_of(folder).acquire(timeout=0)
    except Timeout:
        raise StoreError(f"another process is writing to {folder}; wait for it, or use another folder") from None
    with acquired:
        yield
