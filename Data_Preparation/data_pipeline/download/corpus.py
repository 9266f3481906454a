"""What every source gives, and the helpers that sources share."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import SourceError
from data_pipeline.types import Document, Split

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


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


def split_of_file(path: Path) -> Split | str:
    """The split a file name speaks of (`train-00000-of-00002.parquet`), or an empty string."""
    for word in re.split(r"[^a-z]+", path.name.lower()):
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return ""


def files_under(path: Path | None, endings: tuple[str, ...], what: str) -> list[Path]:
    """A file, or the files of a folder with one of these endings, sorted.

    Raises:
        SourceError: no path is given, or nothing is there.
    """
    if path is None:
        raise SourceError(f"the source {what} needs a file or folder: --corpus.path PATH")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SourceError(f"{path} does not exist (--corpus.path of the source {what})")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(endings))
    if not files:
        raise SourceError(f"{path} holds no file that ends in {', '.join(endings)} (the source {what})")
    return files


def content_hash(text: str, hex_digits: int) -> str:
    """A short hash of a text, for ids that do not depend on the order of a corpus."""
    return hashlib.blake2b(text.encode(), digest_size=hex_digits // 2).hexdigest()


def slug(title: str) -> str:
    """`Café @-@ au lait!` -> `caf-au-lait`: letters, digits and hyphens, 40 at most."""
    words = re.findall(r"[a-z0-9]+", title.replace("<unk>", "").lower())
    return "-".join(words)[:40].strip("-")
