"""Which files of a data folder belong to its URL too."""

import os
from pathlib import Path, PurePosixPath

from data_pipeline.store.documents import DOCUMENTS, SET_ASIDE
from data_pipeline.store.paragraphs import VERSIONS

MANIFEST = "manifest.json"

_FOLDERS = {"embeddings", "sparse", "scores", "selections"}
_HIDDEN = {VERSIONS, DOCUMENTS, SET_ASIDE}  # others are locks, unfinished files and caches


def is_published(name: str) -> bool:
    """Return whether a file of a data folder is published, by its name relative to the folder.

    Names from elsewhere are tested too, so one that leads out of the folder is none.
    """
    first, *others = name.split("/")
    if not others or not (first in _FOLDERS or first.endswith("_processed")) or "\\" in name or ":" in name:
        return False
    return all(part not in ("", "..") and (part[0] != "." or part in _HIDDEN) for part in (first, *others))


def published_files(root: Path) -> dict[str, Path]:
    """Return the files of a data folder that are published, by name."""
    found = {}
    for folder, folders, files in os.walk(root):
        inner = [PurePosixPath(Path(folder, name).relative_to(root).as_posix()) for name in sorted(folders)]
        folders[:] = [name.name for name in inner if is_published(f"{name}/x")]
        for path in (Path(folder, file) for file in sorted(files)):
            if is_published(name := path.relative_to(root).as_posix()):
                found[name] = path
    return found


def without_version(name: str) -> str:
    """Return the name that a file of an earlier version had before it became one."""
    parts = name.split("/")
    at = parts.index(VERSIONS) if VERSIONS in parts else len(parts)
    return "/".join(parts[:at] + parts[at + 2 :])


def is_manifest(name: str) -> bool:
    """Return whether a file is the manifest of its folder."""
    return PurePosixPath(name).name == MANIFEST


def manifest_of(name: str) -> str:
    """Return the name of the manifest of the folder of a file."""
    return str(PurePosixPath(name).with_name(MANIFEST))
