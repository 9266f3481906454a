"""Judgements by key: answers are found, failures are not, and files of earlier versions open."""

import sqlite3

import pytest

from data_pipeline.errors import StoreError
from data_pipeline.judge import JudgeIdentity, Judgement
from data_pipeline.judge.cache import JudgementCache
from data_pipeline.weak_labels.state import State

OK = Judgement("ok", 3, 0.9, 0.9, 0.01, "YES", "", 2, 100, 1, 0.25, 50, 40)
FAILED = Judgement("failed", reason="HTTP 500")
KEY, OTHER = b"k" * 32, b"o" * 32

# As version 0.1 wrote it, before models' reasoning was stored.
OLD_FILE = """
    CREATE TABLE runs (run_id TEXT PRIMARY KEY, settings TEXT NOT NULL, judge TEXT, summary TEXT, started REAL NOT NULL,
        finished REAL) WITHOUT ROWID;
    CREATE TABLE queries (run_id TEXT NOT NULL REFERENCES runs, query_id TEXT NOT NULL, place INTEGER NOT NULL,
        text TEXT NOT NULL, PRIMARY KEY (run_id, query_id), UNIQUE (run_id, place)) WITHOUT ROWID;
    CREATE TABLE judgements (key BLOB PRIMARY KEY,
        status TEXT NOT NULL CHECK (status IN ('ok', 'parse_failed', 'refused', 'failed', 'failed_final')),
        grade INTEGER CHECK ((status = 'ok') = (grade IS NOT NULL)), p REAL, confidence REAL, outside REAL, answer TEXT,
        reason TEXT NOT NULL, tries INTEGER NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
        latency_s REAL NOT NULL, passage_chars INTEGER, shown_chars INTEGER, judged_at REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE pairs (run_id TEXT NOT NULL, query_id TEXT NOT NULL, place INTEGER NOT NULL, passage_id TEXT NOT NULL,
        scores TEXT NOT NULL, ranks TEXT NOT NULL, provenance TEXT NOT NULL, key BLOB REFERENCES judgements,
        PRIMARY KEY (run_id, query_id, place), UNIQUE (run_id, query_id, passage_id),
        FOREIGN KEY (run_id, query_id) REFERENCES queries) WITHOUT ROWID;
    PRAGMA application_id = 1162628439;
    PRAGMA user_version = 1;
    INSERT INTO runs VALUES ('r', '{}', NULL, NULL, 0.0, NULL);
    INSERT INTO queries VALUES ('r', 'question', 0, 'Is it clear?');
    INSERT INTO judgements VALUES (CAST('kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' AS BLOB),
        'ok', 3, 0.9, 0.9, 0.01, 'YES', '', 2, 100, 1, 0.25, 50, 40, 0.0);
    INSERT INTO pairs VALUES ('r', 'question', 0, '0', '{}', '{}', '{}',
        CAST('kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' AS BLOB));
"""


def write_old_file(path):
    with sqlite3.connect(path) as db:
        db.executescript(OLD_FILE)
    db.close()


def test_a_failure_is_never_found_and_never_replaces_an_answer(tmp_path):
    with JudgementCache(tmp_path / "c.db") as cache:
        cache.record([], {KEY: FAILED, OTHER: OK})
        assert cache.lookup([KEY, OTHER, b"x" * 32]) == {OTHER: OK}
        cache.record([], {KEY: OK, OTHER: FAILED})
        assert cache.lookup([KEY, OTHER]) == {KEY: OK, OTHER: OK}
        cache.verify()


def test_judges_are_stored_once(tmp_path):
    path, judge = tmp_path / "c.db", JudgeIdentity("m", "served", "p")
    for _ in range(2):
        with JudgementCache(path) as cache:
            cache.start(judge)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT sha256 FROM judges").fetchall() == [(judge.sha256,)]
    db.close()


def test_a_file_of_an_earlier_version_opens_as_a_cache_and_as_a_state(tmp_path):
    path = tmp_path / "old.db"
    write_old_file(path)
    for read_only in (True, False):
        with JudgementCache(path, read_only) as cache:
            assert cache.lookup([KEY]) == {KEY: OK}
        with State(path, read_only) as state:
            assert [pair.judgement for pair in state.judged_pairs("r")] == [OK]
    with State(path) as state:
        state.start_run("new", {})
        state.verify()


def test_a_cache_without_runs_is_no_state(tmp_path):
    JudgementCache(tmp_path / "c.db").close()
    with pytest.raises(StoreError, match="not the state of a run of weak labels"):
        State(tmp_path / "c.db")
