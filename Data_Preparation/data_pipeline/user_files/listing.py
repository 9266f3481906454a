"""Listing of the data files of a folder: sorted, without hidden files.

Hidden files are not data: Jupyter keeps copies in `.ipynb_checkpoints`, macOS writes `._name` beside every file
on foreign disks, and the temporary files of this package begin with a dot.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from data_pipeline.errors import SourceError


class Named(Protocol):
    """File with a name."""

    @property
    def name(self) -> str:
        """Last part of the path."""


F = TypeVar("F", bound=Named)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether the name of a file, or of a folder between it and `root`, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def visible(paths: Iterable[Path], root: Path) -> Iterator[Path]:
    """Paths below `root` that are not hidden, sorted.

    Raises:
        SourceError: a name cannot be printed, so that it cannot be logged or recorded.
    """
    for path in sorted(paths):
        if is_hidden(path, root):
            continue
        check_printable(str(path.relative_to(root)), str(path))
        yield path


def check_printable(name: str, path: str) -> None:
    """Check that the name of a file can be logged and recorded.

    Raises:
        SourceError: it cannot be printed.
    """
    if not name.isprintable():
        raise SourceError(f"{path!r}: rename this file; its name is not UTF-8, or has control characters.")


def list_files(path: Path, endings: Sequence[str], setting: str) -> list[Path]:
    """List a file, or the files with given endings in a folder and its subfolders.

    Args:
        path: a file with any ending, or a folder.
        endings: endings of the files of a folder, in lower case.
        setting: name of the setting with the path, for messages.

    Raises:
        SourceError: the path does not exist, or the folder has no such file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"{setting}: no such file or folder: {path}")
    files = [file for file in visible(path.rglob("*"), path) if file.is_file()]
    return with_endings(files, endings, f"{setting}: {path}")


def with_endings(files: Sequence[F], endings: Sequence[str], folder: str) -> list[F]:
    """Return the files of a folder that have one of some endings.

    Args:
        files: all files of the folder.
        endings: endings in lower case.
        folder: the setting and the folder that it names, for the message.

    Raises:
        SourceError: there are none.
    """
    matching = [file for file in files if file.name.lower().endswith(tuple(endings))]
    if not matching:
        others = f"; it has {len(files)} others, such as {files[0].name}" if files else "; it is empty"
        raise SourceError(f"{folder} has no file that ends in {', '.join(endings)}{others}.")
    return matching
