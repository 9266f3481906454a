"""Tables of the state of weak labels."""

from data_pipeline.judge.tables import JUDGEMENTS

_RUNS = """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        settings TEXT NOT NULL,
        judge TEXT,
        summary TEXT,
        started REAL NOT NULL,
        finished REAL
    ) WITHOUT ROWID"""

_QUERIES = """CREATE TABLE queries (
        run_id TEXT NOT NULL REFERENCES runs,
        query_id TEXT NOT NULL,
        place INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (run_id, query_id),
        UNIQUE (run_id, place)
    ) WITHOUT ROWID"""

_PAIRS = """CREATE TABLE pairs (
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
    ) WITHOUT ROWID"""

TABLES = {"runs": _RUNS, "queries": _QUERIES, "judgements": JUDGEMENTS, "pairs": _PAIRS}
"""Statement that makes each table, by name."""
