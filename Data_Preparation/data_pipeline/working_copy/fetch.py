"""Fetching: brings a working copy up to date with its URL.

Files come first, manifests last; each file is checked by its size and the hash in its manifest. What was changed here
and not there is left as it is, and what was changed on both sides is an error.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from uuid import uuid4

from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.utils import atomic_write_bytes, human_bytes, publish, sha256_of_file
from data_pipeline.working_copy.names import is_manifest, is_published, manifest_of
from data_pipeline.working_copy.objects import RemoteEntry
from data_pipeline.working_copy.working_copy import SAVED_EVERY, WorkingCopy, after_vectors, at_once, listed_files

logger = logging.getLogger(__name__)

_SHOWN = 5


def fetch(copy: WorkingCopy) -> int:
    """Fetch what is missing here or new at the URL.

    Args:
        copy: the working copy.

    Returns:
        Number of files that were fetched.

    Raises:
        StoreError: a file cannot be fetched, or was changed on both sides.
        CorruptShardError: a file does not match the manifest at the URL.
    """
    with copy.lock:
        there = {name: entry for name, entry in copy.objects.list().items() if is_published(name)}
        _check_not_emptied(copy, there)
        here = copy.local()
        wanted = _wanted(copy, there, here)
        manifests = {name: _manifest(copy, name) for name in wanted if is_manifest(name)}
        hashes = _hashes(copy, there, manifests)
        _remove_local(copy, [name for name in copy.known if name not in there], here)
        for name in sorted({manifest_of(name) for name in wanted if name in here and not is_manifest(name)}):
            copy.known.forget(name)
            (copy.root / name).unlink(missing_ok=True)  # until all files that it lists are there
        copy.known.save()
        _fetch_files(copy, [name for name in wanted if not is_manifest(name)], there, hashes)
        for name in sorted(manifests, key=after_vectors):
            atomic_write_bytes(copy.root / name, manifests[name])
            copy.note(name, there[name].identity)
        copy.known.save()
    if wanted:
        size = human_bytes(sum(there[name].size for name in wanted))
        logger.info("fetched %d files (%s) of %s", len(wanted), size, copy.objects.shown)
    return len(wanted)


def _check_not_emptied(copy: WorkingCopy, there: Mapping[str, RemoteEntry]) -> None:
    if len(copy.known) and not there:
        raise StoreError(
            f"nothing is at {copy.objects.shown} any more, and {len(copy.known):,} files were published there "
            f"from {copy.root}. If that was meant, move this folder away; else check the address"
        )


def _wanted(copy: WorkingCopy, there: Mapping[str, RemoteEntry], here: Mapping[str, os.stat_result]) -> list[str]:
    """Return the files that are missing here or were changed at the URL, each replaced file with its manifest.

    Raises:
        StoreError: some were changed on both sides.
    """
    changed = [name for name, entry in there.items() if not _has(copy, name, entry, here)]
    adopted = _adopted(copy, changed, there, here)
    wanted = [name for name in changed if name not in adopted]
    others = {manifest_of(name) for name in wanted if name in here} & there.keys() - set(changed)
    _adopted(copy, others, there, here)
    return [*wanted, *sorted(others)]


def _has(copy: WorkingCopy, name: str, entry: RemoteEntry, here: Mapping[str, os.stat_result]) -> bool:
    """Return whether nothing is to be fetched for a file: it is here, or a run that was not published removed it."""
    is_known = copy.known.is_remote(name, entry.identity)
    manifest = manifest_of(name)
    is_ahead = manifest in here and not copy.known.is_local(manifest, here[manifest])
    return is_known and (name in here or is_ahead)


def _manifest(copy: WorkingCopy, name: str) -> bytes:
    content = copy.objects.read(name)
    if content is None:
        raise StoreError(f"{copy.objects.shown}/{name} has just been removed: it is being replaced. Run again later")
    return content


def _hashes(copy: WorkingCopy, there: Mapping[str, RemoteEntry], manifests: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of the files that the manifests list, by name; all of them must be there."""
    hashes = {}
    for name, content in manifests.items():
        try:
            listed = list(listed_files(json.loads(content)))
        except ValueError as error:
            raise CorruptShardError(f"{copy.objects.shown}/{name} cannot be read: {error}") from None
        for file, sha256 in listed:
            path = manifest_of(name).removesuffix("manifest.json") + Path(file).name
            hashes[path] = sha256
            if path not in there:
                raise StoreError(
                    f"{copy.objects.shown}/{name} lists {Path(file).name}, which is not there: it is being "
                    "replaced, or was removed. Run again later"
                )
    return hashes


def _adopted(
    copy: WorkingCopy, changed: Iterable[str], there: Mapping[str, RemoteEntry], here: Mapping[str, os.stat_result]
) -> set[str]:
    """Return the files that were changed on both sides, and are the same again.

    Raises:
        StoreError: some are not the same.
    """
    both = [name for name in changed if name in here and not copy.known.is_local(name, here[name])]
    adopted = {name for name in both if _has_content(copy, name, there[name], here[name])}
    if differing := [name for name in both if name not in adopted]:
        more = f" and {len(differing) - _SHOWN:,} more" if len(differing) > _SHOWN else ""
        raise StoreError(
            f"{copy.root} and {copy.objects.shown} were both changed since they were last the same: "
            f"{', '.join(differing[:_SHOWN])}{more}. To go on with what is at the URL, move the folder away; to "
            "keep the folder instead, publish it to another URL"
        )
    for name in adopted:
        copy.note(name, there[name].identity, here[name])
    return adopted


def _has_content(copy: WorkingCopy, name: str, entry: RemoteEntry, stat: os.stat_result) -> bool:
    """Return whether a local file is the one at the URL, for which that is fetched."""
    if stat.st_size != entry.size:
        return False
    temporary = _temporary(copy, name)
    try:
        copy.objects.fetch(name, temporary, entry.size)
        return sha256_of_file(temporary) == sha256_of_file(copy.root / name)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_local(copy: WorkingCopy, gone: Iterable[str], here: Mapping[str, os.stat_result]) -> None:
    """Remove what is gone at the URL, unless it was changed here."""
    for name in sorted(gone, key=lambda name: (not is_manifest(name), name)):
        if name in here and copy.known.is_local(name, here[name]):
            (copy.root / name).unlink()
        copy.known.forget(name)


def _fetch_files(
    copy: WorkingCopy, names: list[str], there: Mapping[str, RemoteEntry], hashes: Mapping[str, str]
) -> None:
    fetch = partial(_fetch_file, copy, there=there, hashes=hashes)
    for number, name in enumerate(at_once(fetch, names)):
        copy.note(name, there[name].identity)
        if number % SAVED_EVERY == 0:
            copy.known.save()


def _fetch_file(copy: WorkingCopy, name: str, there: Mapping[str, RemoteEntry], hashes: Mapping[str, str]) -> str:
    temporary = _temporary(copy, name)
    try:
        copy.objects.fetch(name, temporary, there[name].size)
        if name in hashes and (found := sha256_of_file(temporary)) != hashes[name]:
            raise CorruptShardError(
                f"{copy.objects.shown}/{name} has SHA-256 {found[:12]}, its manifest expects {hashes[name][:12]}: "
                "it is being replaced, or was damaged. Run again later"
            )
        publish(temporary, copy.root / name)
    finally:
        temporary.unlink(missing_ok=True)
    return name


def _temporary(copy: WorkingCopy, name: str) -> Path:
    path = copy.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")
