"""The tables of the state file, and how judgements and hostile texts get into them and out again."""

from collections.abc import Sequence
from typing import Any

from data_pipeline.judge.base import Judgement

SCHEMA = (
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        settings TEXT NOT NULL,
        judge TEXT,
        summary TEXT,
        started REAL NOT NULL,
        finished REAL
    ) WITHOUT ROWID""",
    """CREATE TABLE queries (
        run_id TEXT NOT NULL REFERENCES runs,
        query_id TEXT NOT NULL,
        place INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (run_id, query_id),
        UNIQUE (run_id, place)
    ) WITHOUT ROWID""",
    """CREATE TABLE judgements (
        key BLOB PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('ok', 'parse_failed', 'refused', 'failed', 'failed_final')),
        grade INTEGER CHECK ((status = 'ok') = (grade IS NOT NULL)),
        p REAL,
        confidence REAL,
        outside REAL,
        answer TEXT,
        reason TEXT NOT NULL,
        tries INTEGER NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        latency_s REAL NOT NULL,
        passage_chars INTEGER,
        shown_chars INTEGER,
        judged_at REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE pairs (
        run_id TEXT NOT NULL,
        query_id TEXT NOT NULL,
        place INTEGER NOT NULL,
        passage_id TEXT NOT NULL,
        scores TEXT NOT NULL,
        ranks TEXT NOT NULL,
        provenance TEXT NOT NULL,
        key BLOB REFERENCES judgements,
        PRIMARY KEY (run_id, query_id, place),
        UNIQUE (run_id, query_id, passage_id),
        FOREIGN KEY (run_id, query_id) REFERENCES queries
    ) WITHOUT ROWID""",
)
"""One statement a table."""

REASONINGS = "CREATE TABLE IF NOT EXISTS reasonings (key BLOB PRIMARY KEY, reasoning TEXT NOT NULL) WITHOUT ROWID"
"""Table with the reasoning behind judgements; state files of earlier versions get it when they are opened."""

NAMES = (
    "status", "grade", "p", "confidence", "outside", "answer", "reason", "tries", "prompt_tokens", "completion_tokens",
    "latency_s", "passage_chars", "shown_chars",
)  # fmt: skip
"""Columns of a judgement, in the order of `to_row` and `from_row`."""
_TEXTS = {"answer", "reason"}

COLUMNS = ", ".join(NAMES)
"""The same for a statement."""

UPSERT = (
    f"INSERT INTO judgements (key, {COLUMNS}, judged_at) VALUES (?{', ?' * (len(NAMES) + 1)}) "  # noqa: S608
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in (*NAMES, 'judged_at'))} "
    # The last word on a pair that was answered is its answer.
    "WHERE judgements.status != 'ok'"
)
"""Keeps a judgement, unless there is an answer already."""


def to_row(one: Judgement) -> list[Any]:
    """The columns of a judgement."""
    values = [(name, getattr(one, name)) for name in NAMES]
    return [text_in(value) if name in _TEXTS else value for name, value in values]


def from_row(row: Sequence[Any]) -> Judgement:
    """The judgement that `to_row` made columns of."""
    values = dict(zip(NAMES, row, strict=True))
    return Judgement(**(values | {name: text_out(values[name]) for name in _TEXTS if values[name] is not None}))


def text_in(text: str | None) -> str | bytes | None:
    """A text as SQLite can keep it: as text, or as bytes where it holds halves of surrogate pairs."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def text_out(value: str | bytes) -> str:
    """The text that `text_in` was given."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
