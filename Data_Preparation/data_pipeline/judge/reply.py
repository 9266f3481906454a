"""From the body of a chat completion to a judgement."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.judge.base import CallFailed, Judgement
from data_pipeline.judge.parsing import MOST_OUTSIDE, Reading, first_logprobs, parse_answer, read_logprobs

MOST_SHOWN = 200
"""Characters of a reply that a message quotes."""
CUT_OFF = (
    "the reply holds reasoning and no answer, since the token limit was reached or the model gave none; raise "
    "judge.reasoning_tokens, or turn reasoning off with judge.extra_body"
)
"""Why a reply of a model that reasons has no label."""


_REASONING = "think|thinking|thought|reasoning"
_OPENED = re.compile(rf"\s*<(?:{_REASONING})>", re.IGNORECASE)
_CLOSED = re.compile(rf"</(?:{_REASONING})>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion, checked for its form."""

    model: str
    """The model as the server names it; empty if it does not."""
    choice: Mapping[str, Any]
    """The first choice."""
    answer: str
    """The text of the message, without any reasoning."""
    refusal: str
    """Why the model or the server would not answer; empty otherwise."""
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: str = ""
    """What the model thought before it answered, as far as the server shows it."""
    has_text: bool = True
    """Whether the message has any text, an empty one included."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the token limit was reached before the answer began: while the model was reasoning, it seems."""
        cut = self.choice.get("finish_reason") == "length" or bool(self.reasoning)
        return cut and not self.answer.strip() and not self.refusal


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
    text, thoughts = _texts(message.get("content"))
    refusal, usage = message.get("refusal"), found.get("usage")
    if choice.get("finish_reason") == "content_filter":
        refusal = refusal or "stopped by the server's content filter"
    inline, answer = split_reasoning(text or "")
    beside = message.get("reasoning_content") or message.get("reasoning") or thoughts
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        model=str(found.get("model") or ""),
        choice=choice,
        answer=answer,
        refusal=str(refusal or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning=inline or (beside if isinstance(beside, str) else ""),
        has_text=text is not None,
    )


def split_reasoning(text: str) -> tuple[str, str]:
    """Reasoning and answer of a text that has both, `<think>...</think> YES`.

    The opening tag may be missing, since chat templates put it into the prompt; without the closing one the text was
    cut off, and there is no answer.
    """
    closed = list(_CLOSED.finditer(text))
    if closed:
        return text[: closed[-1].start()], text[closed[-1].end() :]
    return (text, "") if _OPENED.match(text) else ("", text)


def _texts(content: object) -> tuple[str | None, str]:
    """Text and reasoning of a message's content: a text, or a list of parts; None if there is no text."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return None, ""
    parts = [part for part in content if isinstance(part, dict)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    thoughts = "thinking" if any("thinking" in part for part in parts) else ""
    return ("".join(texts) if texts else None), thoughts


def to_judgement(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    """Judgement of a completion.

    Args:
        completion: the reply.
        labels: answer in lower case -> grade.
        logprobs: whether the server was asked for probabilities, and gave them before.

    Raises:
        CallFailed: probabilities were promised and are missing, or there is no text.
    """
    found = _read_answer(completion, labels, logprobs)
    return replace(
        found,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        reasoning=completion.reasoning,
    )


def _read_answer(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    answer = completion.answer
    if completion.refusal:
        return Judgement("refused", answer=answer or completion.refusal, reason=completion.refusal)
    if completion.reasoning and completion.is_cut_off:
        return Judgement("parse_failed", answer=answer, reason=CUT_OFF)
    if not completion.has_text:
        raise CallFailed(f"the reply's message has no text (finish_reason {completion.choice.get('finish_reason')!r})")
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
