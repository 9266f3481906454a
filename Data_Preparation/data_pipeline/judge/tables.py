"""Tables of judgements in SQLite, and the conversion of judgements and of arbitrary texts to columns and back."""

from collections.abc import Sequence
from typing import Any

from data_pipeline.judge.base import Judgement

JUDGEMENTS = """CREATE TABLE judgements (
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
    ) WITHOUT ROWID"""
"""Statement that makes the table of judgements by key."""

REASONINGS = "CREATE TABLE IF NOT EXISTS reasonings (key BLOB PRIMARY KEY, reasoning TEXT NOT NULL) WITHOUT ROWID"
"""Statement that makes the table of the reasoning behind judgements; files of earlier versions lack it."""

JUDGES = "CREATE TABLE IF NOT EXISTS judges (sha256 TEXT PRIMARY KEY, identity TEXT NOT NULL) WITHOUT ROWID"
"""Statement that makes a cache's table of judges; files of earlier versions lack it."""

COLUMNS = (
    "status", "grade", "p", "confidence", "outside", "answer", "reason", "tries", "prompt_tokens", "completion_tokens",
    "latency_s", "passage_chars", "shown_chars",
)  # fmt: skip
"""Columns of a judgement, in the order of `to_row` and `from_row`."""
_TEXT_COLUMNS = {"answer", "reason"}

SELECT_ANSWERS = f"SELECT key, {', '.join(COLUMNS)} FROM judgements WHERE status = 'ok' AND key IN "  # noqa: S608
"""Query for answers; a list of keys follows."""

UPSERT = (
    f"INSERT INTO judgements (key, {', '.join(COLUMNS)}, judged_at) "  # noqa: S608
    f"VALUES (?{', ?' * (len(COLUMNS) + 1)}) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in (*COLUMNS, 'judged_at'))} "
    "WHERE judgements.status != 'ok'"
)
"""Statement that stores a judgement; it replaces a failure, and never an answer."""


def to_row(judgement: Judgement) -> list[Any]:
    """Convert a judgement to the values of `COLUMNS`."""
    values = [(name, getattr(judgement, name)) for name in COLUMNS]
    return [encode_text(value) if name in _TEXT_COLUMNS else value for name, value in values]


def from_row(row: Sequence[Any]) -> Judgement:
    """Convert the values of `COLUMNS` back to a judgement, without its reasoning."""
    values = dict(zip(COLUMNS, row, strict=True))
    texts = {name: decode_text(values[name]) for name in _TEXT_COLUMNS if values[name] is not None}
    return Judgement(**(values | texts))


def encode_text(text: str | None) -> str | bytes | None:
    """Convert a text to what SQLite can store: the text, or bytes if it holds lone surrogates."""
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def decode_text(value: str | bytes) -> str:
    """Convert the result of `encode_text` back to the text."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
