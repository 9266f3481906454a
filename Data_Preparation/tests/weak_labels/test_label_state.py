import os
import sqlite3
import threading

import pytest
from support.judging import RUN, fill, make_pairs, opened

from data_pipeline.errors import StoreError
from data_pipeline.judge import JudgeIdentity, Judgement
from data_pipeline.judge.database import FORMAT_VERSION
from data_pipeline.judge.recorder import Judged
from data_pipeline.judge.tables import decode_text, encode_text
from data_pipeline.weak_labels.state import Pair, SampledCandidate, State

OK = Judgement("ok", 3, 0.9, 0.9, 0.01, "YES", "", 2, 100, 1, 0.25, 50, 40)
FAILED = Judgement("failed", reason="HTTP 500")
KEY = b"k" * 32


def judged(query_id, passage_id, key, judgement):
    return Judged(Pair(query_id, passage_id, "", ""), key, judgement)


def test_what_goes_in_comes_out_in_order(tmp_path):
    with State(tmp_path / "s.db") as state:
        state.start_run(RUN, {"a": 1})
        state.add_queries(RUN, [("z", "last name first"), ("a", "then this")])
        rich = SampledCandidate("a", "p9", {"bm25": 2.5, "dense": 0.1}, {"bm25": 0, "dense": 7}, {"tail": True})
        state.add_candidates(RUN, "a", [rich, SampledCandidate("a", "p1")])
        state.add_candidates(RUN, "z", [SampledCandidate("z", "p1")])
        state.record(RUN, [judged("a", "p9", KEY, OK)], {KEY: OK})
        found = list(state.judged_pairs(RUN))
        assert [(one.query_id, one.query, one.candidate.passage_id) for one in found] == [
            ("z", "last name first", "p1"), ("a", "then this", "p9"), ("a", "then this", "p1"),
        ]  # fmt: skip
        assert [one.judgement for one in found] == [None, OK, None]
        assert found[1].candidate == rich
        assert state.queries(RUN) == [("z", "last name first"), ("a", "then this")]
        assert state.candidates(RUN, "a") == [rich, SampledCandidate("a", "p1")]
        assert state.candidates(RUN, "unknown") == []
        assert state.counts(RUN) == {
            "ok": 1, "parse_failed": 0, "refused": 0, "failed": 0, "failed_final": 0, "pending": 2,
        }  # fmt: skip
        state.verify()


def test_a_failure_is_never_found_and_never_replaces_an_answer(tmp_path):
    with opened(tmp_path / "s.db", make_pairs(1, 1)) as state:
        where = judged("q0", "p0-0", KEY, FAILED)
        state.record(RUN, [where], {KEY: FAILED})
        assert state.lookup([KEY]) == {}
        assert next(state.judged_pairs(RUN)).judgement == FAILED
        state.record(RUN, [where], {KEY: OK})
        assert state.lookup([KEY, b"x" * 32]) == {KEY: OK}
        state.record(RUN, [where], {KEY: FAILED})
        assert state.lookup([KEY]) == {KEY: OK}
        assert next(state.judged_pairs(RUN)).judgement == OK


def test_many_keys_and_many_rows(tmp_path):
    pairs = make_pairs(60, 40)
    with opened(tmp_path / "s.db", pairs) as state:
        fresh = {number.to_bytes(32, "big"): OK for number in range(len(pairs))}
        results = [judged(pair.query_id, pair.passage_id, key, OK) for pair, key in zip(pairs, fresh, strict=True)]
        state.record(RUN, results, fresh)
        assert state.lookup(list(fresh)) == fresh
        found = [(one.query_id, one.candidate.passage_id) for one in state.judged_pairs(RUN)]
        assert found == [(pair.query_id, pair.passage_id) for pair in pairs]


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path):
    with opened(tmp_path / "s.db", make_pairs(1, 1)) as state:
        results = [judged("q0", "p0-0", KEY, OK), judged("q0", "nobody", KEY, OK)]
        with pytest.raises(StoreError, match="no pair of query 'q0' and passage 'nobody'"):
            state.record(RUN, results, {KEY: OK})
        assert state.lookup([KEY]) == {}
        assert state.counts(RUN)["pending"] == 1


def test_another_judge_takes_over_a_run_whole(tmp_path):
    one, two = (JudgeIdentity("m", served, "p") for served in ("1", "2"))
    with opened(tmp_path / "s.db", make_pairs(1, 1)) as state:
        state.set_judge(RUN, one)
        state.record(RUN, [judged("q0", "p0-0", KEY, OK)], {KEY: OK})
        state.set_judge(RUN, one)
        assert state.counts(RUN)["ok"] == 1
        state.set_judge(RUN, two)
        assert state.counts(RUN)["pending"] == 1
        assert state.lookup([KEY]) == {KEY: OK}
        assert state.run_record(RUN)["judge"] == two.to_json()
        with pytest.raises(StoreError, match="no run 'other'"):
            state.set_judge("other", one)
        with pytest.raises(StoreError, match="no run 'other'"):
            state.run_record("other")


def test_a_run_keeps_its_settings_queries_and_candidates(tmp_path):
    pairs = make_pairs(2, 2)
    with opened(tmp_path / "s.db", pairs) as state:
        fill(state, pairs)  # the same again
        with pytest.raises(StoreError, match=r"other settings \(seed: 1 -> 2\)"):
            state.start_run(RUN, {"seed": 2})
        with pytest.raises(StoreError, match="with another text"):
            state.add_queries(RUN, [("q0", "changed")])
        with pytest.raises(StoreError, match="already has other candidates"):
            state.add_candidates(RUN, "q0", [SampledCandidate("q0", "p0-0")])
        state.add_queries(RUN, [("new", "query")])
        with pytest.raises(StoreError, match="UNIQUE"):
            state.add_candidates(RUN, "new", [SampledCandidate("new", "p"), SampledCandidate("new", "p")])
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            state.add_candidates(RUN, "unknown", [SampledCandidate("unknown", "p")])
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            state.add_queries("unknown", [("q", "t")])


HOSTILE = ["'; DROP TABLE runs; --", "nul \0 inside", "half \ud800 pair", "\U0001f600", "", "%s {x} ?", "a\r\nb\u2028"]


def test_hostile_texts_are_kept_letter_by_letter(tmp_path):
    assert [decode_text(encode_text(text)) for text in HOSTILE] == HOSTILE
    with State(tmp_path / "s.db") as state:
        for run in HOSTILE:
            state.start_run(run, {"text": run})
            state.add_queries(run, [(text, text) for text in HOSTILE])
            for query in HOSTILE:
                state.add_candidates(run, query, [SampledCandidate(query, text, {text: 1.0}) for text in HOSTILE])
            says = Judgement("parse_failed", answer=run, reason=run)
            state.record(run, [judged(text, text, KEY, says) for text in HOSTILE], {KEY: says})
        for run in HOSTILE:
            found = list(state.judged_pairs(run))
            assert [(one.query, one.candidate.passage_id) for one in found] == [
                (a, b) for a in HOSTILE for b in HOSTILE
            ]
            assert sum(one.judgement is not None for one in found) == len(HOSTILE)
        assert state.run_record(HOSTILE[0])["settings"] == {"text": HOSTILE[0]}
        state.verify()


def test_files_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "s.db"
    path.write_bytes(b"this is not a database, but it is long enough to be looked at" * 50)
    with pytest.raises(StoreError, match="not a database"):
        State(path)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    with pytest.raises(StoreError, match="not the state of a run"):
        State(path)
    with pytest.raises(StoreError, match="no such file; expected the state of a run of weak labels"):
        State(tmp_path / "missing.db", read_only=True)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError, match="SQLite reports"):
        State(tmp_path / "folder.db")
    path.write_bytes(b"")  # as a crash right after its making leaves it
    State(path).close()


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "s.db"
    State(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    db.close()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=f"format {FORMAT_VERSION + 1}.*up to {FORMAT_VERSION}"):
            State(path, read_only)


def test_a_damaged_file_is_an_error_not_a_result(tmp_path):
    path, pairs = tmp_path / "s.db", make_pairs(50, 20)
    with opened(path, pairs):
        pass
    whole = path.read_bytes()
    caught = 0
    for start in range(4096, len(whole) - 4096, 4096):
        path.write_bytes(whole[:start] + os.urandom(4096) + whole[start + 4096 :])
        with State(path) as state, pytest.raises(StoreError, match="damaged"):
            state.verify()
        caught += 1
    assert caught > 5
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError), State(path) as state:
        list(state.judged_pairs(RUN))


def test_one_writes_and_others_may_look(tmp_path):
    path, pairs = tmp_path / "s.db", make_pairs(1, 2)
    with opened(path, pairs) as state:
        with pytest.raises(StoreError, match="another process is writing"):
            State(path)
        with State(path, read_only=True) as reader:
            assert reader.counts(RUN)["pending"] == 2
            state.record(RUN, [judged("q0", "p0-0", KEY, OK)], {KEY: OK})
            assert reader.counts(RUN)["ok"] == 1
            with pytest.raises(StoreError, match="readonly"):
                reader.start_run("x", {})
    State(path).close()


def test_threads_may_share_it(tmp_path):
    pairs = make_pairs(10, 10)
    with opened(tmp_path / "s.db", pairs) as state:
        errors = []

        def write(part):
            try:
                for number in range(part, len(pairs), 4):
                    key = number.to_bytes(32, "big")
                    pair = pairs[number]
                    state.record(RUN, [judged(pair.query_id, pair.passage_id, key, OK)], {key: OK})
                    assert state.lookup([key]) == {key: OK}
            except BaseException as error:
                errors.append(error)
                raise

        threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert state.counts(RUN)["ok"] == 100
