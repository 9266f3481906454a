import logging
import sys
import time

import pytest
from support.judging import RUN, fill, grades, judge_all, make_pairs, opened, quick, statuses

from data_pipeline.errors import ConfigError, JudgeError, MissingExtraError
from data_pipeline.judge import load_judge
from data_pipeline.judge.pool import run_judge
from data_pipeline.judge.prompts import PROMPTS, read_messages
from data_pipeline.testing import misbehaving_server, simulated_grade
from data_pipeline.testing.server_state import FAULTS
from data_pipeline.weak_labels.state import Pair, RunRecorder, State

pytest.importorskip("openai", reason="needs the extra weak-labels")

KEY = "sk-very-secret-0123456789"
SLOW = {"hang", "trickle"}
FATAL = {"401", "402", "403", "quota"}
EXPECTED = {
    "429": "failed", "429_date": "failed", "500": "failed", "503": "failed", "hang": "failed", "trickle": "failed",
    "truncated": "failed",
    "garbage": "failed", "html": "failed", "not_an_object": "failed", "empty_choices": "failed",
    "null_content": "failed", "wrong_model": "failed", "reset": "failed", "no_logprobs": "failed",
    "400": "failed_final", "404": "failed_final", "422": "failed_final", "context_length": "failed_final",
    "content_filter": "refused", "refusal": "refused", "chatter": "parse_failed", "bad_logprobs": "parse_failed",
    "outside_labels": "parse_failed",
}  # fmt: skip


def yes(system, user):
    return "YES" if "YES" in system else "3"


def probed(answer):
    """A label for the probe, which decides how the server is asked; then what `answer` says."""
    return lambda system, user: "YES" if "capital of France" in user else answer


def judge(server, path, pairs, **changes):
    config = quick(server.base_url, **changes)
    return judge_all(path, pairs, load_judge(config), config)


def everything(path):
    """All bytes of a state."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_every_fault_is_tried():
    assert set(FAULTS) == EXPECTED.keys() | FATAL


@pytest.mark.parametrize("mode", ["binary", "graded"])
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_failure_is_no_label_and_is_cured_by_the_next_run(fault, mode, tmp_path):
    pairs, path = make_pairs(2, 2), tmp_path / "state.db"
    changes = {"mode": mode, "timeout_s": 0.3 if fault in SLOW else 20.0}
    with misbehaving_server([(range(1, 1000), fault)], answer=yes) as server:
        summary, found = judge(server, path, pairs, **changes)
        sent = len(server.requests)
    assert grades(found) == {}
    assert statuses(found) == [EXPECTED[fault]] * 4
    assert summary.labels == 0
    assert all(one.judgement.reason for one in found)
    # Only what another try may cure is tried again; the first request is the probe.
    assert sent == 1 + 4 * (2 if EXPECTED[fault] == "failed" else 1)
    with misbehaving_server(answer=yes) as server:
        summary, found = judge(server, path, pairs, **changes)
        assert len(server.requests) == 1 + 4
    assert list(grades(found).values()) == [3] * 4
    with misbehaving_server(answer=yes) as server:
        summary, again = judge(server, path, pairs, **changes)
        assert len(server.requests) == 1
    assert grades(again) == grades(found)
    assert (summary.known, summary.calls) == (4, 0)


@pytest.mark.parametrize("fault", EXPECTED)
def test_failures_among_answers_cost_no_label_and_make_none(fault, tmp_path):
    pairs = make_pairs(5, 4)
    ill = {pair.passage for pair in pairs[::3]}

    def is_ill(number, user):
        return number > 0 and any(passage in user for passage in ill)

    with misbehaving_server([(is_ill, fault)], answer=yes) as server:
        timeout_s = 0.5 if fault in SLOW else 20.0
        summary, found = judge(server, tmp_path / "state.db", pairs, timeout_s=timeout_s)
    well = {(pair.query_id, pair.passage_id): 3 for pair in pairs if pair.passage not in ill}
    assert grades(found) == well
    assert summary.statuses[EXPECTED[fault]] == len(ill)


@pytest.mark.parametrize("fault", sorted(FATAL))
def test_a_refused_key_stops_the_run_at_once(fault, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pairs, path = make_pairs(10, 5), tmp_path / "state.db"
    with misbehaving_server([(range(6, 1000), fault)], answer=yes, api_key=KEY) as server:
        with pytest.raises(JudgeError, match=r"refuses the key in \$JUDGE_KEY: HTTP 4.*run the same command") as caught:
            judge(server, path, pairs, api_key_env="JUDGE_KEY", slots=1)
        assert len(server.requests) == 7
    assert KEY not in repr(caught.getrepr(chain=True, showlocals=False))
    with State(path) as state:
        assert len(grades(state.judged_pairs(RUN))) == 5  # what came before is kept
    assert KEY.encode() not in everything(path)


def test_a_wrong_key_is_said_before_anything_is_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pairs = make_pairs()
    raises = pytest.raises(JudgeError, match=r"Incorrect API key provided: \[key\]")
    with misbehaving_server(api_key="another") as server, raises as caught:
        judge(server, tmp_path / "state.db", pairs, api_key_env="JUDGE_KEY")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("fault", ["500", "400", "truncated", "content_filter", None])
def test_the_key_goes_to_the_server_and_nowhere_else(fault, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    pairs, path = make_pairs(), tmp_path / "state.db"

    def says_the_key(system, user):
        return f"{KEY} {KEY}" if fault is None and "capital of France" not in user else "YES"

    faults = [(range(1, 1000), fault)] if fault else []
    with misbehaving_server(faults, answer=says_the_key, api_key=KEY) as server:
        config = quick(server.base_url, api_key_env="JUDGE_KEY", extra_body={"user": "me"})
        _, found = judge_all(path, pairs, load_judge(config), config)
        assert server.with_key == len(server.requests) > 0
        assert KEY not in repr(server.requests)
    assert KEY.encode() not in everything(path)
    assert KEY not in repr(found)
    assert KEY not in caplog.text
    assert KEY not in repr(load_judge(config)) + repr(config) + config.model_dump_json()
    if fault is None:
        assert {one.judgement.answer for one in found} == {"[key] [key]"}


def test_a_key_is_asked_for_by_the_name_of_its_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY is not set"):
        load_judge(quick(api_key_env="JUDGE_KEY"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # nobody named it
    with misbehaving_server(api_key=KEY) as server, pytest.raises(JudgeError, match="refuses a call without a key"):
        judge(server, tmp_path / "state.db", make_pairs())


def test_without_the_package_the_message_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[weak-labels\]"):
        load_judge(quick())


@pytest.mark.parametrize("fault", ["429", "503", "429_date"])
def test_the_pause_a_server_asks_for_is_kept_by_all_slots(fault, tmp_path):
    asked_s = 1.0 if fault == "429_date" else 0.4
    pairs = make_pairs(2, 4)
    with misbehaving_server([(1, fault)], answer=yes, retry_after_s=asked_s + (fault == "429_date")) as server:
        summary, found = judge(server, tmp_path / "state.db", pairs, slots=2, tries=3)
        times = [request.at_s for request in server.requests]
    assert len(grades(found)) == 8
    assert summary.calls == 9
    # The other slot may have had one call under way; all others come after the pause.
    assert sum(at - times[1] >= asked_s for at in times[2:]) >= 7
    assert {one.judgement.tries for one in found} == {1, 2}


def test_a_pause_that_is_too_long_is_left_to_the_next_run(tmp_path):
    with misbehaving_server([(1, "429")], retry_after_s=3600) as server:
        started = time.monotonic()
        _, found = judge(server, tmp_path / "state.db", make_pairs(1, 1), tries=5)
    assert time.monotonic() - started < 30
    assert statuses(found) == ["failed"]
    assert "asks to wait 3600 s" in found[0].judgement.reason


def test_a_server_that_asks_all_to_come_back_tomorrow_stops_the_run(tmp_path):
    raises = pytest.raises(JudgeError, match="10 of the last 10 calls failed.*HTTP 429")
    with misbehaving_server([(range(1, 9999), "429")], retry_after_s=80_000) as server, raises:
        judge(server, tmp_path / "state.db", make_pairs(20, 5), breaker_window=10)
    assert len(server.requests) < 20


def test_an_answer_without_end_is_not_kept_whole(tmp_path):
    with misbehaving_server(answer=probed("YES " * 100_000), logprobs=False) as server:
        _, found = judge(server, tmp_path / "state.db", make_pairs(1, 1))
    assert statuses(found) == ["parse_failed"]
    assert len(found[0].judgement.answer) == 2000


def test_the_breaker_stops_a_run_that_only_fails(tmp_path):
    pairs, path = make_pairs(20, 10), tmp_path / "state.db"
    with misbehaving_server([(range(41, 10_000), "500")], answer=yes) as server:
        with pytest.raises(JudgeError, match=r"127.0.0.1.*10 of the last 20 calls failed.*HTTP 500.*resumes where"):
            judge(server, path, pairs, breaker_window=20, breaker_share=0.5, tries=1, slots=2)
        assert len(server.requests) <= 41 + 10 + 2
    with State(path) as state:
        assert len(grades(state.judged_pairs(RUN))) == 40
    with misbehaving_server(answer=yes) as server:
        _, found = judge(server, path, pairs)
        assert len(server.requests) == 1 + 200 - 40
    assert len(grades(found)) == 200


def test_answers_that_are_no_labels_open_the_breaker_too(tmp_path):
    raises = pytest.raises(JudgeError, match="not a label: expected one of NO, YES")
    with misbehaving_server(answer=probed("Well"), logprobs=False) as server, raises:
        judge(server, tmp_path / "state.db", make_pairs(20, 5), breaker_window=10)


def test_a_server_that_only_asks_to_slow_down_does_not_open_it(tmp_path):
    pairs = make_pairs(10, 5)
    with misbehaving_server([(lambda number, user: number % 3 > 0, "429")], answer=yes) as server:
        _, found = judge(server, tmp_path / "state.db", pairs, breaker_window=5, breaker_share=0.5, tries=50)
    assert len(grades(found)) == 50


@pytest.mark.parametrize("fault", ["reset", "500", "garbage"])
def test_a_server_that_cannot_be_used_is_an_error_not_a_result(fault, tmp_path):
    with misbehaving_server([(range(1000), fault)]) as server:
        with pytest.raises(JudgeError, match=r"cannot be used: .*\(2 tries\)"):
            judge(server, tmp_path / "state.db", make_pairs())
        assert len(server.requests) == 2
    with pytest.raises(JudgeError, match="cannot be used: Connection error"):
        judge_all(tmp_path / "state.db", make_pairs(), load_judge(quick()), quick())


def test_the_budget_counts_further_tries_and_ends_cleanly(tmp_path):
    pairs, path = make_pairs(5, 4), tmp_path / "state.db"
    with misbehaving_server([(3, "500")], answer=yes) as server:
        summary, found = judge(server, path, pairs, max_calls=10, slots=1)
        assert len(server.requests) == 1 + 10
        assert (summary.calls, summary.stopped) == (10, "max_calls")
        assert len(grades(found)) == 9
        assert statuses(found).count(None) == 11
        summary, found = judge(server, path, pairs, max_calls=11)
    assert (len(grades(found)), summary.known, summary.calls, summary.stopped) == (20, 9, 11, "")


def test_a_retry_that_the_budget_forbids_is_a_failure(tmp_path):
    with misbehaving_server([(range(1, 9), "500")]) as server:
        summary, found = judge(server, tmp_path / "state.db", make_pairs(1, 1), max_calls=1, tries=4)
        assert len(server.requests) == 2
    assert statuses(found) == ["failed"]
    assert "max_calls is spent" in found[0].judgement.reason
    assert found[0].judgement.tries == summary.calls == 1


def test_the_cache_crosses_neither_model_nor_prompt_nor_parameters_nor_text(tmp_path):
    path, pairs = tmp_path / "state.db", make_pairs(1, 1)
    with misbehaving_server(answer=yes) as one, misbehaving_server(answer=yes, model="tiny-judge-2") as two:
        plain = {"server": one, "pairs": pairs}
        other_query = [Pair("q0", "p0-0", "what else?", pairs[0].passage)]
        other_end = [Pair("q0", "p0-0", pairs[0].query, pairs[0].passage * 50 + "end")]
        runs = [
            plain, plain | {"server": two}, plain | {"model": "alias"}, plain | {"mode": "graded"},
            plain | {"extra_body": {"seed": 1}}, plain | {"passage_chars": 20}, plain | {"pairs": other_query},
            plain | {"pairs": other_end},
        ]  # fmt: skip
        for number, run in enumerate(runs):
            server, some = run["server"], run["pairs"]
            changes = {name: value for name, value in run.items() if name not in plain}
            before = len(one.requests) + len(two.requests)
            for calls in (2, 3):  # the probe and the pair; then the probe alone
                config = quick(server.base_url, **changes)
                with State(path) as state:
                    fill(state, some, f"run {number}")
                    run_judge(some, load_judge(config), RunRecorder(state, f"run {number}"), config)
                assert len(one.requests) + len(two.requests) - before == calls


def test_the_same_texts_are_judged_once(tmp_path):
    pairs = make_pairs(1, 1)
    pairs += [Pair("q0", f"copy {i}", pairs[0].query, pairs[0].passage) for i in range(200)]
    with misbehaving_server(answer=yes, latency_s=0.01) as server:
        summary, found = judge(server, tmp_path / "state.db", pairs)
        assert len(server.requests) == 2
    assert len(grades(found)) == 201
    assert summary.calls == 1


def test_what_the_server_cannot_do_is_found_out_at_the_start(tmp_path):
    pairs = make_pairs(1, 2)
    with misbehaving_server(answer=yes, logprobs=False) as server:
        _, found = judge(server, tmp_path / "a.db", pairs)
        assert server.requests[-1].body["max_tokens"] == 8
        assert "logprobs" not in server.requests[-1].body
    assert {(one.judgement.p, one.judgement.confidence) for one in found} == {(None, None)}
    with misbehaving_server([(0, "422")], answer=yes) as server:
        _, found = judge(server, tmp_path / "b.db", pairs)
        assert server.requests[-1].body["top_logprobs"] == 5
    with misbehaving_server([(range(3), "400")], answer=yes) as server:
        _, found = judge(server, tmp_path / "c.db", pairs)
        assert server.requests[-1].body["max_tokens"] == 8
    # 0.7 + 0.1 for the answer in two spellings, 0.15 for the other label, 0.05 for none of them
    with misbehaving_server(answer=yes) as server, opened(tmp_path / "d.db", pairs) as state:
        config = quick(server.base_url)
        run_judge(pairs, load_judge(config), RunRecorder(state, RUN), config)
        one = next(state.judged_pairs(RUN)).judgement
        assert (one.p, one.confidence, one.outside) == pytest.approx((0.8 / 0.95, 0.8 / 0.95, 0.05))
        identity = state.run_record(RUN)["judge"]
    assert identity["parameters"]["top_logprobs"] == 20
    assert identity["prompt"].startswith("binary-1:")
    raises = pytest.raises(JudgeError, match="no such model.*HTTP 404.*server lists: tiny-judge.*ends with /v1")
    with misbehaving_server([(range(9), "404")]) as server, raises:
        judge(server, tmp_path / "e.db", pairs)


def test_older_configs_and_configs_without_a_model_work(tmp_path):
    with misbehaving_server(answer=yes) as server:
        config = quick(server.base_url + "/chat/completions", model="")
        assert config.base_url == server.base_url
        _, found = judge_all(tmp_path / "state.db", make_pairs(1, 1), load_judge(config), config)
        assert {request.body["model"] for request in server.requests} == {"tiny-judge"}
    assert len(grades(found)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"base_url": "127.0.0.1:8080"}, {"base_url": "http://me:pw@host/v1"}, {"base_url": "http://host/v1?key=1"},
        {"base_url": "ftp://host"}, {"api_key_env": "sk-123"}, {"passage_tokens": 5}, {"extra_body": {"model": "x"}},
        {"passage_chars": 5, "passage_tokens": 5, "tokenizer": "x"}, {"unknown": 1}, {"slots": 0},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError):
        quick(**bad)


def test_the_whole_passage_is_shown_or_the_cut_is_recorded(tmp_path):
    pair = make_pairs(1, 1)[0]
    long = [Pair("q0", "p0-0", pair.query, "word " * 20_000 + "the answer")]
    shown = []

    def look(system, user):
        shown.append(read_messages([{"content": user}])[1])
        return "YES"

    with misbehaving_server(answer=look) as server:
        for number, (changes, length) in enumerate([({}, 100_010), ({"passage_chars": 12}, 12)]):
            _, found = judge(server, tmp_path / f"{number}.db", long, **changes)
            assert shown[-1] == long[0].passage[:length]
            assert (found[0].judgement.passage_chars, found[0].judgement.shown_chars) == (100_010, length)


def test_a_limit_in_tokens_cuts_between_tokens(tmp_path, tiny_qwen3):
    pair = make_pairs(1, 1)[0]
    long = [Pair("q0", "p0-0", pair.query, "eins zwei drei " * 100)]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen3)
    with misbehaving_server(answer=yes) as server:
        judge(server, tmp_path / "state.db", long, passage_tokens=10, tokenizer=str(tiny_qwen3))
        shown = read_messages([{"content": server.users[-1]}])[1]
    assert long[0].passage.startswith(shown)
    assert len(tokenizer(shown, add_special_tokens=False)["input_ids"]) == 10
    with pytest.raises(ConfigError, match="judge.tokenizer: cannot load"):
        load_judge(quick(passage_tokens=10, tokenizer=str(tmp_path / "nowhere")))


def test_texts_that_cannot_be_sent_are_failures_of_their_own(tmp_path):
    pair = make_pairs(1, 1)[0]
    pairs = [
        pair,
        Pair("q0", "half", pair.query, "half of a pair: \ud800"),
        Pair("q0", "nul", pair.query, "\0"),
    ]
    with misbehaving_server(answer=yes) as server:
        _, found = judge(server, tmp_path / "state.db", pairs)
    assert statuses(found) == ["ok", "failed_final", "ok"]


def test_answers_that_cannot_be_stored_are_stored_escaped(tmp_path):
    with misbehaving_server(answer=probed("\ud800 '); DROP TABLE pairs; --"), logprobs=False) as server:
        _, found = judge(server, tmp_path / "state.db", make_pairs(1, 1))
    assert statuses(found) == ["parse_failed"]
    assert "DROP TABLE" in found[0].judgement.answer


@pytest.mark.parametrize("mode", ["binary", "graded"])
def test_a_simulated_judge_is_read_back_exactly(mode, tmp_path):
    def answer(system, user):
        grade = simulated_grade(*read_messages([{"content": user}]))
        return str(grade) if mode == "graded" else ("NO", "YES")[grade >= 2]

    pairs = [
        Pair("q", str(i), "red green blue", text)
        for i, text in enumerate(["none of them", "red alone", "red, green", "blue green red"])
    ]
    with misbehaving_server(answer=answer) as server:
        _, found = judge(server, tmp_path / "state.db", pairs, mode=mode)
        assert {request.system for request in server.requests} == {PROMPTS[mode].system}
    assert list(grades(found).values()) == ([0, 1, 2, 3] if mode == "graded" else [0, 0, 3, 3])


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_a_server_that_never_answers_is_given_up_at_the_start_too(fault, tmp_path):
    raises = pytest.raises(JudgeError, match=r"cannot be used: no answer within 0\.3 s")
    with misbehaving_server([(range(9), fault)]) as server, raises:
        judge(server, tmp_path / "state.db", make_pairs(), timeout_s=0.3)


def test_tokens_have_a_cost_where_prices_are_set(tmp_path):
    pairs = make_pairs(2, 2)
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0}
    with misbehaving_server(answer=yes) as server:
        summary, _ = judge(server, tmp_path / "priced.db", pairs, **prices)
        free, _ = judge(server, tmp_path / "free.db", pairs)
    assert summary.prompt_tokens > summary.completion_tokens == 4
    assert summary.cost == pytest.approx((2 * summary.prompt_tokens + 10 * 4) / 1e6)
    assert summary.to_json()["cost"] == summary.cost
    assert free.cost is None
    with pytest.raises(ValueError, match="a cost needs both prices"):
        quick(price_per_million_prompt_tokens=1)
