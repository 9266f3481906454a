"""Manifests, which are written last, so that a manifest exists only for finished work.

A manifest records the settings of its stage and their fingerprint. Finished work with the same fingerprint is skipped;
with another fingerprint, `StaleStageError` names the settings that differ.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot validate that of typing before Python 3.12

from data_pipeline.errors import CorruptShardError, StaleStageError, StoreError
from data_pipeline.utils import atomic_write_json, sha256_of_file, sha256_of_json

FORMAT_VERSION = 1

_FILES = "corpus.identity."
_SHOWN_CHANGES = 20  # a corpus may have thousands of files

Settings = Mapping[str, Any]
"""Settings that decide the bytes of a stage's output, as nested mappings of JSON values."""


class ShardRecord(TypedDict):
    """Entry of one file in a manifest; see `ShardEntry`."""

    file: str
    rows: int
    sha256: str
    ids_sha256: str
    texts_sha256: str
    bytes: NotRequired[int | None]


class Made(TypedDict):
    """Record of how an output was made, which decides whether it is made again."""

    fingerprint: str
    settings: dict[str, Any]
    upstream: str
    """Fingerprint of the input."""


class RowFiles(Made):
    """Entry of files that have the rows of the paragraphs of one split."""

    corpus: str
    rows: int
    shards: list[ShardRecord]


class EmbeddedSplit(RowFiles):
    """Entry of the vectors of one split."""

    dim: int
    truncated: int
    """Number of texts that were longer than the limit of the model."""


class SparseSplitRecord(RowFiles):
    """Entry of the sparse vectors of one split."""

    dim: int
    """Number of words of the model's vocabulary."""


class ScoredSplitRecord(RowFiles):
    """Entry of the scores of one split."""

    columns: list[str]


class SelectedSplit(Made):
    """Entry of a selection of the rows of one split."""

    rows: int
    ids_sha256: str
    sha256: str
    about: dict[str, Any]


class ParagraphSplit(TypedDict):
    """Entry of the paragraphs of one split."""

    rows: int
    tokens: NotRequired[int]
    characters: NotRequired[int]
    shards: list[ShardRecord]


class ParagraphCounts(TypedDict):
    """Numbers of documents and paragraphs of a corpus."""

    documents: int
    paragraphs: int
    kept: int
    dropped: dict[str, int]
    """Numbers of dropped paragraphs, by reason."""
    token_counter: str
    too_long_token_share: NotRequired[float]
    """Share of the tokens in paragraphs that were dropped as too long, 0 to 1, if it is more than half."""
    personal_data: NotRequired[dict[str, int]]
    """Numbers of e-mail addresses and other personal data that were masked or caused a drop, by kind."""


class StageManifest(TypedDict):
    """Part that the manifests of all stages have."""

    stage: NotRequired[str]
    package_version: NotRequired[str]
    """Version of this package that wrote the manifest."""


class AppendedSource(TypedDict):
    """Source of documents that were appended."""

    corpus: str
    """Description of the source."""
    settings: dict[str, Any]
    """Settings and identity that decide its documents, as those of the first source in `settings.corpus`."""


class ParagraphManifest(StageManifest, Made):
    """Manifest of `data/<corpus>_processed`."""

    version: NotRequired[int]
    """Number of the version; 1 where there is none. See `store.versions`."""
    parent: NotRequired[int]
    """Number of the version that this one was made from, by `elm append`, `elm compact` or `elm rollback`."""
    appended: NotRequired[list[AppendedSource]]
    """Sources that were appended, in order."""
    deleted: NotRequired[ShardRecord]
    """File with the row numbers of deleted rows, which every reader leaves out."""
    changes: NotRequired[dict[str, Any]]
    """What came and went since the parent, for a version that `elm append` made."""
    corpus: NotRequired[str]
    """Description of the source."""
    license: NotRequired[str | list[str]]
    """Licence of the texts; a sorted list if the sources have several, `unknown` among them if one is not known."""
    counts: ParagraphCounts
    dropped_sha256: str
    dropped_examples_sha256: NotRequired[str]
    """SHA-256 of the examples of dropped rows, which earlier versions of this package did not write."""
    splits: dict[str, ParagraphSplit]
    leakage: NotRequired[dict[str, Any]]


class EmbeddingManifest(StageManifest):
    """Manifest of `data/embeddings`."""

    splits: dict[str, EmbeddedSplit]
    calibration: NotRequired[dict[str, Any]]
    """Calibration of int8 and float8 vectors, shared by all splits."""


class SparseManifest(StageManifest):
    """Manifest of `data/sparse`."""

    splits: dict[str, SparseSplitRecord]


class ScoreManifest(StageManifest):
    """Manifest of `data/scores/<name>`."""

    name: NotRequired[str]
    splits: dict[str, ScoredSplitRecord]


class SelectionManifest(StageManifest):
    """Manifest of `data/selections/<name>`."""

    splits: dict[str, SelectedSplit]


class IndexManifest(StageManifest, Made):
    """Manifest of a search index."""

    passages: NotRequired[int]
    bytes: dict[str, int]
    """Size of each file, by name."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Name, size and hashes of one file, as recorded in its manifest."""

    file: str
    rows: int
    sha256: str
    ids_sha256: str
    texts_sha256: str
    bytes: int | None = None
    """Size of the file; None in manifests of versions that did not record it."""

    @property
    def content(self) -> tuple[int, str, str]:
        """Number of rows, and the hashes of their ids and texts, which are the same for all files of the same rows."""
        return self.rows, self.ids_sha256, self.texts_sha256

    def to_json(self) -> ShardRecord:
        """Return the entry as JSON values for a manifest."""
        return cast(ShardRecord, asdict(self))


def contents_of(records: Iterable[ShardRecord]) -> list[tuple[int, str, str]]:
    """Return the `ShardEntry.content` of manifest entries, in order."""
    return [(record["rows"], record["ids_sha256"], record["texts_sha256"]) for record in records]


def entry_for(paragraphs: ShardEntry, listed: Sequence[ShardRecord], index: int) -> ShardEntry:
    """Return the entry of the file of a paragraph shard among those of its split.

    Args:
        paragraphs: entry of the paragraph shard.
        listed: entries of the files.
        index: position of the shard, whose entry is returned if it has its rows, or if none has.
    """
    own = ShardEntry(**listed[min(index, len(listed) - 1)])
    if own.content == paragraphs.content:
        return own
    return next((entry for entry in (ShardEntry(**one) for one in listed) if entry.content == paragraphs.content), own)


def entry_of(path: Path, rows: int, ids_sha256: str, texts_sha256: str) -> ShardEntry:
    """Make the manifest entry of a finished file, whose bytes are read once."""
    return ShardEntry(path.name, rows, sha256_of_file(path), ids_sha256, texts_sha256, path.stat().st_size)


def fingerprint(settings: Settings, upstream: str) -> str:
    """Compute the fingerprint of an output: SHA-256 of its settings, the fingerprint of its input, and the format."""
    return sha256_of_json({"settings": settings, "upstream": upstream, "format_version": FORMAT_VERSION})


def made_with(settings: Settings, upstream: str) -> Made:
    """Make the record of how an output was made, for a manifest."""
    return {"fingerprint": fingerprint(settings, upstream), "settings": dict(settings), "upstream": upstream}


M = TypeVar(
    "M",
    ParagraphManifest,
    EmbeddingManifest,
    SparseManifest,
    ScoreManifest,
    SelectionManifest,
    IndexManifest,
)


def read_manifest(folder: Path, kind: type[M]) -> M | None:
    """Read the manifest of a folder; returns None if the folder has none.

    Raises:
        CorruptShardError: the file is not valid JSON, or not a manifest of this kind.
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
            f"{path} has format {manifest['format_version']}, expected at most {FORMAT_VERSION}. Update this package."
        )
    _check_types(path, manifest, kind)
    return cast(M, manifest)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The validator of a kind of manifest; building one takes milliseconds."""
    return TypeAdapter(kind)


def _check_types(path: Path, manifest: dict[str, Any], kind: type[M]) -> None:
    try:
        _adapter(kind).validate_python(manifest)  # type: ignore[arg-type]  # a TypedDict is hashable
    except ValidationError as error:
        # Manifests of older versions lack fields, which matters only where a field is read.
        invalid = [problem for problem in error.errors() if problem["type"] != "missing"]
        if invalid:
            name = ".".join(map(str, invalid[0]["loc"]))
            raise CorruptShardError(
                f"{path}: {name}: {invalid[0]['msg']}, found {str(invalid[0]['input'])[:60]!r}. "
                "Run again with --overwrite."
            ) from error


def read_manifest_to_replace(folder: Path, overwrite: bool, kind: type[M]) -> M | None:
    """Read the manifest of an output folder; with `overwrite`, a damaged manifest is removed.

    Raises:
        CorruptShardError: the manifest is damaged, and `overwrite` is false.
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
    """Write the manifest of a folder atomically; all files that it lists must be on disk before."""
    content = {"format_version": FORMAT_VERSION} | dict(manifest)
    content.pop("package_version", None)  # that of an earlier writer; the order of the keys is part of the bytes
    atomic_write_json(folder / "manifest.json", content | {"package_version": version("elm-data-preparation")})


def check_fresh(existing: Made, settings: Settings, upstream: str, where: Path) -> None:
    """Check that finished work was made with the present settings.

    Args:
        existing: record of the finished work, from its manifest.
        settings: present settings, as nested mappings of JSON values.
        upstream: present fingerprint of the input.
        where: folder of the work, for the message.

    Raises:
        StaleStageError: the settings differ; the message names each one with its old and new value.
    """
    if existing["fingerprint"] == fingerprint(settings, upstream):
        return
    changes = setting_changes(existing["settings"], settings)
    if existing["upstream"] != upstream:
        changes.append("the paragraphs it was made from have changed")
    raise StaleStageError(
        f"{where} was made with other settings:\n  " + "\n  ".join(changes or ["the format of the files"]) + "\n"
        "Pass --overwrite to rebuild it, or keep both by setting another data_dir (for embeddings also "
        "embedding.variant)."
    )


def version_of(manifest: ParagraphManifest | None) -> int:
    """Return the number of the version of paragraphs; 1 where the manifest names none."""
    return manifest.get("version", 1) if manifest else 1


def setting_changes(before: Settings, after: Settings) -> list[str]:
    """Describe the settings that differ, each with its old and new value; of very many, the first ones."""
    old, new = _flat(before), _flat(after)
    changes = [_change(name, old, new) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if len(changes) > _SHOWN_CHANGES:
        changes = [*changes[:_SHOWN_CHANGES], f"and {len(changes) - _SHOWN_CHANGES:,} more"]
    return changes


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the change of a setting, or of a file of the corpus."""
    file = name.removeprefix(_FILES)
    if file == name or "." not in file:  # the identity of a dataset of the hub has no file names
        return f"{name} was {old.get(name, 'not set')!r}, now {new.get(name, 'not set')!r}"
    if name not in old:
        return f"the corpus has a new file {file}"
    return f"the file {file} of the corpus was changed" if name in new else f"the corpus no longer has the file {file}"


def _flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
