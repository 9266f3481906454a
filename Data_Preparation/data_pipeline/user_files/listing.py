"""Which files of a folder are data: sorted, without what editors and operating systems leave beside them.

Jupyter keeps older copies in `.ipynb_checkpoints`, macOS writes `._name` beside every file on a foreign disk, and
this package's own temporary files begin with a dot. None of them is anybody's data.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_pipeline.errors import SourceError


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file, or a folder between it and `root`, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def visible(paths: Iterable[Path], root: Path) -> Iterator[Path]:
    """The paths below `root` that are not hidden, sorted.

    Raises:
        SourceError: a name cannot be printed; it could be neither logged nor recorded.
    """
    for path in sorted(paths):
        if is_hidden(path, root):
            continue
        if not str(path.relative_to(root)).isprintable():
            raise SourceError(f"{str(path)!r}: rename this file; its name is not UTF-8, or has control characters.")
        yield path


def list_files(path: Path, endings: Sequence[str], setting: str) -> list[Path]:
    """A file, or the files of a folder and the folders below it that have one of some endings.

    Args:
        path: a file, whatever its ending; or a folder.
        endings: of the files to take from a folder, in lower case.
        setting: that names the path, for messages.

    Raises:
        SourceError: nothing is there, or the folder has no such file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"{setting}: no such file or folder: {path}")
    files = [file for file in visible(path.rglob("*"), path) if file.is_file()]
    wanted = [file for file in files if file.name.lower().endswith(tuple(endings))]
    if not wanted:
        others = f"; it has {len(files)} others, such as {files[0].name}" if files else "; it is empty"
        raise SourceError(f"{setting}: {path} has no file that ends in {', '.join(endings)}{others}.")
    return wanted
