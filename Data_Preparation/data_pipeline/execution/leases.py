"""Leases of tasks: which worker runs which task, decided by files in a folder that all workers see.

A worker that takes a task writes a file with its machine and process, and touches it every few seconds. A task whose
file was not touched for a while, or whose process is gone, is free again. That two workers run one task at once is
unlikely, not impossible, and does no harm, since tasks can be repeated.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from data_pipeline.utils.system import is_running

BEAT_S = 5.0
"""Time between two signs of life of a worker."""
STALE_S = 60.0
"""Time without a sign of life after which a task is free again."""
_SOON_S = 600.0  # a worker that lived longer was not killed by its task


@dataclass
class Holder:
    """Worker that holds a lease."""

    machine: str
    process: int
    rows: int = 0
    """Rows that are finished of the task."""
    token: str = ""
    """What tells two leases of one process apart."""
    attempt: int = 1
    """Number of workers in a row that have taken the task; all but this one died soon after."""
    since: float = 0.0
    """Time when it was taken, in seconds since 1970."""

    @property
    def is_gone(self) -> bool:
        """Whether the process is of this machine and no longer there."""
        return self.machine == socket.gethostname() and not is_running(self.process)


class Leases:
    """Leases in a folder.

    Args:
        folder: folder that all workers see.
        beat_s: time between two signs of life, in seconds.
        stale_s: time without one after which a task is free again, in seconds.
    """

    def __init__(self, folder: Path, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self._folder, self._beat_s, self._stale_s = folder, beat_s, stale_s

    @contextmanager
    def taken(self, name: str) -> Iterator["Holder | None"]:
        """Take the lease of a task for the duration of a block; gives None if another worker holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.lease"
        own = Holder(socket.gethostname(), os.getpid(), token=uuid4().hex, since=time.time())
        if not self._create(path, own):
            died = self._free(path)
            own.attempt += died or 0
            if died is None or not self._create(path, own):
                yield None
                return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, own, stop), daemon=True)
        beat.start()
        try:
            yield own
        finally:
            stop.set()
            beat.join()
            if _token(path) == own.token:
                path.unlink(missing_ok=True)

    def holders(self) -> dict[str, Holder]:
        """Return who holds which task."""
        found = {path.name.removesuffix(".lease"): _read(path) for path in self._folder.glob("*.lease")}
        return {name: holder for name, holder in found.items() if holder is not None}

    def _create(self, path: Path, own: Holder) -> bool:
        """Write a lease that does not exist; a link, since it appears whole, and only if there is none."""
        content = path.with_name(f".{path.name}.{own.token}")
        content.write_text(json.dumps(asdict(own)))
        try:
            os.link(content, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                with path.open("x") as file:
                    file.write(json.dumps(asdict(own)))
            except FileExistsError:
                return False
        finally:
            content.unlink()
        return True

    def _free(self, path: Path) -> int | None:
        """Remove a lease whose worker is dead, or that cannot be read.

        Returns:
            Number of workers in a row that died soon after they took the task; None if the lease was not removed.
        """
        if not self._is_dead(path):
            return None
        guard = path.with_name(f".{path.name}.guard")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
        except FileExistsError:  # another worker is at it, or died at it
            if self._age(guard) > self._stale_s:
                guard.unlink(missing_ok=True)
            return None
        try:
            if not self._is_dead(path):  # another worker has it already
                return None
            holder, seen = _read(path), path.stat().st_mtime
            path.unlink(missing_ok=True)
            # One that worked for long was ended by others, such as the scheduler of a cluster.
            return 0 if holder is None or seen - holder.since > _SOON_S else holder.attempt
        finally:
            guard.unlink(missing_ok=True)

    def _is_dead(self, path: Path) -> bool:
        holder = _read(path)
        return (holder is not None and holder.is_gone) or self._age(path) > self._stale_s

    def _age(self, path: Path) -> float:
        """Seconds since the last sign of life, by the clock of the file system."""
        now = self._folder / f".now-{uuid4().hex}"
        now.touch()
        try:
            return now.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            now.unlink()

    def _beat(self, path: Path, own: Holder, stop: threading.Event) -> None:
        shown = own.rows
        last = time.monotonic()
        while not stop.wait(self._beat_s / 5):
            if time.monotonic() - last < self._beat_s and own.rows == shown:
                continue
            last, shown = time.monotonic(), own.rows
            if _token(path) != own.token:
                return  # it was taken for dead; the task goes on, which does no harm
            content = path.with_name(f".{path.name}.{own.token}")
            content.write_text(json.dumps(asdict(own)))
            content.replace(path)


def _token(path: Path) -> str | None:
    holder = _read(path)
    return holder.token if holder else None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # gone, or being written where links do not exist
        return None
