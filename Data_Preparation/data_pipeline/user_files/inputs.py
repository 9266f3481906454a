"""Files that a user names: local files, folders and patterns, and URLs of files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from data_pipeline.errors import SourceError
from data_pipeline.user_files.listing import check_printable, list_files, with_endings
from data_pipeline.user_files.remote import RemoteFile, list_remote
from data_pipeline.utils import sha256_of_file, shortened
from data_pipeline.utils.urls import is_url, without_secrets

InputFile: TypeAlias = Path | RemoteFile
"""A file to read; both have `name`, `stem` and `suffix`, and give their path or URL as a text."""


@dataclass(frozen=True)
class ListedFile:
    """File of a listing."""

    file: InputFile
    """The file."""
    name: str
    """Path below the folder that all files of the listing share, for ids, fingerprints and the drop ledger."""

    @property
    def identity(self) -> str:
        """What identifies the content: see `RemoteFile.identity`; else the SHA-256, for which the file is read."""
        if isinstance(self.file, Path):
            return sha256_of_file(self.file)
        return self.file.identity or self.file.sha256()


def size_of(file: InputFile) -> int:
    """Return the size of a file in bytes."""
    return file.stat().st_size if isinstance(file, Path) else file.size


def first_bytes(file: InputFile, count: int) -> bytes:
    """Read the beginning of a file.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, RemoteFile):
        return file.first_bytes(count)
    with file.open("rb") as stream:
        return stream.read(count)


def list_inputs(paths: Sequence[str], endings: Sequence[str], setting: str) -> list[ListedFile]:
    """List files, the files with given endings in folders and their subfolders, and those that match patterns.

    Each file is listed once, in the order of the paths, then of the names.

    Args:
        paths: paths or URLs of files (with any ending) or folders, or patterns (`data/*.jsonl`, `**` for subfolders).
        endings: endings of the files of a folder, in lower case; all files of a pattern must have one of them.
        setting: name of the setting with the paths, for messages.

    Raises:
        SourceError: a path does not exist, or has no such file, or a pattern matches other files too.
    """
    files: dict[str, InputFile] = {}
    roots: list[str] = []
    for path in (os.path.expanduser(path.removeprefix("file://")) for path in paths):
        root, listed = _list_url(path, endings, setting) if is_url(path) else _list_local(path, endings, setting)
        roots.append(root)
        files |= {str(file): file for file in listed}
    root = _common_folder(roots)
    return [ListedFile(file, _name(path, root)) for path, file in files.items()]


def _list_local(path: str, endings: Sequence[str], setting: str) -> tuple[str, list[Path]]:
    """Return the folder of local files, and the files."""
    if not glob.has_magic(path) or Path(path).exists():
        files = list_files(Path(path), endings, setting)
        return (path if Path(path).is_dir() else str(files[0].parent)), files
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
    files = [match for match in matches if match.is_file()]
    root = path.split("*")[0].split("?")[0].split("[")[0]
    _check_pattern(path, [str(file) for file in files], endings, setting)
    return os.path.dirname(root) or ".", files


def _list_url(url: str, endings: Sequence[str], setting: str) -> tuple[str, list[RemoteFile]]:
    """Return the URL of the folder of remote files, and the files."""
    files, is_file = list_remote(url, setting)
    if is_file:
        return str(files[0]).rpartition("/")[0], files
    shown = without_secrets(url)
    if "*" in url:
        _check_pattern(shown, [str(file) for file in files], endings, setting)
        return shown.split("*")[0].rpartition("/")[0], files
    return shown, with_endings(files, endings, f"{setting}: {shown}")


def _check_pattern(pattern: str, files: Sequence[str], endings: Sequence[str], setting: str) -> None:
    """Check that a pattern matches files of one format only."""
    others = [file for file in files if not file.lower().endswith(tuple(endings))]
    if not files:
        raise SourceError(f"{setting}: no file matches {pattern}")
    if others:
        raise SourceError(
            f"{setting}: {pattern} matches {len(others)} files of another format, such as {shortened(others[0])}; "
            f"expected {', '.join(endings)}. Narrow the pattern, for example to *{endings[0]}, or set corpus.source."
        )


def _common_folder(roots: Sequence[str]) -> str:
    """Return the deepest folder that holds all given ones; an empty text if there is none."""
    if len(set(roots)) == 1:
        return roots[0]
    if any(is_url(root) for root in roots):
        parts = [root.split("/") for root in roots]
        common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))]
        return "/".join(common) if len(common) > 2 else ""  # the protocol, nothing, and a host or bucket
    return os.path.commonpath([os.path.abspath(root) for root in roots])


def _name(path: str, root: str) -> str:
    """Return the path of a file below a folder, with slashes.

    Raises:
        SourceError: it cannot be printed, so that it cannot be logged or recorded.
    """
    if not root or is_url(root):
        name = path.removeprefix(root).lstrip("/")
    else:
        name = Path(os.path.relpath(path, root)).as_posix()
    check_printable(name, path)
    return name
