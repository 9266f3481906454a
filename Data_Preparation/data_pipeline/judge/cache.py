"""Cache of judgements by key: one SQLite file, used by every caller whose items need no record of their own.

An answer is reused only for the same judge, prompt, parameters, query and passage, text for text. A failure is stored
as a failure: it is never given in place of an answer, and an answer replaces it.
"""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from data_pipeline.judge.base import JudgeIdentity, Judgement
from data_pipeline.judge.database import Database
from data_pipeline.judge.recorder import Judged
from data_pipeline.judge.tables import (
    JUDGEMENTS,
    JUDGES,
    REASONINGS,
    SELECT_ANSWERS,
    UPSERT,
    encode_text,
    from_row,
    to_row,
)

_MAX_VARIABLES = 500


class JudgementCache:
    """An open cache; a `Recorder` for items of any type. Methods may be called from any thread.

    Files that hold runs of weak labels too (see `weak_labels.state`) can be opened.

    Args:
        path: of the SQLite file; it is made if it does not exist.
        read_only: open for reading, also while another process writes.

    Raises:
        NotFoundError: the file does not exist, and `read_only` is set.
        StoreError: the file is damaged or of another program or a newer version, or another process writes to it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._database = Database(
            path, "a cache of judgements", {"judgements": JUDGEMENTS}, (REASONINGS, JUDGES), read_only
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._database.close()

    def start(self, judge: JudgeIdentity) -> None:
        """Store the identity of the judge whose judgements follow."""
        with self._database.write() as db:
            row = [judge.sha256, json.dumps(judge.to_json(), sort_keys=True)]
            db.execute("INSERT OR IGNORE INTO judges VALUES (?, ?)", row)

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
        """Stored answers by key; a failure is never among them."""
        with self._database.read() as db:
            return select_answers(db, keys)

    def record(self, judged: Sequence[Judged[Any]], new: Mapping[bytes, Judgement]) -> None:
        """Store the new judgements; items are not stored."""
        del judged
        with self._database.write() as db:
            insert_judgements(db, new)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing; a cache keeps no record of runs."""

    def verify(self) -> None:
        """Read the whole file, and check its integrity.

        Raises:
            StoreError: the file is damaged.
        """
        self._database.verify()


def select_answers(db: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
    """Read the answers that are stored under these keys."""
    answers: dict[bytes, Judgement] = {}
    for start in range(0, len(keys), _MAX_VARIABLES):
        part = keys[start : start + _MAX_VARIABLES]
        for key, *row in db.execute(f"{SELECT_ANSWERS} ({','.join('?' * len(part))})", list(part)):
            answers[key] = from_row(row)
    return answers


def insert_judgements(db: sqlite3.Connection, new: Mapping[bytes, Judgement]) -> None:
    """Store judgements by key; a failure never replaces an answer."""
    now = time.time()
    db.executemany(UPSERT, [[key, *to_row(judgement), now] for key, judgement in new.items()])
    reasonings = [[key, encode_text(judgement.reasoning)] for key, judgement in new.items() if judgement.reasoning]
    db.executemany("INSERT OR REPLACE INTO reasonings VALUES (?, ?)", reasonings)
