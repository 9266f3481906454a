"""SQLite file with judgements: opened with checks, written in whole transactions."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from data_pipeline.errors import NotFoundError, StoreError
from data_pipeline.judge.base import Judgement
from data_pipeline.judge.tables import SELECT_ANSWERS, UPSERT, encode_text, from_row, to_row
from data_pipeline.utils import batched, converted_errors, exclusive

FORMAT_VERSION = 1
"""Version of the tables, in the header of the file."""
_APPLICATION_ID = 0x454C4D57  # "ELMW", so that another program's database is not mistaken for one of ours
_BUSY_S = 30.0
_MAX_VARIABLES = 500


class Database:
    """An open SQLite file with judgements by key. May be used from any thread; the threads take turns.

    Args:
        path: of the file; it is made if it does not exist.
        content: what the file holds, for messages.
        tables: statement that makes each table, by name; a file that lacks one of them is refused.
        later_tables: statements that make tables which files of earlier versions lack.
        read_only: open for reading, also while another process writes.

    Raises:
        NotFoundError: the file does not exist, and `read_only` is set.
        StoreError: the file is damaged or of another program or a newer version, or another process writes to it.
    """

    def __init__(
        self, path: Path, content: str, tables: Mapping[str, str], later_tables: Sequence[str], read_only: bool
    ) -> None:
        self.path, self._content, self._tables = path, content, tables
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        if read_only and not path.is_file():
            raise NotFoundError(f"{path}: no such file; expected {content}")
        try:
            if not read_only:
                # Two processes would pay for the same judgements.
                self._stack.enter_context(exclusive(path))
            with self._convert_errors():
                self._db = self._connect(read_only)
                self._stack.callback(self._db.close)
                self._check(read_only)
                if not read_only:
                    self._prepare_writing(later_tables)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        with self._lock:
            self._stack.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for a few statements that only read.

        Raises:
            StoreError: SQLite reports an error.
        """
        with self._lock, self._convert_errors():
            yield self._db

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction: safe on disk after the block, and undone if the block fails.

        Raises:
            StoreError: SQLite reports an error.
        """
        with self._lock, self._convert_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
        """Stored answers by key; a failure is never among them."""
        answers: dict[bytes, Judgement] = {}
        with self.read() as db:
            for part in batched(keys, _MAX_VARIABLES):
                for key, *row in db.execute(f"{SELECT_ANSWERS} ({','.join('?' * len(part))})", part):
                    answers[key] = from_row(row)
        return answers

    def verify(self) -> None:
        """Read the whole file, and check its integrity.

        Raises:
            StoreError: the file is damaged.
        """
        with self.read() as db:
            faults = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
            faults += [f"{row[0]} row {row[1]}" for row in db.execute("PRAGMA foreign_key_check")]
        if faults != ["ok"]:
            raise StoreError(f"{self.path} is damaged: {'; '.join(map(str, faults))}")

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        uri = self.path.absolute().as_uri() + ("?mode=ro" if read_only else "")
        db = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA trusted_schema = OFF")
        return db

    def _check(self, read_only: bool) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        names = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master")}
        if version > FORMAT_VERSION and application == _APPLICATION_ID:
            raise StoreError(
                f"{self.path} has format {version}; this version of the package reads formats up to {FORMAT_VERSION}. "
                "Update the package."
            )
        if not names and application == 0 and not read_only:
            self._make_tables()
        elif application != _APPLICATION_ID or version != FORMAT_VERSION or not self._tables.keys() <= names:
            raise StoreError(f"{self.path} is a database, but not {self._content}; name another file")

    def _make_tables(self) -> None:
        with self.write() as db:
            for statement in self._tables.values():
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _prepare_writing(self, later_tables: Sequence[str]) -> None:
        # Readers and the writer do not block one another.
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit survives a power cut, not only a kill. A judgement may have been paid for, and a commit holds
        # hundreds of them, so that the wait for the disk does not matter.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        for statement in later_tables:
            self._db.execute(statement)

    def _convert_errors(self) -> contextlib.AbstractContextManager[None]:
        advice = (
            "If the file is damaged, restore a copy, or move it away to start anew; if the disk is full or the folder "
            "cannot be written, fix that and run the same command again."
        )
        return converted_errors(sqlite3.Error, StoreError, f"{self.path}: SQLite reports", advice)


def insert_judgements(db: sqlite3.Connection, new: Mapping[bytes, Judgement]) -> None:
    """Store judgements by key; a failure never replaces an answer."""
    now = time.time()
    db.executemany(UPSERT, [[key, *to_row(judgement), now] for key, judgement in new.items()])
    reasonings = [[key, encode_text(judgement.reasoning)] for key, judgement in new.items() if judgement.reasoning]
    db.executemany("INSERT OR REPLACE INTO reasonings VALUES (?, ?)", reasonings)
