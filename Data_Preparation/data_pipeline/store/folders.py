"""Replacing a whole folder so that a crash leaves the old one or the new one.

The new content is written to `.<name>.new` beside the folder; then the folder is renamed to
`.<name>.old`, the new one takes its name, and the old one is removed.
"""

import os
import shutil
from pathlib import Path

from data_pipeline.utils import fsync_path


def new_folder(folder: Path) -> Path:
    """Where the next content of a folder is written."""
    return folder.with_name(f".{folder.name}.new")


def replace_folder(folder: Path, ours: set[str]) -> None:
    """Put the finished `.<name>.new` in a folder's place.

    Args:
        folder: the folder to replace; it need not exist.
        ours: names in it that this package wrote; whatever else lies there is kept.
    """
    new, old = new_folder(folder), _old_folder(folder)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    fsync_path(folder.parent)
    _discard_old(folder, ours)


def recover_folder(folder: Path, ours: set[str]) -> None:
    """Bring a folder back to a whole state after a crash, and sweep what was left behind."""
    new, old = new_folder(folder), _old_folder(folder)
    if old.exists() and not folder.exists():
        # The crash came between the two renames; a manifest means the new one is whole.
        os.rename(new if (new / "manifest.json").exists() else old, folder)
    _discard_old(folder, ours)
    if new.exists():
        shutil.rmtree(new)


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _discard_old(folder: Path, ours: set[str]) -> None:
    old = _old_folder(folder)
    if not old.exists():
        return
    for entry in old.iterdir():
        if entry.name not in ours and not (folder / entry.name).exists():
            os.rename(entry, folder / entry.name)
    shutil.rmtree(old)
