"""State of runs of weak labels: one SQLite file, from which all outputs are rendered.

runs         settings and judge
queries      queries of a run, in order
pairs        candidates of a query, in order, with their scores and the key of their judgement
judgements   answers and failures by key, shared by all runs; see `judge.cache`
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import StoreError
from data_pipeline.judge.base import STATUSES, JudgeIdentity, Judgement
from data_pipeline.judge.database import Database, insert_judgements
from data_pipeline.judge.recorder import Judged
from data_pipeline.judge.tables import COLUMNS, REASONINGS, decode_text, encode_text, from_row
from data_pipeline.weak_labels.state_tables import TABLES

_ROWS_AT_ONCE = 1000
_PAIR_COLUMNS = "run_id, query_id, place, passage_id, scores, ranks, provenance"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage to be judged; see `judge.Judgeable`."""

    query_id: str
    passage_id: str
    query: str
    """Whole text of the query."""
    passage: str
    """Whole text of the passage."""


@dataclass(frozen=True, slots=True)
class SampledCandidate:
    """A candidate of a query that was sampled for judging."""

    query_id: str
    passage_id: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores by retriever: bm25, dense, fused, ..."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Ranks by retriever; 1 is the best."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Further facts about the candidate; plain JSON."""


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of a run with its judgement."""

    query_id: str
    query: str
    candidate: SampledCandidate
    judgement: Judgement | None
    """Judgement of the pair; None if it was not judged yet."""

    @property
    def grade(self) -> int | None:
        """Grade of the pair; None without a judgement, or if the judgement is a failure."""
        return None if self.judgement is None else self.judgement.grade

    @property
    def p(self) -> float | None:
        """Probability by the judge that the passage is relevant; None if there is none."""
        return None if self.judgement is None else self.judgement.p


class State(Database):
    """An open state file. Methods may be called from any thread.

    Args:
        path: of the SQLite file; it is made if it does not exist.
        read_only: open for reading, also while another process writes.

    Raises:
        NotFoundError: the file does not exist, and `read_only` is set.
        StoreError: the file is damaged or of another program or a newer version, or another process writes to it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        super().__init__(path, "the state of a run of weak labels", TABLES, (REASONINGS,), read_only)

    def start_run(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Start a run, or resume it.

        Raises:
            StoreError: a run of that name was made with other settings.
        """
        new = json.dumps(settings, sort_keys=True)
        with self.write() as db:
            row = db.execute("SELECT settings FROM runs WHERE run_id = ?", [encode_text(run_id)]).fetchone()
            if row is None:
                values = [encode_text(run_id), new, time.time()]
                db.execute("INSERT INTO runs (run_id, settings, started) VALUES (?, ?, ?)", values)
            elif row[0] != new:
                changes = _describe_changes(json.loads(row[0]), settings)
                raise StoreError(
                    f"{self.path}: the run {run_id!r} was made with other settings ({changes}). Give the new run "
                    "another name; judgements that still apply are reused."
                )

    def set_judge(self, run_id: str, identity: JudgeIdentity) -> None:
        """Set the judge of a run; judgements of another judge no longer belong to the run, and stay in the file.

        Raises:
            StoreError: no run has that name.
        """
        new = json.dumps(identity.to_json(), sort_keys=True)
        with self.write() as db:
            row = db.execute("SELECT judge FROM runs WHERE run_id = ?", [encode_text(run_id)]).fetchone()
            if row is None:
                raise StoreError(f"{self.path} has no run {run_id!r}; call start_run first")
            if row[0] != new:
                db.execute("UPDATE pairs SET key = NULL WHERE run_id = ?", [encode_text(run_id)])
                db.execute("UPDATE runs SET judge = ? WHERE run_id = ?", [new, encode_text(run_id)])

    def finish_run(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Store the summary of a run."""
        values = [json.dumps(summary, sort_keys=True), time.time(), encode_text(run_id)]
        with self.write() as db:
            db.execute("UPDATE runs SET summary = ?, finished = ? WHERE run_id = ?", values)

    def add_queries(self, run_id: str, queries: Iterable[tuple[str, str]]) -> None:
        """Append queries (id, text) to those of the run; a query that exists with the same text stays.

        Raises:
            StoreError: an id exists with another text, or no run has that name.
        """
        run = encode_text(run_id)
        with self.write() as db:
            (last,) = db.execute("SELECT COALESCE(MAX(place), -1) FROM queries WHERE run_id = ?", [run]).fetchone()
            for query_id, text in queries:
                key = [run, encode_text(query_id)]
                row = db.execute("SELECT text FROM queries WHERE run_id = ? AND query_id = ?", key).fetchone()
                if row is None:
                    last += 1
                    values = [*key, last, encode_text(text)]
                    db.execute("INSERT INTO queries (run_id, query_id, place, text) VALUES (?, ?, ?, ?)", values)
                elif (existing := decode_text(row[0])) != text:
                    raise StoreError(
                        f"{self.path}: query {query_id!r} of run {run_id!r} exists with another text: "
                        f"{existing[:80]!r}, now {text[:80]!r}. Ids must be unique."
                    )

    def add_candidates(self, run_id: str, query_id: str, candidates: Sequence[SampledCandidate]) -> None:
        """Set the candidates of a query, in order; the same ones again change nothing, judgements included.

        Raises:
            StoreError: the query does not exist or has other candidates, or a candidate occurs twice.
        """
        key = [encode_text(run_id), encode_text(query_id)]
        rows = [
            [*key, position, encode_text(candidate.passage_id), *_to_json_columns(candidate)]
            for position, candidate in enumerate(candidates)
        ]
        with self.write() as db:
            statement = f"SELECT {_PAIR_COLUMNS} FROM pairs WHERE run_id = ? AND query_id = ? ORDER BY place"  # noqa: S608
            existing = db.execute(statement, key).fetchall()
            if existing and [list(row) for row in existing] != rows:
                raise StoreError(
                    f"{self.path}: query {query_id!r} of run {run_id!r} already has other candidates. "
                    "Give the new run another name; judgements that still apply are reused."
                )
            if not existing:
                db.executemany(f"INSERT INTO pairs ({_PAIR_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608

    def queries(self, run_id: str) -> list[tuple[str, str]]:
        """Ids and texts of all queries of a run, in order."""
        rows = self._select("SELECT query_id, text FROM queries WHERE run_id = ? ORDER BY place", run_id)
        return [(decode_text(query_id), decode_text(text)) for query_id, text in rows]

    def candidates(self, run_id: str, query_id: str) -> list[SampledCandidate]:
        """Candidates of a query, in order; empty if they were not added yet."""
        statement = (
            "SELECT passage_id, scores, ranks, provenance FROM pairs WHERE run_id = ? AND query_id = ? ORDER BY place"
        )
        rows = self._select(statement, run_id, query_id)
        return [_candidate_from_row(query_id, *row) for row in rows]

    def record(self, run_id: str, judged: Sequence[Judged[Pair]], new: Mapping[bytes, Judgement]) -> None:
        """Store judgements; they are safe on disk when this returns.

        Args:
            run_id: run that the pairs belong to.
            judged: pairs, each with its judgement's key.
            new: judgements that are not stored yet, by key; a failure never replaces an answer.

        Raises:
            StoreError: the run lacks one of the pairs, or the disk is full; nothing was stored.
        """
        with self.write() as db:
            insert_judgements(db, new)
            for result in judged:
                pair = result.item
                ids = [encode_text(run_id), encode_text(pair.query_id), encode_text(pair.passage_id)]
                update = db.execute(
                    "UPDATE pairs SET key = ? WHERE run_id = ? AND query_id = ? AND passage_id = ?", [result.key, *ids]
                )
                if update.rowcount != 1:
                    raise StoreError(
                        f"{self.path}: run {run_id!r} has no pair of query {pair.query_id!r} and passage "
                        f"{pair.passage_id!r}; call add_candidates before judging"
                    )

    def reasoning(self, run_id: str, query_id: str, passage_id: str) -> str:
        """Reasoning of the judge about a pair, as far as its server reported it; empty if there is none.

        Raises:
            StoreError: the file cannot be read.
        """
        rows = self._select(
            "SELECT r.reasoning FROM pairs p JOIN reasonings r ON r.key = p.key "
            "WHERE p.run_id = ? AND p.query_id = ? AND p.passage_id = ?",
            run_id, query_id, passage_id,
        )  # fmt: skip
        return decode_text(rows[0][0]) if rows else ""

    def judged_pairs(self, run_id: str) -> Iterator[JudgedPair]:
        """Iterate over all pairs of a run, judged or not: queries in order, candidates in order."""
        last = (-1, -1)
        query = (  # in portions, so that a slow reader does not block a writer
            "SELECT q.place, p.place, q.query_id, q.text, p.passage_id, p.scores, p.ranks, p.provenance, "  # noqa: S608
            f"{', '.join(f'j.{name}' for name in COLUMNS)} "
            "FROM queries q JOIN pairs p ON p.run_id = q.run_id AND p.query_id = q.query_id "
            "LEFT JOIN judgements j ON j.key = p.key "
            "WHERE q.run_id = ? AND (q.place, p.place) > (?, ?) ORDER BY q.place, p.place LIMIT ?"
        )
        while True:
            rows = self._select(query, run_id, *last, _ROWS_AT_ONCE)
            for query_position, position, query_id, text, passage_id, scores, ranks, provenance, *row in rows:
                last = (query_position, position)
                candidate = _candidate_from_row(decode_text(query_id), passage_id, scores, ranks, provenance)
                judgement = None if row[0] is None else from_row(row)
                yield JudgedPair(candidate.query_id, decode_text(text), candidate, judgement)
            if len(rows) < _ROWS_AT_ONCE:
                return

    def counts(self, run_id: str) -> dict[str, int]:
        """Number of pairs of a run by status; those without a judgement are `pending`."""
        rows = self._select(
            "SELECT COALESCE(j.status, 'pending'), COUNT(*) FROM pairs p LEFT JOIN judgements j ON j.key = p.key "
            "WHERE p.run_id = ? GROUP BY 1",
            run_id,
        )
        counts = dict(rows)
        return {status: counts.get(status, 0) for status in (*STATUSES, "pending")}

    def run_record(self, run_id: str) -> dict[str, Any]:
        """Settings, judge and summary of a run; None for what was not stored yet.

        Raises:
            StoreError: no run has that name.
        """
        rows = self._select("SELECT settings, judge, summary FROM runs WHERE run_id = ?", run_id)
        if not rows:
            raise StoreError(f"{self.path} has no run {run_id!r}")
        names = ("settings", "judge", "summary")
        return {name: value and json.loads(value) for name, value in zip(names, rows[0], strict=True)}

    def _select(self, statement: str, *values: str | int) -> list[tuple[Any, ...]]:
        """Read the rows that a statement selects; texts among its values are encoded."""
        encoded = [encode_text(value) if isinstance(value, str) else value for value in values]
        with self.read() as db:
            return db.execute(statement, encoded).fetchall()


@dataclass(frozen=True, slots=True)
class RunRecorder:
    """Records the judgements of one run in a state; see `judge.recorder.Recorder`."""

    state: State
    run_id: str

    def start(self, judge: JudgeIdentity) -> None:
        """Set the judge of the run; see `State.set_judge`."""
        self.state.set_judge(self.run_id, judge)

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
        """Stored answers by key, of all runs."""
        return self.state.lookup(keys)

    def record(self, judged: Sequence[Judged[Pair]], new: Mapping[bytes, Judgement]) -> None:
        """Store judgements of the run; see `State.record`."""
        self.state.record(self.run_id, judged, new)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Store the summary of the run."""
        self.state.finish_run(self.run_id, summary)


def _describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    changes = (
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in old.keys() | new if old.get(name) != new.get(name)
    )
    return ", ".join(sorted(changes))


def _to_json_columns(candidate: SampledCandidate) -> list[str]:
    values = (candidate.scores, candidate.ranks, candidate.provenance)
    return [json.dumps(dict(value), sort_keys=True) for value in values]


def _candidate_from_row(query_id: str, passage_id: str, *columns: str) -> SampledCandidate:
    """Make a candidate from its ids and the columns `scores`, `ranks` and `provenance`."""
    return SampledCandidate(query_id, decode_text(passage_id), *map(json.loads, columns))
