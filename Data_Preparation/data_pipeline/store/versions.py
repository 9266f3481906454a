"""Earlier versions of a dataset: hard links to their files in `.versions/<number>` of each folder.

A link costs no space while the present version has the same file, and keeps the file when that version replaces it.
Paragraphs have a version number in their manifest; the vectors that belong to a version are kept under its number.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, read_manifest
from data_pipeline.utils.files import link_or_copy
from data_pipeline.utils.system import fsync_path

FOLDER = ".versions"
_ALWAYS = ("manifest.json", "dropped.parquet")


def version_of(manifest: ParagraphManifest) -> int:
    """Number of the version of paragraphs; 1 where an older package wrote the manifest."""
    return manifest.get("version", 1)


def version_folder(folder: Path, number: int) -> Path:
    """Folder of an earlier version."""
    return folder / FOLDER / f"{number:04d}"


def list_versions(folder: Path) -> list[int]:
    """Numbers of the earlier versions that a folder keeps, ascending."""
    names = (path.name for path in (folder / FOLDER).glob("[0-9]*") if (path / "manifest.json").is_file())
    return sorted(int(name) for name in names if name.isdecimal())


def keep_version(folder: Path, manifest: Mapping[str, Any], number: int, into: Path | None = None) -> None:
    """Keep the present files of a folder as an earlier version; one of this number is replaced.

    Args:
        folder: folder of the files.
        manifest: its manifest.
        number: number of the version.
        into: folder that gets the version; None for the folder itself.
    """
    final = version_folder(into or folder, number)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in _listed_files(manifest):
        if (folder / name).is_file():
            link_or_copy(folder / name, temporary / name)
    fsync_path(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    fsync_path(final.parent)


def carry_versions(folder: Path, into: Path, count: int) -> None:
    """Link the latest versions that a folder keeps into the folder that will replace it.

    Args:
        folder: folder with versions.
        into: folder that gets them.
        count: number of versions to carry over, the latest ones.
    """
    for number in list_versions(folder)[-count:] if count > 0 else []:
        source = version_folder(folder, number)
        target = version_folder(into, number)
        target.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            if path.is_file():  # no folder of caches
                link_or_copy(path, target / path.name)


def keep_embeddings(folder: Path, number: int, count: int) -> None:
    """Keep the vectors of a version of the paragraphs, those of all variants, before others replace them.

    Args:
        folder: `data/embeddings`.
        number: number of the version that they belong to.
        count: number of versions to keep; older ones are removed.
    """
    for present in embedding_folders(folder):
        manifest = read_manifest(present, EmbeddingManifest)
        if manifest is not None and count:
            keep_version(present, manifest, number)
        for old in list_versions(present):
            if old <= number - count:
                shutil.rmtree(version_folder(present, old))


def embedding_folders(folder: Path) -> Iterator[Path]:
    """The folder of the embeddings, and those of its variants, that have a manifest."""
    for path in (folder, *sorted(folder.glob("*"))):
        if not path.name.startswith(".") and (path / "manifest.json").is_file():
            yield path


def _listed_files(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from _ALWAYS
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            yield Path(shard["file"]).name
