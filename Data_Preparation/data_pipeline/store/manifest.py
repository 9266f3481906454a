"""Manifests: written last, so that their presence means the work is finished.

A manifest holds the settings its stage ran with and their fingerprint. The same fingerprint:
finished work is skipped. Another: `StaleStage` names what differs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from data_pipeline.errors import CorruptShard, StaleStage, StoreError
from data_pipeline.utils import atomic_write_json, sha256_of_file, sha256_of_json

FORMAT_VERSION = 1

Manifest: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What a manifest says of one file."""

    file: str
    rows: int
    sha256: str
    ids_sha256: str
    texts_sha256: str
    bytes: int | None = None
    """Of the file; None in manifests of versions that did not write it down."""

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def entry_of(path: Path, rows: int, ids_sha256: str, texts_sha256: str) -> ShardEntry:
    """What a manifest is to say of a finished file; reads it once."""
    return ShardEntry(path.name, rows, sha256_of_file(path), ids_sha256, texts_sha256, path.stat().st_size)


def fingerprint(settings: Mapping[str, Any], upstream: str) -> str:
    """SHA-256 of a stage's own settings, its input's fingerprint and the format version."""
    return sha256_of_json({"settings": settings, "upstream": upstream, "format_version": FORMAT_VERSION})


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        CorruptShard: it is not readable JSON.
        StoreError: a newer version of this package wrote it.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptShard(f"{path} cannot be read: {error}. Run again with --overwrite.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format_version"), int):
        raise CorruptShard(f"{path} is not a manifest of this package. Run again with --overwrite.")
    if manifest["format_version"] > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {manifest['format_version']}, this version reads up to {FORMAT_VERSION}. Update it."
        )
    return manifest


def read_manifest_to_replace(folder: Path, overwrite: bool) -> Manifest | None:
    """The manifest of a folder that is to be written to; one that cannot be read goes, where all may be replaced.

    Raises:
        CorruptShard: it is not readable JSON, and not `overwrite`.
        StoreError: a newer version of this package wrote it.
    """
    try:
        return read_manifest(folder)
    except CorruptShard:
        if not overwrite:
            raise
        (folder / "manifest.json").unlink()
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest, atomically; everything it speaks of must be on disk before."""
    atomic_write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION} | manifest)


def check_fresh(found: Mapping[str, Any], settings: Mapping[str, Any], upstream: str, where: Path) -> None:
    """Refuse finished work that was made with other settings.

    Args:
        found: the part of a manifest with `fingerprint`, `settings` and `upstream`.
        settings: what is asked for now, as nested mappings of JSON values.
        upstream: the fingerprint of the stage's input now.
        where: folder, for the message.

    Raises:
        StaleStage: naming each setting that differs, its old and its new value.
    """
    if found["fingerprint"] == fingerprint(settings, upstream):
        return
    old, new = _flat(found["settings"]), _flat(settings)
    changes = [
        f"{name} was {old.get(name, 'not set')!r}, now {new.get(name, 'not set')!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if found["upstream"] != upstream:
        changes.append("the paragraphs it was made from have changed")
    raise StaleStage(
        f"{where} was made with other settings:\n  " + "\n  ".join(changes or ["the format of the files"]) + "\n"
        "Pass --overwrite to rebuild it, or --output-dir to keep both "
        "(for embeddings also --embedding.variant NAME)."
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
