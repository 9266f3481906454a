"""Cache of judgements by key: one SQLite file, used by every caller whose items need no record of their own.

An answer is reused only for the same judge, prompt, parameters, query and passage, text for text. A failure is stored
as a failure: it is never given in place of an answer, and an answer replaces it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.judge.base import JudgeIdentity, Judgement
from data_pipeline.judge.database import Database, insert_judgements
from data_pipeline.judge.recorder import Judged
from data_pipeline.judge.tables import JUDGEMENTS, JUDGES, REASONINGS


class JudgementCache(Database):
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
        super().__init__(path, "a cache of judgements", {"judgements": JUDGEMENTS}, (REASONINGS, JUDGES), read_only)

    def start(self, judge: JudgeIdentity) -> None:
        """Store the identity of the judge whose judgements follow."""
        with self.write() as db:
            row = [judge.sha256, json.dumps(judge.to_json(), sort_keys=True)]
            db.execute("INSERT OR IGNORE INTO judges VALUES (?, ?)", row)

    def record(self, judged: Sequence[Judged[Any]], new: Mapping[bytes, Judgement]) -> None:
        """Store the new judgements; items are not stored."""
        del judged
        with self.write() as db:
            insert_judgements(db, new)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing; a cache keeps no record of runs."""
