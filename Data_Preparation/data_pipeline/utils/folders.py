"""Replacing a whole folder so that a crash leaves the old one or the new one.

The new content is written to `.<name>.new` beside the folder, and the two are exchanged: in one
step where the system can (Linux), else by two renames, between which `recover_folder` mends.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import StoreError
from data_pipeline.utils.system import fsync_path, linux_calls

IsOurs = Callable[[str], bool]
"""Whether a name in the folder is one that this package writes; all others are kept."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def new_folder(folder: Path) -> Path:
    """Where the next content of a folder is written."""
    return folder.with_name(f".{folder.name}.new")


def replace_folder(folder: Path, is_ours: IsOurs) -> None:
    """Put the finished `.<name>.new` in a folder's place; the folder need not exist.

    Raises:
        StoreError: the system does not let go of the folder.
    """
    new, old = new_folder(folder), _old_folder(folder)
    if not folder.exists():
        os.rename(new, folder)
    elif _exchange(new, folder):
        os.rename(new, old)
    else:
        try:
            os.rename(folder, old)
        except PermissionError as error:  # of Windows, where a folder with open files stays
            raise StoreError(
                f"Cannot replace the folder {folder} ({error.strerror}): a file in it is open, or it is not yours to "
                f"write to. The new content is complete in {new}. Close what reads it, and run again."
            ) from error
        os.rename(new, folder)
    fsync_path(folder.parent)
    _discard(old, folder, is_ours)


def recover_folder(folder: Path, is_ours: IsOurs) -> None:
    """Bring a folder back to a whole state after a crash, and sweep what was left behind."""
    new, old = new_folder(folder), _old_folder(folder)
    if old.exists() and not folder.exists():
        # The crash came between the two renames; a manifest means the new one is whole.
        os.rename(new if (new / "manifest.json").exists() else old, folder)
    for left_behind in (old, new):
        _discard(left_behind, folder, is_ours)


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    # Neither has every C library the name, nor every kernel, file system and container the call.
    renameat2 = getattr(linux_calls(), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)


def _discard(leftover: Path, folder: Path, is_ours: IsOurs) -> None:
    """Remove a folder that is no longer needed, after saving what other hands put there."""
    if not leftover.exists():
        return
    for entry in leftover.iterdir():
        if folder.exists() and not is_ours(entry.name) and not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    shutil.rmtree(leftover)
