"""Corpora of text and Markdown files: a document is a file, or a block of lines between two blank lines."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import groupby

from data_pipeline.config import CorpusConfig
from data_pipeline.download.corpus import (
    Corpus,
    FilePart,
    OnBadRecord,
    corpus_of_files,
    files_under,
    split_of_file,
    with_compressions,
)
from data_pipeline.types import Document, TextFormat
from data_pipeline.user_files import OnBytes, check_id, read_lines
from data_pipeline.utils import encodable

_MARKDOWN = re.compile(r"\.(md|markdown)(\.\w+)?$")

TEXT = with_compressions(".txt", ".text", ".md", ".markdown")
"""File name endings of text files in a folder."""


def open_text(config: CorpusConfig) -> Corpus:
    """Open text files; those of a folder and its subfolders are read in the order of their names.

    The id of a document is the path of its file below `corpus.path`, and for blocks also its number; its title is the
    name of the file.
    """
    return corpus_of_files(config, files_under(config, TEXT), partial(_read, config), "text")


def _read(config: CorpusConfig, part: FilePart, on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
    del on_bad  # a file that cannot be read is an error: its text would be missing
    listed = part.listed
    where, split = str(listed.file), split_of_file(listed.name)
    title = listed.file.name.partition(".")[0]
    lines = (encodable(line) for _, line in read_lines(listed.file, on_bytes, encoding=config.encoding))
    if config.text_unit == "file":
        identity = check_id(listed.name, where)
        text_format: TextFormat = "markdown" if _MARKDOWN.search(listed.name.lower()) else "plain"
        yield Document(identity, "\n".join(lines), text_format, title, split)
        return
    blocks = (list(block) for is_blank, block in groupby(lines, _is_blank) if not is_blank)
    for number, block in enumerate(blocks, start=1):
        identity = check_id(f"{listed.name}:{number}", where)
        yield Document(identity, "\n".join(block), title=title, source_split=split)


def _is_blank(line: str) -> bool:
    return not line.strip()
