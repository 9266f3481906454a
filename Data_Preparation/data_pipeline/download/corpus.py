"""The `Corpus` that every source returns, and helpers of sources."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from data_pipeline.config import CorpusConfig
from data_pipeline.errors import SourceError
from data_pipeline.types import BadRecord, Document, Split
from data_pipeline.user_files import InputFile, ListedFile, OnBytes, list_inputs
from data_pipeline.user_files.inputs import first_bytes, size_of
from data_pipeline.user_files.remote import RemoteFile
from data_pipeline.utils import converted_errors, shortened
from data_pipeline.utils.urls import without_secrets

WEB_PAGE = (b"<!doctype html", b"<html")
"""First bytes of a web page, in lower case."""

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def with_compressions(*endings: str) -> tuple[str, ...]:
    """Return file name endings, and those of the same files when they are compressed."""
    return (*endings, *(ending + packed for packed in (".gz", ".zst", ".bz2", ".xz") for ending in endings))


@dataclass
class ReadProgress:
    """Progress of reading a corpus; a source updates it while it reads."""

    total_bytes: int | None = None
    """Size of all files, in bytes; None if it is unknown."""
    read_bytes: int = 0
    """Bytes that have been read."""

    def add(self, count: int) -> None:
        """Add to the number of bytes read."""
        self.read_bytes += count


OnBadRecord = Callable[[BadRecord], object]
"""Called with each record that is no document."""

ReadFile = Callable[[ListedFile, OnBytes, OnBadRecord | None], Iterator[Document]]
"""Function that reads the documents of a file."""


class ReadDocuments(Protocol):
    """Function that iterates over the documents of a corpus, from the first one."""

    def __call__(self, on_bad: OnBadRecord | None = None) -> Iterator[Document]:
        """Iterate over the documents; without `on_bad`, a record that is no document raises a `RecordError`."""


@dataclass(frozen=True)
class Corpus:
    """An open corpus."""

    description: str
    """Description in one line, for logs."""
    identity: Mapping[str, str]
    """Names, revision and file hashes that identify the corpus; part of the fingerprint."""
    documents: ReadDocuments
    """Iterates over the documents; each call starts from the first one."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Types (str, int, float, bool) of the documents' metadata by name."""
    max_bad_share: float | None = None
    """Maximum share of records that are no documents, 0 to 1; None: the first one is an error."""
    on_duplicate_id: Literal["fail", "drop", "suffix"] = "fail"
    """Handling of documents with the id of an earlier one; see `CorpusConfig`."""
    progress: ReadProgress = field(default_factory=ReadProgress)
    """Progress of the latest iteration."""


def allowed_bad_share(config: CorpusConfig) -> float | None:
    """Return the maximum share of bad records, 0 to 1; None if the first one stops the run."""
    return config.max_bad_share if config.on_bad_record == "drop" else None


def split_of_file(name: str) -> Split | str:
    """Split in the name of a file, such as `train-00000-of-00002.parquet`; an empty string if there is none."""
    for word in re.split(r"[^a-z]+", name.rpartition("/")[2].lower()):
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return ""


def split_of_path(name: str) -> Split | str:
    """Split in the name of a file, or else of its folders, such as `train/data-00000-of-00002.arrow`."""
    splits = (split_of_file(part) for part in reversed(name.split("/")))
    return next((split for split in splits if split), "")


def files_under(config: CorpusConfig, endings: Sequence[str]) -> list[ListedFile]:
    """List the files at `corpus.path`; in folders, those with given endings.

    Raises:
        SourceError: no path is set, or a path has no such file.
    """
    if not config.path:
        raise SourceError(f"corpus.path: the source {config.source!r} needs a file or folder, found none")
    files = list_inputs(config.path, endings, "corpus.path")
    if config.source != "html":
        for listed in files:
            _reject_web_page(listed.file)
    return files


def _reject_web_page(file: InputFile) -> None:
    """Check that a remote file is not the page of a web site about it, or about an error."""
    if not (isinstance(file, RemoteFile) and file.url.startswith(("http://", "https://"))):
        return
    with converted_errors(OSError, SourceError, f"{file} cannot be read"):
        beginning = first_bytes(file, min(file.size, 256)).lstrip().lower()
    if beginning.startswith(WEB_PAGE):
        raise SourceError(f"{file} is a web page (HTML), expected a data file. Use the address of the file itself.")


def corpus_of_files(
    config: CorpusConfig, files: Sequence[ListedFile], read: ReadFile, kind: str, **options: Any
) -> Corpus:
    """Make a corpus of files that are read one after the other.

    Args:
        config: settings of the source.
        files: the files.
        read: reads the documents of one file.
        kind: kind of the files, for the description.
        options: further fields of `Corpus`.
    """
    progress = ReadProgress(sum(size_of(listed.file) for listed in files))

    def documents(on_bad: OnBadRecord | None = None) -> Iterator[Document]:
        for listed in files:
            yield from read(listed, progress.add, on_bad)

    where = shortened(", ".join(map(without_secrets, config.path)))
    return Corpus(
        description=f"{len(files)} {kind} file{'s' if len(files) > 1 else ''} in {where}",
        identity={listed.name: listed.identity for listed in files},
        documents=documents,
        max_bad_share=allowed_bad_share(config),
        progress=progress,
        **options,
    )


def content_hash(text: str, hex_digits: int) -> str:
    """Short hash of a text, for ids that do not depend on the order of a corpus."""
    return hashlib.blake2b(text.encode(), digest_size=hex_digits // 2).hexdigest()


def slug(title: str) -> str:
    """Turn a title into at most 40 letters, digits and hyphens: `Café @-@ au lait!` becomes `caf-au-lait`."""
    words = re.findall(r"[a-z0-9]+", title.replace("<unk>", "").lower())
    return "-".join(words)[:40].strip("-")
