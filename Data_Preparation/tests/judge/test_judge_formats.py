"""Servers that differ from OpenAI's API in what they take and give: the request format that works is found."""

import itertools
import json
import logging
import sqlite3

import pytest
from support.judging import RUN, grades, judge_all, make_pairs, opened, quick, statuses

from data_pipeline.errors import JudgeError
from data_pipeline.judge import JudgeIdentity, judgement_key, load_judge
from data_pipeline.judge.formats import REASONING_TOKENS, FormatSearch, RequestFormat, read_hints
from data_pipeline.judge.pool import run_judge
from data_pipeline.judge.prompts import PROMPTS, read_messages, split_instructions
from data_pipeline.judge.reply import read_completion, split_reasoning
from data_pipeline.testing import misbehaving_server, simulated_answer
from data_pipeline.testing.quirks import CHANGES, QUIRKS, REFUSALS
from data_pipeline.weak_labels.state import RunRecorder, State

pytest.importorskip("openai", reason="needs the extra weak-labels")

PLAIN = {"max_tokens": 8, "temperature": 0}
REASONS = {"max_tokens": 8 + REASONING_TOKENS, "temperature": 0}
LOGPROBS = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}

# Quirk -> what the request's body has in the end, and how many requests the search takes at most.
USABLE = {
    "max_completion_tokens_only": ({**LOGPROBS, "max_tokens": None, "max_completion_tokens": 1}, 2),
    "max_tokens_only": (LOGPROBS, 1),
    "default_temperature_only": ({**LOGPROBS, "temperature": None}, 2),
    "logprobs_forbidden": (PLAIN, 2),
    "logprobs_unsupported": (PLAIN, 2),
    "few_logprobs": ({**LOGPROBS, "top_logprobs": 5}, 2),
    "system_role_refused": (LOGPROBS, 2),
    "roles_alternate": (LOGPROBS, 2),
    "reasons_with_an_error": (REASONS, 2),
    "least_tokens": (REASONS, 2),
    "refuses_without_reason": ({"max_tokens": 8, "temperature": None}, 20),
    "reasons_beside_null": (REASONS, 2),
    "reasons_beside_empty": (REASONS, 2),
    "reasons_inline": (REASONS, 2),
    "reasons_inline_without_limit": (PLAIN, 2),
    "reasons_after_the_prompt": (PLAIN, 2),
    "content_in_parts": (LOGPROBS, 1),
    "thinking_in_parts": (REASONS, 2),
    "bold": (PLAIN, 2),
    "no_alternatives": (LOGPROBS, 1),
    "completions_logprobs": (PLAIN, 2),
}
REFUSED = {
    "model_missing": r"no such model.*HTTP 404.*not found, try pulling it first\. The server lists: tiny-judge",
    "wait_in_the_text": r"cannot be used: HTTP 429.*try again in 20ms",
    "no_content": r"no label in any of the 3 request formats.*the reply's message has no text",
    "sentence": r"no label in any of the 3 .*expected one of NO, YES and nothing else, found '\w+\. The passage",
    "answer_after_a_colon": r"no label in any of the 3 .*found 'Answer: \w+'.*answers with one word",
}


def judge(server, path, pairs, **changes):
    config = quick(server.base_url, **changes)
    return judge_all(path, pairs, load_judge(config), config)


def test_every_quirk_is_tried():
    assert set(QUIRKS) == REFUSALS.keys() | CHANGES.keys() == USABLE.keys() | REFUSED.keys() | {"changing_model"}


@pytest.mark.parametrize("mode", ["binary", "graded"])
@pytest.mark.parametrize("quirk", USABLE)
def test_a_server_is_asked_as_it_can_be_asked(quirk, mode, tmp_path, caplog):
    pairs = make_pairs(3, 3)
    with caplog.at_level(logging.INFO), misbehaving_server(quirks=[quirk]) as server:
        _, found = judge(server, tmp_path / "s.db", pairs, mode=mode)
        probes = len(server.requests) - len(pairs)
        expected = [simulated_answer(PROMPTS[mode].system, PROMPTS[mode].messages(p.query, p.passage)[1]["content"])
                    for p in pairs]  # fmt: skip
        body = server.requests[-1].body
    labels = {name.upper(): grade for name, grade in PROMPTS[mode].labels.items()}
    assert list(grades(found).values()) == [labels[answer] for answer in expected]
    decided, most = USABLE[quirk]
    assert {name: body.get(name) for name in decided} == decided
    assert 1 <= probes <= most
    assert "asked with" in caplog.text
    with misbehaving_server(quirks=[quirk]) as again:
        summary, _ = judge(again, tmp_path / "s.db", pairs, mode=mode)
    assert summary.calls == 0  # the same format was found, and with it the answers


@pytest.mark.parametrize("quirk", REFUSED)
def test_a_server_that_cannot_be_used_is_described(quirk, tmp_path):
    with misbehaving_server(quirks=[quirk]) as server, pytest.raises(JudgeError, match=REFUSED[quirk]) as caught:
        judge(server, tmp_path / "s.db", make_pairs(2, 2))
    assert len(server.requests) <= 3
    assert "ends with /v1" in str(caught.value) or "settings base_url and model" in str(caught.value)


def test_a_router_that_changes_the_model_is_no_judge(tmp_path):
    with misbehaving_server(quirks=["changing_model"]) as server:
        _, found = judge(server, tmp_path / "s.db", make_pairs(4, 4), tries=1)
    failed = [one.judgement for one in found if one.judgement.status == "failed"]
    assert len(failed) == 8
    assert "answered by the model 'tiny-judge-" in failed[0].reason
    assert "set judge.model to one of them" in failed[0].reason


COMBINED = ["max_completion_tokens_only", "default_temperature_only", "system_role_refused"]


@pytest.mark.parametrize("limits", ["logprobs_forbidden", "reasons_with_an_error", "reasons_inline", "few_logprobs"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_quirks_in_any_combination_are_met(limits, count, tmp_path):
    for number, chosen in enumerate(itertools.combinations(COMBINED, count)):
        for order in ([*chosen, limits], [limits, *reversed(chosen)]):
            with misbehaving_server(quirks=order) as server:
                _, found = judge(server, tmp_path / f"{number}.db", make_pairs(1, 2))
                assert len(server.requests) - 2 <= 8
            assert len(grades(found)) == 2


def test_a_server_without_a_word_is_asked_in_every_way_and_no_more(tmp_path):
    with misbehaving_server([(range(999), "400")]) as server:
        with pytest.raises(JudgeError, match=r"no label in any of the \d+ request formats that were tried.*HTTP 400"):
            judge(server, tmp_path / "s.db", make_pairs(1, 1))
        assert len(server.requests) <= 22
    bodies = [json.dumps({k: v for k, v in one.body.items() if k != "messages"}) + one.user for one in server.requests]
    assert len(bodies) == len(set(zip(bodies, [len(one.body["messages"]) for one in server.requests], strict=True)))


@pytest.mark.parametrize(
    ("change", "quirks", "sent"),
    [
        ({"temperature": None}, [], {"temperature": None, "max_tokens": 1}),
        ({"temperature": 0.5}, [], {"temperature": 0.5}),
        ({"logprobs": False}, [], {"logprobs": None, "max_tokens": 8}),
        ({"limit_name": "max_completion_tokens"}, [], {"max_tokens": None, "max_completion_tokens": 1}),
        ({"reasoning_tokens": 500}, ["reasons_beside_null"], {"max_tokens": 508, "logprobs": None}),
        ({"system_role": False}, [], {"max_tokens": 1}),
    ],
)
def test_a_setting_fixes_a_part_of_the_request(change, quirks, sent, tmp_path):
    with misbehaving_server(quirks=quirks) as server:
        judge(server, tmp_path / "s.db", make_pairs(1, 1), **change)
        for request in server.requests:
            assert {name: request.body.get(name) for name in sent} == sent
            assert len(request.body["messages"]) == (1 if change.get("system_role") is False else 2)


def test_a_part_that_is_fixed_and_refused_is_an_error_that_names_it(tmp_path):
    for change, quirk in (
        ({"temperature": 0}, "default_temperature_only"), ({"logprobs": True}, "logprobs_forbidden"),
        ({"system_role": True}, "system_role_refused"), ({"reasoning_tokens": 0}, "reasons_beside_empty"),
        ({"limit_name": "max_tokens"}, "max_completion_tokens_only"),
    ):  # fmt: skip
        raises = pytest.raises(JudgeError, match=rf"no label in any.*judge\.{next(iter(change))}")
        with misbehaving_server(quirks=[quirk]) as server, raises:
            judge(server, tmp_path / "s.db", make_pairs(1, 1), **change)
    with pytest.raises(ValueError, match="logprobs are those of an answer's first token"):
        quick(logprobs=True, reasoning_tokens=100)
    assert quick(logprobs="on").logprobs is True  # YAML reads on and off as booleans


def test_a_search_that_is_interrupted_goes_on_where_it_stopped(tmp_path):
    with misbehaving_server([(2, "503")], quirks=["logprobs_forbidden", "default_temperature_only"]) as server:
        _, found = judge(server, tmp_path / "s.db", make_pairs(1, 1))
        assert len(server.requests) == 4 + 1
    assert statuses(found) == ["ok"]


def test_a_server_that_breaks_during_the_search_says_what_came_before(tmp_path):
    message = r"cannot be used: HTTP 500: .*Before that: \[temperature=0, max_tokens=8, no logprobs\]: .*found 'Well'"
    broken = [(range(1, 99), "500")]
    raises = pytest.raises(JudgeError, match=message)
    with misbehaving_server(broken, answer=lambda system, user: "Well") as server, raises:
        judge(server, tmp_path / "s.db", make_pairs(1, 1), logprobs=False)


def test_reasoning_that_takes_all_the_room_is_no_label_and_says_what_to_do(tmp_path):
    long = "alpha " * 50

    def answer(system, user):
        return "<think> it is long, YES or NO" if long in user else "YES"

    pairs = make_pairs(1, 2)
    pairs[1] = type(pairs[1])("q0", "p0-1", pairs[1].query, long)
    with misbehaving_server(answer=answer, logprobs=False) as server:
        _, found = judge(server, tmp_path / "s.db", pairs)
    assert statuses(found) == ["ok", "parse_failed"]
    assert "raise judge.reasoning_tokens" in found[1].judgement.reason


def test_the_record_of_a_run_says_how_the_server_was_asked(tmp_path):

    for quirk, expected in (
        ("system_role_refused", {**LOGPROBS, "system_role": False, "extra_body": {}}),
        ("default_temperature_only", {k: v for k, v in LOGPROBS.items() if k != "temperature"} | {"extra_body": {}}),
    ):
        with misbehaving_server(quirks=[quirk]) as server:
            judge(server, tmp_path / f"{quirk}.db", make_pairs(1, 1))
        with State(tmp_path / f"{quirk}.db", read_only=True) as state:
            assert state.run_record("run")["judge"]["parameters"] == expected


def test_answers_of_earlier_versions_are_found_again():
    """Their parameters, as they were kept."""
    for asked, kept in (
        (RequestFormat(), {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}),
        (RequestFormat(top_logprobs=5), {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}),
        (RequestFormat(top_logprobs=0), {"temperature": 0, "max_tokens": 8}),
        (RequestFormat("max_completion_tokens", top_logprobs=0), {"temperature": 0, "max_completion_tokens": 8}),
    ):
        ours, theirs = (
            judgement_key(JudgeIdentity("m", "m", "p", {**one, "extra_body": {}}), "q", "p")
            for one in (asked.identity, kept)
        )
        assert ours == theirs


def test_the_search_knows_every_format_once():
    search, seen = FormatSearch(quick()), []
    while (asked := search.next()) is not None:
        seen.append(asked)
        search.add_rejection(asked, "no", {})
    assert len(seen) == len(set(seen)) == 19
    assert seen[:5] == [
        RequestFormat(), RequestFormat(top_logprobs=5), RequestFormat("max_completion_tokens"),
        RequestFormat(top_logprobs=0), RequestFormat("max_completion_tokens", top_logprobs=0),
    ]  # fmt: skip
    assert {(one.temperature, one.system_role, one.reasoning_tokens > 0) for one in seen} == set(
        itertools.product((0.0, None), (True, False), (True, False))
    )


def test_hints_are_of_what_was_sent():
    asked = RequestFormat()
    assert read_hints("something is wrong", "", asked) == {}
    assert read_hints("Unknown parameter", "temperature", asked) == {"temperature": None}
    assert read_hints("Unknown parameter", "temperature", RequestFormat(temperature=None)) == {}
    assert read_hints("logprobs: no", "", RequestFormat(top_logprobs=0)) == {}
    assert read_hints("top_logprobs: no", "", RequestFormat(top_logprobs=5)) == {"top_logprobs": 0}
    assert read_hints("no 'max_completion_tokens' here", "", RequestFormat("max_completion_tokens")) == {
        "limit_name": "max_tokens"
    }


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("YES", "", "YES"),
        ("<think>\nNO?\n</think>\n\nYES", "<think>\nNO?\n", "\n\nYES"),
        ("NO? </think> YES", "NO? ", " YES"),
        ("<think></think>YES", "<think>", "YES"),
        ("<THINKING>NO</THINKING>YES", "<THINKING>NO", "YES"),
        (" <reasoning>YES", " <reasoning>YES", ""),
        ("<think>a</think>NO<think>b</think>YES", "<think>a</think>NO<think>b", "YES"),
        ("YES <think>", "", "YES <think>"),
        ("", "", ""),
    ],
)
def test_reasoning_and_answer_are_told_apart(text, reasoning, answer):
    assert split_reasoning(text) == (reasoning, answer)


def completion(**message):
    return read_completion(json.dumps({"model": "m", "choices": [{"message": message, "finish_reason": "length"}]}))


def test_content_in_every_form_is_read():
    assert completion(content=[{"type": "text", "text": "Y"}, {"type": "text", "text": "ES"}]).answer == "YES"
    for nothing in ({}, {"content": None}, {"content": []}, {"content": 7}, {"content": [{"type": "image"}, "x"]}):
        found = completion(**nothing)
        assert (found.answer, found.has_text, found.reasoning) == ("", False, "")
    found = completion(content=None, reasoning_content="YES, I think")
    assert (found.answer, found.reasoning, found.is_cut_off) == ("", "YES, I think", True)
    assert not completion(content="YES", reasoning="NO").is_cut_off


@pytest.mark.parametrize("mode", ["binary", "graded"])
def test_instructions_in_front_of_the_message_are_told_apart_again(mode):
    prompt = PROMPTS[mode]
    one, two = prompt.messages("a query", "a passage", False), prompt.messages("a query", "a passage")
    assert [message["role"] for message in one] == ["user"]
    assert read_messages(one) == read_messages(two) == ("a query", "a passage")
    assert split_instructions(one) == split_instructions(two) == (prompt.system, two[1]["content"])
    assert split_instructions([{"role": "user", "content": "hello"}]) == ("", "hello")


def test_a_spent_budget_is_said_at_once(tmp_path):
    with (
        misbehaving_server([(range(9), "402")]) as server,
        pytest.raises(JudgeError, match="its rights and its budget"),
    ):
        judge(server, tmp_path / "s.db", make_pairs(1, 1))
    assert len(server.requests) == 1


def test_reasoning_is_kept_apart_from_the_answer(tmp_path):
    pairs = make_pairs(1, 2)
    with (
        misbehaving_server(answer=lambda system, user: "<think>it says so</think>YES") as server,
        opened(tmp_path / "state.sqlite", pairs) as state,
    ):
        run_judge(pairs, load_judge(quick(server.base_url)), RunRecorder(state, RUN), quick(server.base_url))
        found = list(state.judged_pairs(RUN))
        assert {one.judgement.answer.strip() for one in found} == {"YES"}
        assert {state.reasoning(RUN, pair.query_id, pair.passage_id) for pair in pairs} == {"<think>it says so"}
        assert state.reasoning(RUN, "q0", "nobody") == ""


def test_a_state_of_an_earlier_version_has_no_reasoning_and_opens(tmp_path):
    pairs = make_pairs(1, 1)
    with opened(tmp_path / "state.sqlite", pairs):
        pass
    with sqlite3.connect(tmp_path / "state.sqlite") as db:
        db.execute("DROP TABLE reasonings")
    with State(tmp_path / "state.sqlite") as state:
        assert state.reasoning(RUN, "q0", "p0-0") == ""
