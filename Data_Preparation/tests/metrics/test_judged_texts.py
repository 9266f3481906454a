import logging

import numpy as np
import pytest
from pydantic import ValidationError

from data_pipeline.errors import JudgeError
from data_pipeline.judge import CallFailedError, Judgement, ScriptedJudge
from data_pipeline.judge.cache import JudgementCache
from data_pipeline.judge.prompts import TEXT_PROMPT, read_messages
from data_pipeline.metrics.judged import JudgedTextsConfig, judged_texts
from data_pipeline.testing import misbehaving_server

TEXTS = ["a clear text", "murky, oh so murky", "another clear one", "murky again", "", "a clear text", "half \ud800"]


def config(base_url="http://127.0.0.1:9/v1", question=None, **changes):
    judge = {
        "base_url": base_url, "model": "tiny-judge", "slots": 4, "tries": 2, "backoff_s": 0.01, "max_backoff_s": 0.02,
        "flush_s": 0.02, "breaker_window": 1000,
    }  # fmt: skip
    more = {} if question is None else {"question": question}
    return JudgedTextsConfig(judge=judge | changes, **more)


def clear(question, text):
    return 0 if "murky" in text else 3


def values(texts, path, script, settings=None):
    judge = script if isinstance(script, ScriptedJudge) else ScriptedJudge(script)
    return judged_texts(texts, settings or config(), path, judge=judge)["llm_judge"]


def test_each_text_alone_is_asked_about(tmp_path):
    judge = ScriptedJudge(clear)
    found = judged_texts(TEXTS, config(), tmp_path / "new" / "state.db", judge=judge)
    assert list(found) == ["llm_judge"]
    assert found["llm_judge"].dtype == np.float64
    assert found["llm_judge"].tolist() == [1, 0, 1, 0, 1, 1, 1]
    assert {question for question, _ in judge.calls} == {config().question}
    assert sorted(text for _, text in judge.calls) == sorted(set(TEXTS))  # the text that is there twice, once


def test_grades_are_thirds_and_probabilities_are_kept(tmp_path):
    answers = {"a": 1, "b": 2, "c": Judgement("ok", grade=3, p=0.875), "d": Judgement("ok", grade=0, p=0.25)}
    found = values(list(answers), tmp_path / "state.db", lambda question, text: answers[text])
    assert found.tolist() == [1 / 3, 2 / 3, 0.875, 0.25]


def test_failures_are_no_answers_and_the_next_run_asks_again(tmp_path, caplog):
    answers = {
        "ok": 3, "failed": CallFailedError("overloaded"), "final": CallFailedError("too long", final=True),
        "refused": Judgement("refused", reason="no"), "chatter": Judgement("parse_failed", answer="Well", reason="?"),
    }  # fmt: skip
    path = tmp_path / "state.db"
    with caplog.at_level(logging.WARNING):
        found = values(list(answers), path, lambda question, text: answers[text])
    assert found[0] == 1
    assert np.isnan(found[1:]).all()
    assert "4 of 5 texts have no answer (parse_failed: 1, refused: 1, failed: 1, failed_final: 1)" in caplog.text
    caplog.clear()
    judge = ScriptedJudge(lambda question, text: 0)
    assert values(list(answers), path, judge).tolist() == [1, 0, 0, 0, 0]
    assert sorted(text for _, text in judge.calls) == ["chatter", "failed", "final", "refused"]
    assert not caplog.records


def test_a_run_that_was_cut_short_goes_on(tmp_path, caplog):
    texts, path = [f"text {row}" for row in range(30)], tmp_path / "state.db"
    first = values(texts, path, lambda question, text: 3, config(max_calls=12))
    assert np.isnan(first).sum() == 18
    assert "18 of 30 texts have no answer (not asked: 18)" in caplog.text
    judge = ScriptedJudge(lambda question, text: 3)
    assert values(texts, path, judge).tolist() == [1] * 30
    assert len(judge.calls) == 18


def test_a_broken_judge_stops_the_run_and_answers_are_kept(tmp_path):
    texts, path = [f"text {row}" for row in range(40)], tmp_path / "state.db"

    def ill(question, text):
        return 3 if int(text.split()[1]) < 10 else CallFailedError("down")

    with pytest.raises(JudgeError, match="of the last 10 calls failed"):
        values(texts, path, ill, config(breaker_window=10, slots=1))
    judge = ScriptedJudge(clear)
    assert values(texts, path, judge).tolist() == [1] * 40
    assert len(judge.calls) == 30


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda question, text: CallFailedError("down"), r"no label at all \(3 failed\).*For example: down\."),
        (lambda question, text: Judgement("refused", answer="I will not", reason="policy"),
         r"3 refused\).*For example: policy, answer 'I will not'"),
    ],
)  # fmt: skip
def test_no_answer_at_all_is_a_failed_run(tmp_path, script, message):
    texts, path = ["one", "two", "three"], tmp_path / "state.db"
    with pytest.raises(JudgeError, match=message):
        values(texts, path, script)
    assert values(texts, path, clear).tolist() == [1, 1, 1]


def test_one_state_has_many_questions_and_texts(tmp_path):
    path = tmp_path / "state.db"
    judge = ScriptedJudge(lambda question, text: 3 if question in text else 0)
    assert values(["ab", "b"], path, judge, config(question="a")).tolist() == [1, 0]
    assert values(["ab", "b"], path, judge, config(question="b")).tolist() == [1, 1]
    assert len(judge.calls) == 4
    assert values(["b", "ab", "c"], path, judge, config(question="a")).tolist() == [0, 1, 0]
    assert len(judge.calls) == 5
    assert values([], path, judge).tolist() == []
    with JudgementCache(path, read_only=True) as cache:
        cache.verify()


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_server_is_asked_the_question(tmp_path, logprobs):
    pytest.importorskip("openai", reason="needs the extra weak-labels")

    def answer(system, user):
        question, text = read_messages([{"content": user}])
        return "YES" if question == "Is it clear?" and clear(question, text) else "NO"

    with misbehaving_server(answer=answer, logprobs=logprobs) as server:
        found = judged_texts(TEXTS[:5], config(server.base_url, "Is it clear?"), tmp_path / "state.db")["llm_judge"]
        assert {request.system for request in server.requests} == {TEXT_PROMPT.system}
    # The server gives the answer 0.8 of the probability, the other label 0.15.
    yes, no = (0.8 / 0.95, 0.15 / 0.95) if logprobs else (1, 0)
    np.testing.assert_allclose(found, [yes, no, yes, no, yes], rtol=1e-6)


@pytest.mark.parametrize("fault", ["500", "400", "truncated", "garbage", "chatter", "refusal", "outside_labels"])
def test_no_failure_becomes_a_value(fault, tmp_path):
    pytest.importorskip("openai", reason="needs the extra weak-labels")

    def ill(number, user):
        return number > 0 and "murky" in user

    with misbehaving_server([(ill, fault)], answer=lambda system, user: "YES") as server:
        found = judged_texts(TEXTS[:5], config(server.base_url), tmp_path / "state.db")["llm_judge"]
    assert np.isnan(found).tolist() == [False, True, False, True, False]
    assert (found[[0, 2, 4]] > 0.8).all()


def test_other_judges_have_no_place_here():
    for wrong in ({"judge": "similarity"}, {"mode": "graded"}):
        with pytest.raises(ValidationError, match="answered YES or NO by a language model"):
            config(**wrong)
    with pytest.raises(ValidationError):
        config(question="")
