"""Atomic replacement of folders: a crash leaves the old or the new folder.

The new content is written to `.<name>.new` beside the folder, and the two are exchanged: atomically if the system
supports it (Linux), else by two renames, between which `recover_folder` repairs a crash.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import StoreError
from data_pipeline.utils.system import fsync_path, linux_calls

IsOurs = Callable[[str], bool]
"""Function that returns whether this package writes files of a name; all other files are preserved."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def new_folder(folder: Path) -> Path:
    """Return the folder that the new content of a folder is written to."""
    return folder.with_name(f".{folder.name}.new")


def replace_folder(folder: Path, is_ours: IsOurs) -> None:
    """Replace a folder, which need not exist, by the finished `.<name>.new`.

    Raises:
        StoreError: the folder cannot be replaced.
    """
    new, old = new_folder(folder), _old_folder(folder)
    if not folder.exists():
        os.rename(new, folder)
    elif _exchange(new, folder):
        os.rename(new, old)
    else:
        try:
            os.rename(folder, old)
        except PermissionError as error:  # Windows cannot rename a folder with open files
            raise StoreError(
                f"Cannot replace the folder {folder} ({error.strerror}): a file in it is open, or it is read-only. "
                f"The new content is complete in {new}. Close the program that reads it, and run again."
            ) from error
        os.rename(new, folder)
    fsync_path(folder.parent)
    _discard(old, folder, is_ours)


def publish_folder(temporary: Path, final: Path) -> None:
    """Move a finished folder to its final name, or remove it if another process has made the same one.

    Raises:
        OSError: it cannot be moved.
    """
    try:
        temporary.rename(final)
    except OSError:
        shutil.rmtree(temporary)
        if not final.is_dir():
            raise


@contextmanager
def discarded_on_error(folder: Path) -> Iterator[None]:
    """Remove what a block has written of the new content of a folder, if it ends with an error."""
    try:
        yield
    except BaseException:
        shutil.rmtree(new_folder(folder), ignore_errors=True)
        raise


def recover_folder(folder: Path, is_ours: IsOurs) -> None:
    """Restore a folder after a crash, and remove leftovers."""
    new, old = new_folder(folder), _old_folder(folder)
    if old.exists() and not folder.exists():
        # The crash came between the two renames; the new folder is complete if it has a manifest.
        os.rename(new if (new / "manifest.json").exists() else old, folder)
    for leftover in (old, new):
        _discard(leftover, folder, is_ours)


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically; returns False if the system cannot."""
    # Some C libraries lack the function, and some kernels, file systems and containers lack the call.
    renameat2 = getattr(linux_calls(), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)


def _discard(leftover: Path, folder: Path, is_ours: IsOurs) -> None:
    """Remove a leftover folder, after moving files of other programs to the present folder."""
    if not leftover.exists():
        return
    for entry in leftover.iterdir():
        if folder.exists() and not is_ours(entry.name) and not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    shutil.rmtree(leftover)
