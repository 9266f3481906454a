"""The SQLite file under the state: opened with care, written in whole transactions."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import NotFound, StoreError
from data_pipeline.judge.tables import REASONINGS, SCHEMA
from data_pipeline.utils import exclusive

FORMAT_VERSION = 1
_APPLICATION_ID = 0x454C4D57  # "ELMW", so that another program's database is not taken for one of ours
_BUSY_S = 30.0


class Database:
    """An open file. May be used from any thread; the threads take turns.

    Args:
        path: of the file; made where there is none.
        read_only: for looking at it, also while another process writes.

    Raises:
        StoreError: it is damaged, of another program or of a newer version, or another process writes to it.
    """

    def __init__(self, path: Path, read_only: bool) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        if read_only and not path.is_file():
            raise NotFound(f"there is no state of weak labels at {path}")
        try:
            if not read_only:
                # Two processes would pay for the same judgements.
                self._stack.enter_context(exclusive(path))
            self._db = self._connect(read_only)
            self._stack.callback(self._db.close)
            self._check(read_only)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        with self._lock:
            self._stack.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """For a few statements that only look.

        Raises:
            StoreError: whatever SQLite does not like.
        """
        with self._lock, self._guard():
            yield self._db

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: safe on disk when the block has ended, and undone where it fails.

        Raises:
            StoreError: whatever SQLite does not like.
        """
        with self._lock, self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        uri = self.path.absolute().as_uri() + ("?mode=ro" if read_only else "")
        with self._guard():
            db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA trusted_schema = OFF")
            return db

    def _check(self, read_only: bool) -> None:
        with self._guard():
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version > FORMAT_VERSION and application == _APPLICATION_ID:
            raise StoreError(f"{self.path} has format {version}; this package reads up to {FORMAT_VERSION}; update it.")
        if tables == 0 and application == 0 and not read_only:
            self._make()
        elif application != _APPLICATION_ID or version != FORMAT_VERSION or tables == 0:
            raise StoreError(f"{self.path} is a database, but not the state of a run of weak labels; name another file")
        if not read_only:
            with self._guard():
                # Readers and the writer do not block one another.
                self._db.execute("PRAGMA journal_mode = WAL")
                # FULL: a commit survives a power cut, not only a kill. A judgement may have been paid for, and
                # commits hold hundreds of them, so that the wait for the disk is not felt.
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.execute(REASONINGS)

    def _make(self) -> None:
        with self.write() as db:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: SQLite says: {error}. If the file is damaged, put back a copy, or move it away to begin "
                "anew; if the disk is full or the folder cannot be written, cure that and run the same command again."
            ) from error
