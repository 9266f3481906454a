"""State of runs of weak labels: one SQLite file, from which all outputs are rendered.

    runs         what was asked for, and who judged
    queries      of a run, in order
    pairs        candidates of a query, in order, with their scores, and the key of their judgement
    judgements   answers and failures, by what was asked of whom; runs share them

An answer is found again only for the same judge, prompt, parameters, query and passage, text for text. A failure is
kept as one: it is never found in place of an answer, and an answer replaces it.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from data_pipeline.errors import StoreError
from data_pipeline.judge.base import STATUSES, JudgeIdentity, Judgement
from data_pipeline.judge.database import Database
from data_pipeline.judge.tables import COLUMNS, NAMES, UPSERT, from_row, text_in, text_out, to_row

_MOST_VARIABLES = 500
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found for a query."""

    query_id: str
    passage_id: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores by retriever: bm25, dense, fused, ..."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Ranks by retriever; 1 is the best."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Further facts about the candidate; plain JSON."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement, and the pair it is about."""

    query_id: str
    passage_id: str
    key: bytes
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of a run, with its judgement."""

    query_id: str
    query: str
    candidate: Candidate
    judgement: Judgement | None
    """None if the pair was not judged yet."""


class State:
    """An open state file. Methods may be called from any thread.

    Args:
        path: of the file; made where there is none.
        read_only: for looking at it, also while another process writes.

    Raises:
        StoreError: it is damaged, of another program or of a newer version, or another process writes to it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._file = Database(path, read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()

    def start_run(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Start a run, or resume it.

        Raises:
            StoreError: a run of that name was made with other settings.
        """
        wanted = json.dumps(settings, sort_keys=True)
        with self._file.write() as db:
            found = db.execute("SELECT settings FROM runs WHERE run_id = ?", [text_in(run_id)]).fetchone()
            if found is None:
                db.execute(
                    "INSERT INTO runs (run_id, settings, started) VALUES (?, ?, ?)",
                    [text_in(run_id), wanted, time.time()],
                )
            elif found[0] != wanted:
                old = json.loads(found[0])
                keys = {*old, *settings}
                changed = ", ".join(
                    sorted(
                        f"{key}: {old.get(key)!r} -> {settings.get(key)!r}"
                        for key in keys
                        if old.get(key) != settings.get(key)
                    )
                )
                raise StoreError(
                    f"{self.path}: the run {run_id!r} was made with other settings ({changed}). "
                    "Give the new run another name; judgements that still apply are found again."
                )

    def set_judge(self, run_id: str, identity: JudgeIdentity) -> None:
        """Set the judge of a run; judgements that another judge gave in this run no longer belong to it.

        Raises:
            StoreError: there is no such run.
        """
        with self._file.write() as db:
            found = db.execute("SELECT judge FROM runs WHERE run_id = ?", [text_in(run_id)]).fetchone()
            if found is None:
                raise StoreError(f"{self.path} has no run {run_id!r}; call start_run first")
            wanted = json.dumps(identity.to_json(), sort_keys=True)
            if found[0] != wanted:
                db.execute("UPDATE pairs SET key = NULL WHERE run_id = ?", [text_in(run_id)])
                db.execute("UPDATE runs SET judge = ? WHERE run_id = ?", [wanted, text_in(run_id)])

    def finish_run(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Write the summary of a run."""
        with self._file.write() as db:
            db.execute(
                "UPDATE runs SET summary = ?, finished = ? WHERE run_id = ?",
                [json.dumps(summary, sort_keys=True), time.time(), text_in(run_id)],
            )

    def add_queries(self, run_id: str, queries: Iterable[tuple[str, str]]) -> None:
        """Append queries (id, text) to those of the run; an id that exists with the same text stays.

        Raises:
            StoreError: an id is there with another text, or there is no such run.
        """
        run = text_in(run_id)
        with self._file.write() as db:
            (place,) = db.execute("SELECT COALESCE(MAX(place), -1) FROM queries WHERE run_id = ?", [run]).fetchone()
            for query_id, text in queries:
                known = db.execute(
                    "SELECT text FROM queries WHERE run_id = ? AND query_id = ?", [run, text_in(query_id)]
                ).fetchone()
                if known is None:
                    place += 1
                    row = [run, text_in(query_id), place, text_in(text)]
                    db.execute("INSERT INTO queries (run_id, query_id, place, text) VALUES (?, ?, ?, ?)", row)
                elif text_out(known[0]) != text:
                    raise StoreError(
                        f"{self.path}: the query {query_id!r} of run {run_id!r} is there with another text: "
                        f"{text_out(known[0])[:80]!r}, now {text[:80]!r}. Ids must be unique."
                    )

    def add_candidates(self, run_id: str, query_id: str, candidates: Sequence[Candidate]) -> None:
        """Set the candidates of a query, in order; the same ones again change nothing, judgements included.

        Raises:
            StoreError: the query is not there, is there with other candidates, or one occurs twice.
        """
        rows = [
            [text_in(run_id), text_in(query_id), place, text_in(one.passage_id), *_details(one)]
            for place, one in enumerate(candidates)
        ]
        with self._file.write() as db:
            known = db.execute(
                "SELECT run_id, query_id, place, passage_id, scores, ranks, provenance FROM pairs "
                "WHERE run_id = ? AND query_id = ? ORDER BY place",
                [text_in(run_id), text_in(query_id)],
            ).fetchall()
            if known and [list(row) for row in known] != rows:
                raise StoreError(
                    f"{self.path}: the query {query_id!r} of run {run_id!r} has other candidates already. "
                    "Give the new run another name; judgements that still apply are found again."
                )
            if not known:
                db.executemany(
                    "INSERT INTO pairs (run_id, query_id, place, passage_id, scores, ranks, provenance) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )

    def queries(self, run_id: str) -> list[tuple[str, str]]:
        """Id and text of all queries of a run, in order."""
        with self._file.read() as db:
            rows = db.execute(
                "SELECT query_id, text FROM queries WHERE run_id = ? ORDER BY place", [text_in(run_id)]
            ).fetchall()
        return [(text_out(query_id), text_out(text)) for query_id, text in rows]

    def candidates(self, run_id: str, query_id: str) -> list[Candidate]:
        """Candidates of a query, in order; empty if it was not searched for yet."""
        with self._file.read() as db:
            rows = db.execute(
                "SELECT passage_id, scores, ranks, provenance FROM pairs "
                "WHERE run_id = ? AND query_id = ? ORDER BY place",
                [text_in(run_id), text_in(query_id)],
            ).fetchall()
        return [_candidate(query_id, *row) for row in rows]

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Judgement]:
        """The answers among these keys; failures are never among them."""
        found: dict[bytes, Judgement] = {}
        with self._file.read() as db:
            for start in range(0, len(keys), _MOST_VARIABLES):
                some = keys[start : start + _MOST_VARIABLES]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, {COLUMNS} FROM judgements WHERE status = 'ok' AND key IN ({marks})"  # noqa: S608 - only marks
                for key, *row in db.execute(query, list(some)):
                    found[key] = from_row(row)
        return found

    def record(self, run_id: str, judged: Sequence[Judged], fresh: Mapping[bytes, Judgement]) -> None:
        """Write judgements; they are on disk when this returns.

        Args:
            run_id: the run whose pairs they are about.
            judged: pairs, each with its judgement's key.
            fresh: judgements that are new, by key; one that failed never replaces an answer.

        Raises:
            StoreError: the run has no such pair, or the disk is full; nothing of it was kept.
        """
        now = time.time()
        with self._file.write() as db:
            db.executemany(UPSERT, [[key, *to_row(one), now] for key, one in fresh.items()])
            thoughts = [[key, text_in(one.reasoning)] for key, one in fresh.items() if one.reasoning]
            db.executemany("INSERT OR REPLACE INTO reasonings VALUES (?, ?)", thoughts)
            for one in judged:
                where = [text_in(run_id), text_in(one.query_id), text_in(one.passage_id)]
                done = db.execute(
                    "UPDATE pairs SET key = ? WHERE run_id = ? AND query_id = ? AND passage_id = ?", [one.key, *where]
                )
                if done.rowcount != 1:
                    raise StoreError(
                        f"{self.path}: run {run_id!r} has no pair of query {one.query_id!r} and passage "
                        f"{one.passage_id!r}; add_candidates comes before the judging"
                    )

    def reasoning(self, run_id: str, query_id: str, passage_id: str) -> str:
        """Reasoning of the judge about a pair, as far as its server showed it; empty if there is none.

        Raises:
            StoreError: the state cannot be read.
        """
        with self._file.read() as db:
            found = db.execute(
                "SELECT r.reasoning FROM pairs p JOIN reasonings r ON r.key = p.key "
                "WHERE p.run_id = ? AND p.query_id = ? AND p.passage_id = ?",
                [text_in(run_id), text_in(query_id), text_in(passage_id)],
            ).fetchone()
        return text_out(found[0]) if found else ""

    def judged_pairs(self, run_id: str) -> Iterator[JudgedPair]:
        """All pairs of a run with what is known of them: queries in order, candidates in order."""
        at = (-1, -1)
        query = (  # in portions, so that a slow reader holds up no writer
            "SELECT q.place, p.place, q.query_id, q.text, p.passage_id, p.scores, p.ranks, p.provenance, "  # noqa: S608
            f"{', '.join(f'j.{name}' for name in NAMES)} "
            "FROM queries q JOIN pairs p ON p.run_id = q.run_id AND p.query_id = q.query_id "
            "LEFT JOIN judgements j ON j.key = p.key "
            "WHERE q.run_id = ? AND (q.place, p.place) > (?, ?) ORDER BY q.place, p.place LIMIT ?"
        )
        while True:
            with self._file.read() as db:
                rows = db.execute(query, [text_in(run_id), *at, _ROWS_AT_ONCE]).fetchall()
            for query_place, place, query_id, text, passage_id, scores, ranks, provenance, *row in rows:
                at = (query_place, place)
                candidate = _candidate(text_out(query_id), passage_id, scores, ranks, provenance)
                judgement = None if row[0] is None else from_row(row)
                yield JudgedPair(text_out(query_id), text_out(text), candidate, judgement)
            if len(rows) < _ROWS_AT_ONCE:
                return

    def counts(self, run_id: str) -> dict[str, int]:
        """Pairs of a run by status, and those without a judgement as `pending`."""
        with self._file.read() as db:
            found = dict(
                db.execute(
                    "SELECT COALESCE(j.status, 'pending'), COUNT(*) "
                    "FROM pairs p LEFT JOIN judgements j ON j.key = p.key "
                    "WHERE p.run_id = ? GROUP BY 1",
                    [text_in(run_id)],
                ).fetchall()
            )
        return {status: found.get(status, 0) for status in (*STATUSES, "pending")}

    def run_record(self, run_id: str) -> dict[str, Any]:
        """Settings, judge and summary of a run, as they were given; None for what is not there yet.

        Raises:
            StoreError: there is no such run.
        """
        with self._file.read() as db:
            found = db.execute(
                "SELECT settings, judge, summary FROM runs WHERE run_id = ?", [text_in(run_id)]
            ).fetchone()
        if found is None:
            raise StoreError(f"{self.path} has no run {run_id!r}")
        names = ("settings", "judge", "summary")
        return {name: value and json.loads(value) for name, value in zip(names, found, strict=True)}

    def verify(self) -> None:
        """Read the whole file, and check its integrity.

        Raises:
            StoreError: it does not.
        """
        with self._file.read() as db:
            faults = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
            faults += [f"{row[0]} row {row[1]}" for row in db.execute("PRAGMA foreign_key_check")]
        if faults != ["ok"]:
            raise StoreError(f"{self.path} is damaged: {'; '.join(map(str, faults))}")


def _details(one: Candidate) -> list[str]:
    return [json.dumps(dict(value), sort_keys=True) for value in (one.scores, one.ranks, one.provenance)]


def _candidate(query_id: str, passage_id: str, scores: str, ranks: str, provenance: str) -> Candidate:
    return Candidate(query_id, text_out(passage_id), json.loads(scores), json.loads(ranks), json.loads(provenance))
