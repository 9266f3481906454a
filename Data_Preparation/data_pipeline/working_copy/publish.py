"""Publishing: brings a URL up to date with its working copy.

A manifest is withdrawn before a file that it lists is replaced; then come files, and at last manifests, those of
paragraphs at the very end. What is gone here is removed there after that. So at any moment a manifest at the URL lists
files that are there.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_pipeline.utils import human_bytes
from data_pipeline.working_copy.names import is_manifest, manifest_of, without_version
from data_pipeline.working_copy.objects import RemoteEntry
from data_pipeline.working_copy.working_copy import SAVED_EVERY, WorkingCopy, after_vectors, at_once, listed_files

logger = logging.getLogger(__name__)


def publish(copy: WorkingCopy, check: Callable[[], object], is_end: bool = True) -> int:
    """Publish what was made here, at a moment when nothing writes to the folder.

    Args:
        copy: the working copy.
        check: called before files and manifests are written, to stop if another process writes too.
        is_end: whether nothing follows, so that what is gone here is removed at the URL.

    Returns:
        Number of files that were published.

    Raises:
        StoreError: a file cannot be written.
    """
    with copy.lock:
        here = copy.local()
        changed = [name for name, stat in here.items() if not copy.known.is_local(name, stat)]
        removed = [name for name in copy.known if is_end and name not in here and not _is_listed(copy, name)]
        if not (changed or removed):
            return 0
        check()
        replaced = {manifest_of(name) for name in changed if name in copy.known and not is_manifest(name)}
        withdrawn = sorted(name for name in replaced if name in copy.known)
        contents = {
            name: (copy.root / name).read_bytes()
            for name in dict.fromkeys([*changed, *withdrawn])
            if is_manifest(name) and name in here
        }
        for name in withdrawn:
            copy.known.forget(name)
        copy.known.save()
        copy.objects.remove(withdrawn)
        _put_files(copy, [name for name in changed if name not in contents], here)
        check()
        for name in sorted(contents, key=after_vectors):
            entry = copy.objects.write(name, contents[name])
            copy.note(name, entry.identity, here[name])
        copy.objects.remove(sorted(removed, key=lambda name: (not is_manifest(name), name)))
        for name in removed:
            copy.known.forget(name)
        copy.known.save()
    size = human_bytes(sum(here[name].st_size for name in changed))
    gone = f", and removed {len(removed):,} there" if removed else ""
    logger.info("published %d files (%s) to %s%s", len(changed), size, copy.objects.shown, gone)
    return len(changed)


def publish_new(copy: WorkingCopy, check: Callable[[], object]) -> None:
    """Publish finished files that no manifest lists yet, while a stage is at work.

    Args:
        copy: the working copy.
        check: see `publish`.

    Raises:
        StoreError: a file cannot be written.
    """
    with copy.lock:
        here = copy.local()
        new = [name for name in here if name not in copy.known and not is_manifest(name)]
        if new:
            check()
            _put_files(copy, new, here)
            copy.known.save()


def _is_listed(copy: WorkingCopy, name: str) -> bool:
    """Return whether the manifest of a folder lists a file, which then is missing, and was not removed."""
    try:
        manifest = json.loads((copy.root / manifest_of(name)).read_bytes())
    except (OSError, ValueError):
        return False
    return Path(name).name in {Path(file).name for file, _ in listed_files(manifest)}


def _put_files(copy: WorkingCopy, names: Sequence[str], here: Mapping[str, os.stat_result]) -> None:
    """Put files; those that are links to published ones, or were published by another name, are copied there."""
    links = {
        (here[name].st_dev, here[name].st_ino): name
        for name in copy.known
        if name in here and copy.known.is_local(name, here[name])
    }
    former, linked = {}, {}
    for name in names:
        stat, earlier = here[name], without_version(name)
        if copy.known.is_local(earlier, stat):
            former[name] = earlier
        elif (other := links.get((stat.st_dev, stat.st_ino))) is not None:
            linked[name] = other
    _copy_files(copy, former, here)  # first, since what is copied is replaced after it
    _copy_files(copy, linked, here)
    sent = [name for name in names if not (name in former or name in linked)]
    _transfer(copy, sent, here, lambda name: copy.objects.put(copy.root / name, name))


def _copy_files(copy: WorkingCopy, sources: Mapping[str, str], here: Mapping[str, os.stat_result]) -> None:
    _transfer(copy, list(sources), here, lambda name: copy.objects.copy(sources[name], name, here[name].st_size))


def _transfer(
    copy: WorkingCopy, names: Sequence[str], here: Mapping[str, os.stat_result], put: Callable[[str], RemoteEntry]
) -> None:
    """Put files, and note those that were not replaced meanwhile."""

    def transfer(name: str) -> RemoteEntry | None:
        try:
            entry, now = put(name), (copy.root / name).stat()
        except FileNotFoundError:
            return None
        same = (now.st_size, now.st_mtime_ns) == (here[name].st_size, here[name].st_mtime_ns)
        return entry if same else None

    for number, (name, entry) in enumerate(zip(names, at_once(transfer, names), strict=True)):
        if entry is not None:
            copy.note(name, entry.identity, here[name])
        if number % SAVED_EVERY == 0:
            copy.known.save()
