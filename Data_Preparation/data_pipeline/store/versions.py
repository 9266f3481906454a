"""Earlier versions of a dataset: hard links to their files in `.versions/<number>` of each folder.

A link costs no space while the present version has the same file, and keeps the file when that version replaces it.
Paragraphs have a version number in their manifest; the vectors that belong to a version are kept under its number.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.errors import NotFoundError
from data_pipeline.store.documents import DOCUMENTS, SET_ASIDE
from data_pipeline.store.dropped import DROPPED, DROPPED_EXAMPLES
from data_pipeline.store.manifest import EmbeddingManifest, contents_of, read_manifest
from data_pipeline.store.paragraphs import DELETED, VERSIONS, ParagraphStore
from data_pipeline.utils.files import exclusive, link_or_copy
from data_pipeline.utils.system import fsync_path

_ALWAYS = ("manifest.json", DROPPED, DROPPED_EXAMPLES, DELETED, DOCUMENTS, SET_ASIDE)


def version_folder(folder: Path, number: int) -> Path:
    """Folder of an earlier version."""
    return folder / VERSIONS / f"{number:04d}"


def list_versions(folder: Path) -> list[int]:
    """Numbers of the earlier versions that a folder keeps, ascending."""
    names = (path.name for path in (folder / VERSIONS).glob("[0-9]*") if (path / "manifest.json").is_file())
    return sorted(int(name) for name in names if name.isdecimal())


def open_version(folder: Path, number: int | None) -> ParagraphStore:
    """Open a version of the paragraphs in a folder; None for the present one.

    Raises:
        NotFoundError: the folder has no paragraphs, or does not keep the version.
    """
    store = ParagraphStore(folder)
    if number is None or number == store.version:
        return store
    if number not in (kept := list_versions(folder)):
        earlier = ", ".join(map(str, kept)) or "none"
        raise NotFoundError(
            f"{folder} has version {store.version} and keeps these earlier ones: {earlier}; not {number!r}"
        )
    return ParagraphStore(version_folder(folder, number))


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


def keep_embeddings(folder: Path, store: ParagraphStore, count: int) -> None:
    """Keep the vectors of the present paragraphs, those of all variants, before others replace them.

    Vectors that belong to other paragraphs are no version: a crash came while they were replaced.

    Args:
        folder: `data/embeddings`.
        store: the present paragraphs.
        count: number of versions to keep; older ones are removed.
    """
    own = {shard.content for split in store.splits for shard in store.listed(split)}
    for present in embedding_folders(folder):
        manifest = read_manifest(present, EmbeddingManifest)
        kept = read_manifest(version_folder(present, store.version), EmbeddingManifest)
        # After a crash, these may be vectors of an earlier version, to whose rows others were appended.
        has_more = kept is not None and manifest is not None and _contents(manifest) < _contents(kept) <= own
        if manifest is not None and count and _contents(manifest) <= own and not has_more:
            keep_version(present, manifest, store.version)
        for old in list_versions(present):
            if old <= store.version - count:
                remove_version(present, old)


def own_bytes(folders: Iterable[Path]) -> int:
    """Size of the files that only these folders have, which their removal would free."""
    found = [path.stat() for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
    names = Counter((stat.st_dev, stat.st_ino) for stat in found)
    sizes = {(stat.st_dev, stat.st_ino): (stat.st_size, stat.st_nlink) for stat in found}
    return sum(size for file, (size, links) in sizes.items() if links <= names[file])


def remove_version(folder: Path, number: int) -> None:
    """Remove an earlier version; after a crash it is there whole, or is no version any more."""
    path = version_folder(folder, number)
    doomed = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def sweep_versions(folder: Path) -> None:
    """Remove what a crash left of versions that were being made or removed."""
    for path in (folder / VERSIONS).glob(".*.tmp"):
        shutil.rmtree(path)


def embedding_folders(folder: Path) -> Iterator[Path]:
    """The folder of the embeddings, and those of its variants, that have a manifest or earlier versions."""
    for path in (folder, *sorted(folder.glob("*"))):
        is_hidden = path != folder and path.name.startswith(".")
        if not is_hidden and ((path / "manifest.json").is_file() or (path / VERSIONS).is_dir()):
            yield path


@contextmanager
def exclusive_vectors(folder: Path) -> Iterator[None]:
    """Lock the folder of the embeddings and those of all its variants for one writing process; see `exclusive`."""
    with ExitStack() as locks:
        for present in {folder, *embedding_folders(folder)}:
            locks.enter_context(exclusive(present))
        yield


def _contents(manifest: EmbeddingManifest) -> set[tuple[int, str, str]]:
    return {content for split in manifest["splits"].values() for content in contents_of(split["shards"])}


def _listed_files(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from _ALWAYS
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            yield Path(shard["file"]).name
