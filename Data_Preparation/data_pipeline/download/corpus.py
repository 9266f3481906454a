"""What every source gives, and the helpers that sources share."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.config import CorpusConfig
from data_pipeline.errors import SourceError
from data_pipeline.types import Document, Split
from data_pipeline.user_files import list_files

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


@dataclass
class ReadProgress:
    """How much of a corpus has been read; a source adds to it as it reads."""

    total_bytes: int | None = None
    """Size of all files, in bytes; None where it is not known."""
    read_bytes: int = 0

    def add(self, count: int) -> None:
        """Count further bytes."""
        self.read_bytes += count


@dataclass(frozen=True)
class Corpus:
    """A corpus that is ready to be read."""

    description: str
    """One line for people."""
    identity: Mapping[str, str]
    """What tells this corpus from any other: names, revision, file hashes. Part of the fingerprint."""
    documents: Callable[[], Iterator[Document]]
    """Reads it, from the start at each call, one document at a time."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Names and types (str, int, float, bool) of the documents' metadata."""
    progress: ReadProgress = field(default_factory=ReadProgress)
    """Moves while `documents` are read."""


def split_of_file(path: Path) -> Split | str:
    """The split a file name speaks of (`train-00000-of-00002.parquet`), or an empty string."""
    for word in re.split(r"[^a-z]+", path.name.lower()):
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return ""


def files_under(config: CorpusConfig, endings: Sequence[str]) -> list[Path]:
    """The files of `corpus.path`: itself, or those of a folder with one of some endings.

    Raises:
        SourceError: no path is given, or nothing is there.
    """
    if config.path is None:
        raise SourceError(f"corpus.path: the source {config.source!r} needs a file or folder, found none")
    return list_files(config.path, endings, "corpus.path")


def content_hash(text: str, hex_digits: int) -> str:
    """A short hash of a text, for ids that do not depend on the order of a corpus."""
    return hashlib.blake2b(text.encode(), digest_size=hex_digits // 2).hexdigest()


def slug(title: str) -> str:
    """`Café @-@ au lait!` -> `caf-au-lait`: letters, digits and hyphens, 40 at most."""
    words = re.findall(r"[a-z0-9]+", title.replace("<unk>", "").lower())
    return "-".join(words)[:40].strip("-")
