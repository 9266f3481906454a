"""From the body of a chat completion to a judgement."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.weak_labels.judge.base import CallFailed, Judgement
from data_pipeline.weak_labels.judge.parsing import MOST_OUTSIDE, Reading, first_logprobs, parse_answer, read_logprobs

MOST_SHOWN = 200
"""Characters of a reply that a message quotes."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion, checked for its form."""

    model: str
    """As the server names it; empty where it does not."""
    choice: Mapping[str, Any]
    """The first one."""
    answer: str
    refusal: str
    prompt_tokens: int | None
    completion_tokens: int | None


def read_completion(body: str) -> Completion:
    """Read a reply with status 200.

    Raises:
        CallFailed: it is no chat completion: cut off, of another form, or without a choice.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallFailed(f"the reply is not JSON: {body[:MOST_SHOWN]!r}") from error
    if not isinstance(found, dict):
        raise CallFailed(f"the reply is not an object: {body[:MOST_SHOWN]!r}")
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices:
        raise CallFailed(f"the reply has no choices: {body[:MOST_SHOWN]!r}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise CallFailed(f"the reply's choice has no message: {body[:MOST_SHOWN]!r}")
    answer, refusal, usage = message.get("content"), message.get("refusal"), found.get("usage")
    if choice.get("finish_reason") == "content_filter":
        refusal = refusal or "stopped by the server's content filter"
    if not isinstance(answer, str) and not refusal:
        raise CallFailed(f"the reply's message has no text: {body[:MOST_SHOWN]!r}")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        model=str(found.get("model") or ""),
        choice=choice,
        answer=answer if isinstance(answer, str) else "",
        refusal=str(refusal or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def to_judgement(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    """What a completion says.

    Args:
        completion: the reply.
        labels: answer in lower case -> grade.
        logprobs: the server was asked for probabilities, and gave them before.

    Raises:
        CallFailed: probabilities were promised, and are missing.
    """
    found = _read_answer(completion, labels, logprobs)
    return replace(found, prompt_tokens=completion.prompt_tokens, completion_tokens=completion.completion_tokens)


def _read_answer(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    answer = completion.answer
    if completion.refusal:
        return Judgement("refused", answer=answer or completion.refusal, reason=completion.refusal)
    grade = parse_answer(answer, labels)
    if not logprobs:
        if grade is None:
            return Judgement("parse_failed", answer=answer, reason=_not_a_label(answer, labels))
        return Judgement("ok", grade=grade, answer=answer)
    try:
        top = first_logprobs(completion.choice)
        reading = read_logprobs(top, labels) if top else None
    except ValueError as error:
        return Judgement("parse_failed", answer=answer, reason=str(error))
    if not top:
        # Another server behind the same address, perhaps; its answers are not comparable.
        raise CallFailed("the reply has no logprobs, though the server gave them at the start")
    reason = _fault(answer, grade, reading, labels)
    if reason or reading is None:
        return Judgement("parse_failed", answer=answer, outside=reading.outside if reading else 1.0, reason=reason)
    return Judgement(
        "ok",
        grade=reading.grade,
        p=reading.p,
        confidence=reading.confidence,
        outside=reading.outside,
        answer=answer,
    )


def _fault(answer: str, grade: int | None, reading: Reading | None, labels: Mapping[str, int]) -> str:
    """Why an answer with probabilities is none; empty where it is one."""
    if grade is None and len(answer.split()) > 1:
        return _not_a_label(answer, labels)
    if reading is None:
        return f"none of the likeliest tokens is one of {_names(labels)}; the answer was {answer[:MOST_SHOWN]!r}"
    if reading.outside > MOST_OUTSIDE:
        return (
            f"{reading.outside:.2f} of the probability is on answers other than {_names(labels)}; "
            f"the answer was {answer[:MOST_SHOWN]!r}"
        )
    return ""


def _not_a_label(answer: str, labels: Mapping[str, int]) -> str:
    return f"expected one of {_names(labels)} and nothing else, found {answer[:MOST_SHOWN]!r}"


def _names(labels: Mapping[str, int]) -> str:
    return ", ".join(name.upper() for name in labels)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
