"""The working copy of a data folder at a URL: fetches what is missing or new, and publishes what was made.

    fetch     files first, manifests last; each file checked by its size and the hash in its manifest
    publish   a manifest is withdrawn before a file that it lists is replaced; files; manifests, those of paragraphs at
              the very end; then what is gone here is removed there

So at any moment a manifest at the URL lists files that are there.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from data_pipeline.errors import CorruptShardError, StoreError
from data_pipeline.utils import atomic_write_bytes, human_bytes, publish, sha256_of_file
from data_pipeline.working_copy.names import is_manifest, is_published, manifest_of, published_files, without_version
from data_pipeline.working_copy.objects import RemoteEntry, RemoteObjects
from data_pipeline.working_copy.state import LastSame

logger = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE = 4
"""Files that are transferred at once."""
_SAVED_EVERY = 64
_SHOWN = 5


class WorkingCopy:
    """Working copy of a data folder at a URL.

    Args:
        root: local folder.
        objects: files at the URL.
    """

    def __init__(self, root: Path, objects: RemoteObjects) -> None:
        self.root, self.objects = root, objects
        self._lock = threading.Lock()
        self._known = LastSame(root, objects.shown)

    def fetch(self) -> int:
        """Fetch what is missing here or new at the URL; returns the number of files.

        Raises:
            StoreError: a file cannot be fetched, or was changed on both sides.
            CorruptShardError: a file does not match the manifest at the URL.
        """
        with self._lock:
            there = {name: entry for name, entry in self.objects.list().items() if is_published(name)}
            self._check_not_emptied(there)
            here = self._local()
            wanted = self._wanted(there, here)
            manifests = {name: self._manifest(name) for name in wanted if is_manifest(name)}
            hashes = self._hashes(there, manifests)
            self._remove_local([name for name in self._known if name not in there], here)
            for name in sorted({manifest_of(name) for name in wanted if name in here and not is_manifest(name)}):
                self._known.forget(name)
                (self.root / name).unlink(missing_ok=True)  # until all files that it lists are there
            self._known.save()
            self._fetch_files([name for name in wanted if not is_manifest(name)], there, hashes)
            for name in sorted(manifests, key=_after_vectors):
                atomic_write_bytes(self.root / name, manifests[name])
                self._note(name, there[name].identity)
            self._known.save()
        if wanted:
            size = human_bytes(sum(there[name].size for name in wanted))
            logger.info("fetched %d files (%s) of %s", len(wanted), size, self.objects.shown)
        return len(wanted)

    def publish(self, check: Callable[[], object], is_end: bool = True) -> int:
        """Publish what was made here, at a moment when nothing writes to the folder; returns the number of files.

        Args:
            check: called before files and manifests are written, to stop if another process writes too.
            is_end: whether nothing follows, so that what is gone here is removed at the URL.

        Raises:
            StoreError: a file cannot be written.
        """
        with self._lock:
            here = self._local()
            changed = [name for name, stat in here.items() if not self._known.is_local(name, stat)]
            removed = [name for name in self._known if is_end and name not in here]
            if not (changed or removed):
                return 0
            check()
            replaced = {manifest_of(name) for name in changed if name in self._known and not is_manifest(name)}
            withdrawn = sorted(name for name in replaced if name in self._known)
            contents = {
                name: (self.root / name).read_bytes()
                for name in dict.fromkeys([*changed, *withdrawn])
                if is_manifest(name) and name in here
            }
            for name in withdrawn:
                self._known.forget(name)
            self._known.save()
            self.objects.remove(withdrawn)
            self._put_files([name for name in changed if name not in contents], here)
            check()
            for name in sorted(contents, key=_after_vectors):
                entry = self.objects.write(name, contents[name])
                self._note(name, entry.identity, here[name])
            self.objects.remove(sorted(removed, key=lambda name: (not is_manifest(name), name)))
            for name in removed:
                self._known.forget(name)
            self._known.save()
        size = human_bytes(sum(here[name].st_size for name in changed))
        gone = f", and removed {len(removed):,} there" if removed else ""
        logger.info("published %d files (%s) to %s%s", len(changed), size, self.objects.shown, gone)
        return len(changed)

    def publish_new(self, check: Callable[[], object]) -> None:
        """Publish finished files that no manifest lists yet, while a stage is at work.

        Args:
            check: see `publish`.

        Raises:
            StoreError: a file cannot be written.
        """
        with self._lock:
            here = self._local()
            new = [name for name in here if name not in self._known and not is_manifest(name)]
            if new:
                check()
                self._put_files(new, here)
                self._known.save()

    def _local(self) -> dict[str, os.stat_result]:
        found = {}
        for name, path in published_files(self.root).items():
            try:
                found[name] = path.stat()
            except FileNotFoundError:  # replaced by a stage at this moment
                continue
        return found

    def _check_not_emptied(self, there: Mapping[str, RemoteEntry]) -> None:
        if len(self._known) and not there:
            raise StoreError(
                f"nothing is at {self.objects.shown} any more, and {len(self._known):,} files were published there "
                f"from {self.root}. If that was meant, move this folder away; else check the address"
            )

    def _wanted(self, there: Mapping[str, RemoteEntry], here: Mapping[str, os.stat_result]) -> list[str]:
        """Return the files that are missing here or were changed at the URL, each replaced file with its manifest.

        Raises:
            StoreError: some were changed on both sides.
        """
        changed = [
            name for name, entry in there.items() if name not in here or not self._known.is_remote(name, entry.identity)
        ]
        adopted = self._adopted(changed, there, here)
        wanted = [name for name in changed if name not in adopted]
        others = {manifest_of(name) for name in wanted if name in here} & there.keys() - set(changed)
        self._adopted(others, there, here)
        return [*wanted, *sorted(others)]

    def _manifest(self, name: str) -> bytes:
        content = self.objects.read(name)
        if content is None:
            raise StoreError(
                f"{self.objects.shown}/{name} has just been removed: it is being replaced. Run again later"
            )
        return content

    def _hashes(self, there: Mapping[str, RemoteEntry], manifests: Mapping[str, bytes]) -> dict[str, str]:
        """Return the SHA-256 of the files that the manifests list, by name; all of them must be there."""
        hashes = {}
        for name, content in manifests.items():
            try:
                listed = list(_listed(json.loads(content)))
            except ValueError as error:
                raise CorruptShardError(f"{self.objects.shown}/{name} cannot be read: {error}") from None
            for file, sha256 in listed:
                path = manifest_of(name).removesuffix("manifest.json") + Path(file).name
                hashes[path] = sha256
                if path not in there:
                    raise StoreError(
                        f"{self.objects.shown}/{name} lists {Path(file).name}, which is not there: it is being "
                        "replaced, or was removed. Run again later"
                    )
        return hashes

    def _adopted(
        self, changed: Iterable[str], there: Mapping[str, RemoteEntry], here: Mapping[str, os.stat_result]
    ) -> set[str]:
        """Return the files that were changed on both sides, and are the same again.

        Raises:
            StoreError: some are not the same.
        """
        both = [name for name in changed if name in here and not self._known.is_local(name, here[name])]
        adopted = {name for name in both if self._has_content(name, there[name], here[name])}
        if differing := [name for name in both if name not in adopted]:
            more = f" and {len(differing) - _SHOWN:,} more" if len(differing) > _SHOWN else ""
            raise StoreError(
                f"{self.root} and {self.objects.shown} were both changed since they were last the same: "
                f"{', '.join(differing[:_SHOWN])}{more}. To go on with what is at the URL, move the folder away; to "
                "keep the folder instead, publish it to another URL"
            )
        for name in adopted:
            self._note(name, there[name].identity, here[name])
        return adopted

    def _has_content(self, name: str, entry: RemoteEntry, stat: os.stat_result) -> bool:
        """Return whether a local file is the one at the URL, for which that is fetched."""
        if stat.st_size != entry.size:
            return False
        temporary = self._temporary(name)
        try:
            self.objects.fetch(name, temporary, entry.size)
            return sha256_of_file(temporary) == sha256_of_file(self.root / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_local(self, gone: Iterable[str], here: Mapping[str, os.stat_result]) -> None:
        """Remove what is gone at the URL, unless it was changed here."""
        for name in sorted(gone, key=lambda name: (not is_manifest(name), name)):
            if name in here and self._known.is_local(name, here[name]):
                (self.root / name).unlink()
            self._known.forget(name)

    def _fetch_files(self, names: list[str], there: Mapping[str, RemoteEntry], hashes: Mapping[str, str]) -> None:
        fetch = partial(self._fetch_file, there=there, hashes=hashes)
        for number, name in enumerate(_at_once(fetch, names)):
            self._note(name, there[name].identity)
            if number % _SAVED_EVERY == 0:
                self._known.save()

    def _fetch_file(self, name: str, there: Mapping[str, RemoteEntry], hashes: Mapping[str, str]) -> str:
        temporary = self._temporary(name)
        try:
            self.objects.fetch(name, temporary, there[name].size)
            if name in hashes and (found := sha256_of_file(temporary)) != hashes[name]:
                raise CorruptShardError(
                    f"{self.objects.shown}/{name} has SHA-256 {found[:12]}, its manifest expects {hashes[name][:12]}: "
                    "it is being replaced, or was damaged. Run again later"
                )
            publish(temporary, self.root / name)
        finally:
            temporary.unlink(missing_ok=True)
        return name

    def _temporary(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name}.{uuid4().hex}.tmp")

    def _put_files(self, names: Sequence[str], here: Mapping[str, os.stat_result]) -> None:
        """Put files; those that are links to published ones, or were published by another name, are copied there."""
        links = {
            (here[name].st_dev, here[name].st_ino): name
            for name in self._known
            if name in here and self._known.is_local(name, here[name])
        }
        former, linked = {}, {}
        for name in names:
            stat, earlier = here[name], without_version(name)
            if self._known.is_local(earlier, stat):
                former[name] = earlier
            elif (other := links.get((stat.st_dev, stat.st_ino))) is not None:
                linked[name] = other
        self._copy_files(former, here)  # first, since what is copied is replaced after it
        self._copy_files(linked, here)
        sent = [name for name in names if not (name in former or name in linked)]
        self._transfer(sent, here, lambda name: self.objects.put(self.root / name, name))

    def _copy_files(self, sources: Mapping[str, str], here: Mapping[str, os.stat_result]) -> None:
        self._transfer(list(sources), here, lambda name: self.objects.copy(sources[name], name, here[name].st_size))

    def _transfer(
        self, names: Sequence[str], here: Mapping[str, os.stat_result], put: Callable[[str], RemoteEntry]
    ) -> None:
        """Put files, and note those that were not replaced meanwhile."""

        def transfer(name: str) -> RemoteEntry | None:
            try:
                entry, now = put(name), (self.root / name).stat()
            except FileNotFoundError:
                return None
            same = (now.st_size, now.st_mtime_ns) == (here[name].st_size, here[name].st_mtime_ns)
            return entry if same else None

        for number, (name, entry) in enumerate(zip(names, _at_once(transfer, names), strict=True)):
            if entry is not None:
                self._note(name, entry.identity, here[name])
            if number % _SAVED_EVERY == 0:
                self._known.save()

    def _note(self, name: str, identity: str, stat: os.stat_result | None = None) -> None:
        self._known.note(name, identity, stat or (self.root / name).stat())


def _at_once(action: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """Do something with several files at once; after an error, those that have not begun are left."""
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="transfer")
    try:
        yield from pool.map(action, names)
    finally:
        pool.shutdown(cancel_futures=True)


def _listed(value: Any) -> Iterator[tuple[str, str]]:
    """Names and hashes of the files in a manifest."""
    if isinstance(value, dict):
        if isinstance(value.get("file"), str) and isinstance(value.get("sha256"), str):
            yield value["file"], value["sha256"]
        for inner in value.values():
            yield from _listed(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _listed(inner)


def _after_vectors(manifest: str) -> tuple[bool, str]:
    """Order of manifests: those of paragraphs last, since readers look for the vectors of the rows that these list."""
    return "_processed/" in manifest, manifest
