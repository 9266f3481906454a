"""Manifests: written last, so that their presence means the work is finished.

A manifest holds the settings its stage ran with and their fingerprint. The same fingerprint:
finished work is skipped. Another: `StaleStageError` names what differs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # that of typing cannot be validated before Python 3.12

from data_pipeline.errors import CorruptShardError, StaleStageError, StoreError
from data_pipeline.utils import atomic_write_json, sha256_of_file, sha256_of_json

FORMAT_VERSION = 1

Settings = Mapping[str, Any]
"""Settings that decide the bytes of a stage's output, as nested mappings of JSON values."""


class ShardRecord(TypedDict):
    """What a manifest says of one file; see `ShardEntry`."""

    file: str
    rows: int
    sha256: str
    ids_sha256: str
    texts_sha256: str
    bytes: NotRequired[int | None]


class Made(TypedDict):
    """How something was made: what decides whether it is made again."""

    fingerprint: str
    settings: dict[str, Any]
    upstream: str
    """Fingerprint of what it was made from."""


class EmbeddedSplit(Made):
    """Vectors of one split."""

    corpus: str
    rows: int
    dim: int
    truncated: int
    """Texts that were longer than the model takes."""
    shards: list[ShardRecord]


class ScoredSplit(Made):
    """Scores of one split."""

    corpus: str
    rows: int
    columns: list[str]
    shards: list[ShardRecord]


class SelectedSplit(Made):
    """A selection of the rows of one split."""

    rows: int
    ids_sha256: str
    sha256: str
    about: dict[str, Any]


class ParagraphSplit(TypedDict):
    """Paragraphs of one split."""

    rows: int
    tokens: NotRequired[int]
    characters: NotRequired[int]
    shards: list[ShardRecord]


class ParagraphCounts(TypedDict):
    """What became of a corpus's paragraphs."""

    documents: int
    paragraphs: int
    kept: int
    dropped: dict[str, int]
    """Paragraphs that were dropped, by reason."""
    token_counter: str


class ParagraphManifest(Made):
    """Manifest of `data/<corpus>_processed`."""

    stage: NotRequired[str]
    corpus: NotRequired[str]
    """Description of the source."""
    counts: ParagraphCounts
    dropped_sha256: str
    splits: dict[str, ParagraphSplit]
    leakage: NotRequired[dict[str, Any]]


class EmbeddingManifest(TypedDict):
    """Manifest of `data/embeddings`."""

    stage: NotRequired[str]
    splits: dict[str, EmbeddedSplit]
    calibration: NotRequired[dict[str, Any]]
    """Of int8 and float8 vectors, for all splits."""


class ScoreManifest(TypedDict):
    """Manifest of `data/scores/<name>`."""

    stage: NotRequired[str]
    name: NotRequired[str]
    splits: dict[str, ScoredSplit]


class SelectionManifest(TypedDict):
    """Manifest of `data/selections/<name>`."""

    stage: NotRequired[str]
    splits: dict[str, SelectedSplit]


class IndexManifest(Made):
    """Manifest of a search index."""

    stage: NotRequired[str]
    passages: NotRequired[int]
    bytes: dict[str, int]
    """Size of each file, by name."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Name, size and hashes of one file, as its manifest records them."""

    file: str
    rows: int
    sha256: str
    ids_sha256: str
    texts_sha256: str
    bytes: int | None = None
    """Size of the file; None in manifests of versions that did not record it."""

    def to_json(self) -> ShardRecord:
        """For a manifest."""
        return cast(ShardRecord, asdict(self))


def entry_of(path: Path, rows: int, ids_sha256: str, texts_sha256: str) -> ShardEntry:
    """What a manifest is to say of a finished file; reads it once."""
    return ShardEntry(path.name, rows, sha256_of_file(path), ids_sha256, texts_sha256, path.stat().st_size)


def fingerprint(settings: Settings, upstream: str) -> str:
    """The fingerprint of a stage's output: SHA-256 of its deciding settings, its input's fingerprint and the format."""
    return sha256_of_json({"settings": settings, "upstream": upstream, "format_version": FORMAT_VERSION})


def made_with(settings: Settings, upstream: str) -> Made:
    """The record of how something was made, for a manifest."""
    return {"fingerprint": fingerprint(settings, upstream), "settings": dict(settings), "upstream": upstream}


M = TypeVar("M", ParagraphManifest, EmbeddingManifest, ScoreManifest, SelectionManifest, IndexManifest)


def read_manifest(folder: Path, kind: type[M]) -> M | None:
    """The manifest of a folder; None if the folder has none.

    Raises:
        CorruptShardError: it is not readable JSON, or not a manifest of this kind.
        StoreError: a newer version of this package wrote it.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"{path} cannot be read: {error}. Run again with --overwrite.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), int):
        raise CorruptShardError(f"{path} is not a manifest of this package. Run again with --overwrite.")
    if manifest["format_version"] > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {manifest['format_version']}, this version reads up to {FORMAT_VERSION}. Update it."
        )
    _check_types(path, manifest, kind)
    return cast(M, manifest)


def _check_types(path: Path, manifest: dict[str, Any], kind: type[M]) -> None:
    try:
        TypeAdapter(kind).validate_python(manifest)
    except ValidationError as error:
        # What is missing is found out by who needs it: a manifest of an older version may have less.
        wrong = [problem for problem in error.errors() if problem["type"] != "missing"]
        if wrong:
            name = ".".join(map(str, wrong[0]["loc"]))
            raise CorruptShardError(
                f"{path}: {name}: {wrong[0]['msg']}, found {str(wrong[0]['input'])[:60]!r}. Run again with --overwrite."
            ) from error


def read_manifest_to_replace(folder: Path, overwrite: bool, kind: type[M]) -> M | None:
    """The manifest of a folder that is to be written to; with `overwrite`, one that cannot be read is removed.

    Raises:
        CorruptShardError: it is not readable JSON, and not `overwrite`.
        StoreError: a newer version of this package wrote it.
    """
    try:
        return read_manifest(folder, kind)
    except CorruptShardError:
        if not overwrite:
            raise
        (folder / "manifest.json").unlink()
        return None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, atomically; everything it speaks of must be on disk before."""
    atomic_write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION} | dict(manifest))


def check_fresh(existing: Made, settings: Settings, upstream: str, where: Path) -> None:
    """Refuse finished work that was made with other settings.

    Args:
        existing: how it was made, from its manifest.
        settings: what is asked for now, as nested mappings of JSON values.
        upstream: the fingerprint of the stage's input now.
        where: folder, for the message.

    Raises:
        StaleStageError: naming each setting that differs, its old and its new value.
    """
    if existing["fingerprint"] == fingerprint(settings, upstream):
        return
    old, new = _flat(existing["settings"]), _flat(settings)
    changes = [
        f"{name} was {old.get(name, 'not set')!r}, now {new.get(name, 'not set')!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if existing["upstream"] != upstream:
        changes.append("the paragraphs it was made from have changed")
    raise StaleStageError(
        f"{where} was made with other settings:\n  " + "\n  ".join(changes or ["the format of the files"]) + "\n"
        "Pass --overwrite to rebuild it, or --output-dir to keep both "
        "(for embeddings also --embedding.variant NAME)."
    )


def _flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
