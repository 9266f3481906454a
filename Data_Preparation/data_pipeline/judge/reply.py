"""Conversion of the body of a chat completion to a judgement."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from data_pipeline.judge.base import CallFailedError, Judgement
from data_pipeline.judge.parsing import MAX_OUTSIDE, Reading, first_logprobs, parse_answer, read_logprobs

MAX_QUOTED_CHARS = 200
"""Number of characters of a reply that a message quotes at most."""
NO_ANSWER = (
    "the reply holds reasoning and no answer, because the token limit was reached or the model gave none; raise "
    "judge.reasoning_tokens, or turn reasoning off with judge.extra_body"
)
"""Reason why a reply with reasoning has no label."""

_REASONING = "think|thinking|thought|reasoning"
_OPENING_TAG = re.compile(rf"\s*<(?:{_REASONING})>", re.IGNORECASE)
_CLOSING_TAG = re.compile(rf"</(?:{_REASONING})>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Completion:
    """One chat completion whose structure was checked."""

    model: str
    """Model name that the server reports; empty if it reports none."""
    choice: Mapping[str, Any]
    """First choice of the reply."""
    answer: str
    """Text of the message, without reasoning."""
    refusal: str
    """Reason why the model or the server refused to answer; empty otherwise."""
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: str = ""
    """Reasoning of the model before its answer, as far as the server reports it."""
    has_text: bool = True
    """Whether the message has a text, which may be empty."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the reply ended before the answer began, presumably while the model was reasoning."""
        ended_early = self.choice.get("finish_reason") == "length" or bool(self.reasoning)
        return ended_early and not self.answer.strip() and not self.refusal


def read_completion(body: str) -> Completion:
    """Read a reply with status 200.

    Raises:
        CallFailedError: the body is not a chat completion: cut off, of another structure, or without a choice.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CallFailedError(f"the reply is not JSON: {body[:MAX_QUOTED_CHARS]!r}") from error
    if not isinstance(reply, dict):
        raise CallFailedError(f"the reply is not an object: {body[:MAX_QUOTED_CHARS]!r}")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise CallFailedError(f"the reply has no choices: {body[:MAX_QUOTED_CHARS]!r}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise CallFailedError(f"the reply's choice has no message: {body[:MAX_QUOTED_CHARS]!r}")
    text, reasoning_part = _split_parts(message.get("content"))
    refusal, usage = message.get("refusal"), reply.get("usage")
    if choice.get("finish_reason") == "content_filter":
        refusal = refusal or "stopped by the server's content filter"
    inline, answer = split_reasoning(text or "")
    separate = message.get("reasoning_content") or message.get("reasoning") or reasoning_part
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        model=str(reply.get("model") or ""),
        choice=choice,
        answer=answer,
        refusal=str(refusal or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        reasoning=inline or (separate if isinstance(separate, str) else ""),
        has_text=text is not None,
    )


def split_reasoning(text: str) -> tuple[str, str]:
    """Split a text such as `<think>...</think> YES` into reasoning and answer.

    The opening tag may be missing, since chat templates put it into the prompt. Without a closing tag the text was cut
    off, and there is no answer.
    """
    closing_tags = list(_CLOSING_TAG.finditer(text))
    if closing_tags:
        return text[: closing_tags[-1].start()], text[closing_tags[-1].end() :]
    return (text, "") if _OPENING_TAG.match(text) else ("", text)


def _split_parts(content: object) -> tuple[str | None, str]:
    """Split a message's content, a text or a list of parts, into text and reasoning; None if it has no text."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return None, ""
    parts = [part for part in content if isinstance(part, dict)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    reasoning = "thinking" if any("thinking" in part for part in parts) else ""
    return ("".join(texts) if texts else None), reasoning


def to_judgement(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    """Convert a completion to a judgement.

    Args:
        completion: reply of the server.
        labels: answer in lower case -> grade.
        logprobs: whether log-probabilities were requested; the server reported them when the judge was opened.

    Raises:
        CallFailedError: the log-probabilities or the text are missing.
    """
    judgement = _read_answer(completion, labels, logprobs)
    return replace(
        judgement,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        reasoning=completion.reasoning,
    )


def _read_answer(completion: Completion, labels: Mapping[str, int], logprobs: bool) -> Judgement:
    answer = completion.answer
    if completion.refusal:
        return Judgement("refused", answer=answer or completion.refusal, reason=completion.refusal)
    if completion.reasoning and completion.is_cut_off:
        return Judgement("parse_failed", answer=answer, reason=NO_ANSWER)
    if not completion.has_text:
        raise CallFailedError(
            f"the reply's message has no text (finish_reason {completion.choice.get('finish_reason')!r})"
        )
    grade = parse_answer(answer, labels)
    if not logprobs:
        if grade is None:
            return Judgement("parse_failed", answer=answer, reason=_describe_unexpected(answer, labels))
        return Judgement("ok", grade=grade, answer=answer)
    try:
        top = first_logprobs(completion.choice)
        reading = read_logprobs(top, labels) if top else None
    except ValueError as error:
        return Judgement("parse_failed", answer=answer, reason=str(error))
    if not top:
        # Another server behind the same address, perhaps; its answers are not comparable.
        raise CallFailedError("the reply has no logprobs, though the server gave them at the start")
    reason = _reason_for_no_label(answer, grade, reading, labels)
    if reason or reading is None:
        return Judgement("parse_failed", answer=answer, outside=reading.outside if reading else 1.0, reason=reason)
    return Judgement("ok", answer=answer, **asdict(reading))


def _reason_for_no_label(answer: str, grade: int | None, reading: Reading | None, labels: Mapping[str, int]) -> str:
    """Give the reason why an answer with probabilities is not a label; empty if it is one."""
    if grade is None and len(answer.split()) > 1:
        return _describe_unexpected(answer, labels)
    if reading is None:
        problem = f"none of the likeliest tokens is one of {_join_labels(labels)}"
    elif reading.outside > MAX_OUTSIDE:
        problem = f"{reading.outside:.2f} of the probability is on answers other than {_join_labels(labels)}"
    else:
        return ""
    return f"{problem}; the answer was {answer[:MAX_QUOTED_CHARS]!r}"


def _describe_unexpected(answer: str, labels: Mapping[str, int]) -> str:
    return f"expected one of {_join_labels(labels)} and nothing else, found {answer[:MAX_QUOTED_CHARS]!r}"


def _join_labels(labels: Mapping[str, int]) -> str:
    return ", ".join(name.upper() for name in labels)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
