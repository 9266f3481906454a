"""The `Corpus` that every source returns, and helpers of sources."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

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


OnBadRecord = Callable[[BadRecord], object]
"""Called with each record that is no document."""

Read = Callable[[OnBytes, OnBadRecord | None], Iterator[Document]]
"""Function that iterates over documents; without the second argument, a record that is none raises a `RecordError`."""

UNIT_BYTES = 32 << 20
"""Size of a unit of files: larger files are cut where their format allows it, smaller ones are put together."""


@dataclass(frozen=True)
class Unit:
    """Part of a corpus that is read on its own, possibly by another process; which parts there are, its files decide.

    What is made of a unit depends on nothing but its documents, so that it does not matter who makes it, and when.
    """

    read: Read
    """Reads the documents; each call starts from the first one. It can be pickled, if the source allows that."""
    bytes: int | None = None
    """Size in bytes; None if it is unknown."""


@dataclass(frozen=True)
class FilePart:
    """A file of a corpus, or a part of one that is large."""

    listed: ListedFile
    bytes: int
    """Size in bytes, in a parquet file about."""
    span: tuple[int, int] | None = None
    """First and last position of the part, exclusive: bytes of JSON Lines, or row groups of parquet; None for all."""
    first: int = 1
    """Number of the first line or row."""


ReadFile = Callable[[FilePart, OnBytes, OnBadRecord | None], Iterator[Document]]
"""Function that reads the documents of a file or a part of it."""

Cut = Callable[[ListedFile], Iterable[FilePart]]
"""Function that cuts a large file into parts."""


@dataclass(frozen=True)
class Corpus:
    """An open corpus."""

    description: str
    """Description in one line, for logs."""
    identity: Mapping[str, str]
    """Names, revision and file hashes that identify the corpus; part of the fingerprint."""
    units: Callable[[], Iterable[Unit]]
    """Lists the units in order, the same ones in every run."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Types (str, int, float, bool) of the documents' metadata by name."""
    max_bad_share: float | None = None
    """Maximum share of records that are no documents, 0 to 1; None: the first one is an error."""
    on_duplicate_id: Literal["fail", "drop", "suffix"] = "fail"
    """Handling of documents with the id of an earlier one; see `CorpusConfig`."""
    license: str | None = None
    """Licence of the texts, as an SPDX identifier or in words; None if it is not known."""

    def read(self, on_bytes: OnBytes, on_bad: OnBadRecord | None) -> Iterator[Document]:
        """Iterate over the documents of all units; see `Read`."""
        for unit in self.units():
            yield from unit.read(on_bytes, on_bad)

    def documents(self, on_bad: OnBadRecord | None = None) -> Iterator[Document]:
        """Iterate over the documents; without `on_bad`, a record that is no document raises a `RecordError`."""
        return self.read(lambda count: None, on_bad)


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
    config: CorpusConfig,
    files: Sequence[ListedFile],
    read: ReadFile,
    kind: str,
    *,
    cut: Cut | None = None,
    **options: Any,
) -> Corpus:
    """Make a corpus of files that are read one after the other.

    Args:
        config: settings of the source.
        files: the files.
        read: reads the documents of one file; can be pickled.
        kind: kind of the files, for the description.
        cut: cuts a file of more than `UNIT_BYTES`; None if the files cannot be cut.
        options: further fields of `Corpus`.
    """
    where = shortened(", ".join(map(without_secrets, config.path)))
    return Corpus(
        description=f"{len(files)} {kind} file{'s' if len(files) > 1 else ''} in {where}",
        identity={listed.name: listed.identity for listed in files},
        units=partial(units_of_files, files, read, cut),
        max_bad_share=allowed_bad_share(config),
        **options,
    )


def units_of_files(files: Sequence[ListedFile], read: ReadFile, cut: Cut | None = None) -> Iterator[Unit]:
    """Group files, and parts of large ones, into units of about `UNIT_BYTES`."""
    unit: list[FilePart] = []
    for part in chain.from_iterable(_parts(listed, cut) for listed in files):
        if unit and sum(other.bytes for other in unit) + part.bytes > UNIT_BYTES:
            yield _unit(unit, read)
            unit = []
        unit.append(part)
    if unit:
        yield _unit(unit, read)


def _parts(listed: ListedFile, cut: Cut | None) -> Iterable[FilePart]:
    size = size_of(listed.file)
    return cut(listed) if cut is not None and size > UNIT_BYTES else [FilePart(listed, size)]


def _unit(parts: Sequence[FilePart], read: ReadFile) -> Unit:
    return Unit(partial(_read_parts, tuple(parts), read), sum(part.bytes for part in parts))


def _read_parts(
    parts: Sequence[FilePart], read: ReadFile, on_bytes: OnBytes, on_bad: OnBadRecord | None
) -> Iterator[Document]:
    for part in parts:
        yield from read(part, on_bytes, on_bad)


def content_hash(text: str, hex_digits: int) -> str:
    """Short hash of a text, for ids that do not depend on the order of a corpus."""
    return hashlib.blake2b(text.encode(), digest_size=hex_digits // 2).hexdigest()


def slug(title: str) -> str:
    """Turn a title into at most 40 letters, digits and hyphens: `Café @-@ au lait!` becomes `caf-au-lait`."""
    words = re.findall(r"[a-z0-9]+", title.replace("<unk>", "").lower())
    return "-".join(words)[:40].strip("-")
