"""Corpora of text and Markdown files: a document is a file, or a block of lines between two blank lines."""

from collections.abc import Iterator
from itertools import groupby

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import (
    Corpus,
    OnBadRecord,
    ReadProgress,
    files_under,
    split_of_file,
    with_compressions,
)
from data_pipeline.types import Document
from data_pipeline.user_files import check_id, read_lines
from data_pipeline.utils import encodable, sha256_of_file

TEXT = with_compressions(".txt", ".text", ".md", ".markdown")
"""File name endings of text files in a folder."""


def open_text(config: CorpusConfig) -> Corpus:
    """Open text files; those of a folder and its subfolders are read in the order of their names.

    The id of a document is the path of its file below `corpus.path`, and for blocks also its number; its title is the
    name of the file.
    """
    files = files_under(config, TEXT)
    root = config.path if config.path and config.path.is_dir() else files[0].parent
    names = [path.relative_to(root).as_posix() for path in files]
    progress = ReadProgress(sum(path.stat().st_size for path in files))

    def documents(on_bad: OnBadRecord | None = None) -> Iterator[Document]:
        del on_bad  # a file that cannot be read is an error: its text would be missing
        for path, name in zip(files, names, strict=True):
            title, split = path.name.partition(".")[0], split_of_file(path)
            lines = (encodable(line) for _, line in read_lines(path, progress.add, encoding=config.encoding))
            if config.text_unit == "file":
                yield Document(check_id(name, str(path)), "\n".join(lines), title=title, source_split=split)
                continue
            blocks = (list(block) for is_blank, block in groupby(lines, _is_blank) if not is_blank)
            for number, block in enumerate(blocks, start=1):
                identity = check_id(f"{name}:{number}", str(path))
                yield Document(identity, "\n".join(block), title=title, source_split=split)

    return Corpus(
        description=f"{len(files)} text file{'s' if len(files) > 1 else ''} in {config.path}",
        identity={name: sha256_of_file(path) for name, path in zip(names, files, strict=True)},
        documents=documents,
        progress=progress,
    )


def _is_blank(line: str) -> bool:
    return not line.strip()
