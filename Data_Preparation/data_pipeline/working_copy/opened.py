"""The working copy of a config: brought up to date for reading, locked and published for writing."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from filelock import Timeout

from data_pipeline.config import Config
from data_pipeline.errors import StoreError
from data_pipeline.utils import exclusive
from data_pipeline.utils.files import lock_of
from data_pipeline.working_copy.fetch import fetch
from data_pipeline.working_copy.objects import RemoteObjects
from data_pipeline.working_copy.publish import publish, publish_new
from data_pipeline.working_copy.working_copy import WorkingCopy
from data_pipeline.working_copy.writer_lock import HeldLock, held

logger = logging.getLogger(__name__)

_EVERY_S = 30.0
"""Time between two looks for finished files."""


class Publisher:
    """Publishes what stages make in a working copy, while this process holds the lock at the URL."""

    def __init__(self, copy: WorkingCopy, lock: HeldLock) -> None:
        self._copy, self._lock = copy, lock

    def publish(self) -> None:
        """Publish what is finished, at a moment when no stage runs.

        Raises:
            StoreError: a file cannot be written, or another process took the lock.
        """
        publish(self._copy, self._lock.check, is_end=False)

    def end(self) -> None:
        """Publish everything, and remove at the URL what is gone.

        Raises:
            StoreError: see `publish`.
        """
        publish(self._copy, self._lock.check)

    def publish_new_files(self, stop: threading.Event) -> None:
        """Publish finished files of the running stage now and then, until it is told to stop."""
        while not stop.wait(_EVERY_S):
            try:
                publish_new(self._copy, self._lock.check)
            except StoreError as error:  # they are published at the end, where an error ends the run
                logger.warning("%s", error)


def refresh(config: Config) -> None:
    """Fetch what is missing or new at the URL of a config, if it has one, for reading.

    Raises:
        DataPipelineError: the URL cannot be read, or a file was changed on both sides.
    """
    if config.data_url is None:
        return
    try:
        lock = lock_of(config.data_dir).acquire(timeout=0)
    except Timeout:
        logger.info("another process works in %s, which is read as it is", config.data_dir)
        return
    with lock:
        fetch(WorkingCopy(config.data_dir, RemoteObjects(config.data_url)))


@contextmanager
def published(config: Config, owner: str = "") -> Iterator[Publisher | None]:
    """Hold the lock at the URL of a config while a block writes to the working copy, and publish what it made.

    After an error nothing more is published; what is finished stays in the working copy for the next run.

    Args:
        config: configuration; nothing is done if it has no URL.
        owner: name of the job that this process belongs to; see `writer_lock.held`.

    Raises:
        DataPipelineError: another process writes there, the URL cannot be read or written, or a file was changed on
            both sides.
    """
    if config.data_url is None:
        yield None
        return
    objects = RemoteObjects(config.data_url)
    with exclusive(config.data_dir), held(objects, owner) as lock:
        copy = WorkingCopy(config.data_dir, objects)
        fetch(copy)
        publisher, stop = Publisher(copy, lock), threading.Event()
        thread = threading.Thread(target=partial(publisher.publish_new_files, stop), daemon=True)
        thread.start()
        try:
            yield publisher
        finally:
            stop.set()
            thread.join()
        publisher.end()
