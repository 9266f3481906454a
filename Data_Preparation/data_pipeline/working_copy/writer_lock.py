"""The lock of a data folder at a URL: an object that one writer creates, keeps alive, and removes.

A writer that is gone is known by its process on the same machine, and elsewhere by the time since its last sign of
life, by the clocks of both machines.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

from data_pipeline.errors import StoreError
from data_pipeline.utils import human_time
from data_pipeline.utils.system import is_running
from data_pipeline.working_copy.objects import RemoteObjects

logger = logging.getLogger(__name__)

LOCK = ".writer.json"
BEAT_S = 30.0
"""Time between two signs of life of a writer."""
STALE_S = 600.0
"""Time without a sign of life after which another writer takes over."""


_held: set[str] = set()
"""Tokens of the locks that this process holds."""


@dataclass(frozen=True)
class Writer:
    """Writer of a data folder."""

    machine: str
    process: int
    owner: str
    """Name of the job that it belongs to, any process of which may take over; empty for none."""
    token: str
    beat: float
    """Time of its last sign of life, in seconds since 1970."""

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended or could not give the lock back, or gave no sign of life for long."""
        if self.machine == socket.gethostname() and not is_running(self.process):
            return True
        if (self.machine, self.process) == (socket.gethostname(), os.getpid()) and self.token not in _held:
            return True
        return time.time() - self.beat > STALE_S

    def to_bytes(self) -> bytes:
        """Return the content of the lock."""
        return json.dumps(asdict(self)).encode()


class HeldLock:
    """Lock that this process holds."""

    def __init__(self, objects: RemoteObjects, own: Writer) -> None:
        self._objects, self._own = objects, own

    def check(self) -> None:
        """Check that it is still held.

        Raises:
            StoreError: another writer took it.
        """
        writer = _writer_of(self._objects.read(LOCK))
        if writer is None or writer.token != self._own.token:
            holder = f"{writer.machine}, process {writer.process}" if writer else "nobody"
            raise StoreError(
                f"{self._objects.shown} is locked by {holder}, and no longer by this process, which gave no sign of "
                "life for long. Nothing more was published; run again"
            )

    def beat(self, stop: threading.Event) -> None:
        """Give signs of life until it is told to stop."""
        while not stop.wait(BEAT_S):
            try:
                present = self._objects.read(LOCK)
                if (writer := _writer_of(present)) is not None and writer.token == self._own.token:
                    self._objects.create(LOCK, replace(writer, beat=time.time()).to_bytes(), replaced=present)
            except StoreError as error:  # the next check before a publication decides
                logger.warning("%s", error)


@contextmanager
def held(objects: RemoteObjects, owner: str = "") -> Iterator[HeldLock]:
    """Hold the lock of a data folder for the duration of a block.

    Args:
        objects: the folder.
        owner: name of the job that this process belongs to, whose lock it takes over.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    own = Writer(socket.gethostname(), os.getpid(), owner, uuid4().hex, time.time())
    if not objects.create(LOCK, own.to_bytes()):
        _take_over(objects, own)
    _held.add(own.token)
    lock, stop = HeldLock(objects, own), threading.Event()
    thread = threading.Thread(target=lock.beat, args=(stop,), daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        stop.set()
        thread.join()
        _held.discard(own.token)
        with suppress(StoreError):  # another writer takes it over
            lock.check()
            objects.remove([LOCK])


def _take_over(objects: RemoteObjects, own: Writer) -> None:
    content = objects.read(LOCK)
    writer = _writer_of(content)
    if content is not None and (writer is None or writer.is_gone or (own.owner and writer.owner == own.owner)):
        if objects.create(LOCK, own.to_bytes(), replaced=content):
            return
        writer = _writer_of(objects.read(LOCK))
    elif content is None and objects.create(LOCK, own.to_bytes()):  # it was given back meanwhile
        return
    if writer is None:
        raise StoreError(f"another process is about to write to {objects.shown}. Wait for it, or run again")
    ago = max(0.0, time.time() - writer.beat)
    raise StoreError(
        f"another process writes to {objects.shown}: {writer.machine}, process {writer.process}, last seen "
        f"{human_time(ago)} ago. Wait for it; one that gives no sign of life for {human_time(STALE_S)} counts as gone"
    )


def _writer_of(content: bytes | None) -> Writer | None:
    """Return the writer that a lock names; None if it cannot be read."""
    try:
        return Writer(**json.loads(content or b""))
    except (ValueError, TypeError):
        return None
