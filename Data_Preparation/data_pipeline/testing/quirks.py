"""Quirks of OpenAI-compatible servers, as behaviours of the scripted server.

A quirk rejects a request by its body, or changes the reply. Several can be combined, such as those of
OpenAI's reasoning models:

    misbehaving_server(quirks=["max_completion_tokens_only", "default_temperature_only", "logprobs_forbidden"])
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

Quirk = Literal[
    "max_completion_tokens_only", "max_tokens_only", "default_temperature_only", "logprobs_forbidden",
    "logprobs_unsupported", "few_logprobs", "system_role_refused", "roles_alternate", "reasons_with_an_error",
    "least_tokens", "refuses_without_reason", "model_missing", "wait_in_the_text", "reasons_beside_null",
    "reasons_beside_empty", "reasons_inline", "reasons_inline_without_limit", "reasons_after_the_prompt", "no_content",
    "content_in_parts", "thinking_in_parts", "bold", "sentence", "answer_after_a_colon", "no_alternatives",
    "completions_logprobs", "changing_model",
]  # fmt: skip
"""Names of the quirks; `REFUSALS` and `CHANGES` define them."""

QUIRKS: tuple[Quirk, ...] = get_args(Quirk)

Body: TypeAlias = Mapping[str, Any]
Refusal: TypeAlias = tuple[int, dict[str, Any]]
"""HTTP status and body of an error."""

_REASONING_TOKENS = 200
"""Number of tokens of the reasoning in the reasoning quirks."""
_THOUGHTS = "The query asks about something, so does the passage answer it?"


def token_limit(body: Body) -> int:
    """Token limit of a request, by either name."""
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 10**9)


def _error(status: int, message: str, parameter: str | None = None, code: str | None = None) -> Refusal:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}}


def _max_completion_tokens_only(body: Body) -> Refusal | None:
    """Refuse max_tokens, as OpenAI's models since the o-series do."""
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    return _error(400, message, "max_tokens", "unsupported_parameter") if "max_tokens" in body else None


def _max_tokens_only(body: Body) -> Refusal | None:
    """Refuse max_completion_tokens, as older servers that check their input do."""
    message = "body.max_completion_tokens: Extra inputs are not permitted"
    return _error(422, message) if "max_completion_tokens" in body else None


def _default_temperature_only(body: Body) -> Refusal | None:
    """Refuse any temperature but the default, as GPT-5 and the o-series do."""
    message = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
    return _error(400, message, "temperature", "unsupported_value") if body.get("temperature", 1) != 1 else None


def _logprobs_forbidden(body: Body) -> Refusal | None:
    """Refuse log-probabilities with the status of a wrong key, as hosted models do."""
    return _error(403, "You are not allowed to request logprobs from this model") if body.get("logprobs") else None


def _logprobs_unsupported(body: Body) -> Refusal | None:
    """Refuse log-probabilities, as Groq and reasoning models do."""
    message = "logprobs are not supported with this model"
    return _error(400, message, "logprobs", "unsupported_parameter") if body.get("logprobs") else None


def _few_logprobs(body: Body) -> Refusal | None:
    """Refuse more than five log-probabilities."""
    message = "top_logprobs must be between 0 and 5"
    return _error(400, message, "top_logprobs") if body.get("top_logprobs", 0) > 5 else None


def _system_role_refused(body: Body) -> Refusal | None:
    """Refuse the system role in the form of vLLM's errors, as Gemma does."""
    if body["messages"][0]["role"] != "system":
        return None
    return 400, {"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}


def _roles_alternate(body: Body) -> Refusal | None:
    """Refuse the system role, as older Mistral templates do."""
    message = "Conversation roles must alternate user/assistant/user/assistant/..."
    return _error(400, message) if body["messages"][0]["role"] == "system" else None


def _reasons_with_an_error(body: Body) -> Refusal | None:
    """Refuse a token limit that is lower than the reasoning, as the o-series does."""
    message = (
        "Could not finish the message because max_tokens or model output limit was reached. "
        "Please try again with higher max_tokens."
    )
    return _error(400, message) if token_limit(body) < _REASONING_TOKENS else None


def _least_tokens(body: Body) -> Refusal | None:
    """Refuse a token limit below 16."""
    message = "Invalid 'max_tokens': integer below minimum value. Expected a value of at least 16."
    return _error(400, message, "max_tokens") if token_limit(body) < 16 else None


def _refuses_without_reason(body: Body) -> Refusal | None:
    """Refuse every request with optional fields or a system role, without a reason."""
    plain = {"messages", "model", "max_tokens"}
    return _error(400, "Bad Request") if body.keys() - plain or body["messages"][0]["role"] == "system" else None


def _model_missing(body: Body) -> Refusal | None:
    """Refuse every request, as Ollama does without the model."""
    return _error(404, f'model "{body["model"]}" not found, try pulling it first')


def _wait_in_the_text(body: Body) -> Refusal | None:
    """Refuse every request with a rate limit that gives the pause in its text only."""
    del body
    return _error(429, "Rate limit reached for requests. Please try again in 20ms.", None, "rate_limit_exceeded")


REFUSALS: Mapping[str, Callable[[Body], Refusal | None]] = {
    "max_completion_tokens_only": _max_completion_tokens_only,
    "max_tokens_only": _max_tokens_only,
    "default_temperature_only": _default_temperature_only,
    "logprobs_forbidden": _logprobs_forbidden,
    "logprobs_unsupported": _logprobs_unsupported,
    "few_logprobs": _few_logprobs,
    "system_role_refused": _system_role_refused,
    "roles_alternate": _roles_alternate,
    "reasons_with_an_error": _reasons_with_an_error,
    "least_tokens": _least_tokens,
    "refuses_without_reason": _refuses_without_reason,
    "model_missing": _model_missing,
    "wait_in_the_text": _wait_in_the_text,
}
"""Quirks that refuse requests: each takes the body, and returns status and body of the error, or None to accept."""


def _think(message: dict[str, Any], choice: dict[str, Any], content: str | None, **beside: str) -> None:
    """Change a reply to one that the token limit cut off in the middle of the reasoning."""
    message.update(content=content, **beside)
    choice["finish_reason"] = "length"
    if choice["logprobs"] is not None:
        choice["logprobs"] = logprobs_of({"<think>": 0.999})


def _reasons_beside(empty: str | None, field: str) -> Callable[[Body, dict[str, Any]], None]:
    def change(body: Body, reply: dict[str, Any]) -> None:
        choice = reply["choices"][0]
        if token_limit(body) < _REASONING_TOKENS:
            _think(choice["message"], choice, empty, **{field: _THOUGHTS})
        else:
            choice["message"].update({"content": f"\n\n{choice['message']['content']}", field: _THOUGHTS})
            choice["logprobs"] = None

    return change


def _reasons_inline(body: Body, reply: dict[str, Any]) -> None:
    choice = reply["choices"][0]
    if token_limit(body) < _REASONING_TOKENS:
        _think(choice["message"], choice, f"<think>\n{_THOUGHTS[:20]}")
    else:
        _reasons_inline_without_limit(body, reply)


def _reasons_inline_without_limit(body: Body, reply: dict[str, Any]) -> None:
    del body
    choice = reply["choices"][0]
    choice["message"]["content"] = f"<think>\n{_THOUGHTS} NO or YES?\n</think>\n\n{choice['message']['content']}"
    choice.update(finish_reason="stop", logprobs=None)


def _reasons_after_the_prompt(body: Body, reply: dict[str, Any]) -> None:
    _reasons_inline_without_limit(body, reply)
    message = reply["choices"][0]["message"]
    message["content"] = message["content"].removeprefix("<think>")


def _no_content(body: Body, reply: dict[str, Any]) -> None:
    del body
    choice = reply["choices"][0]
    del choice["message"]["content"]
    choice["logprobs"] = None


def _content_in_parts(body: Body, reply: dict[str, Any]) -> None:
    del body
    message = reply["choices"][0]["message"]
    message["content"] = [{"type": "text", "text": message["content"]}]


def _thinking_in_parts(body: Body, reply: dict[str, Any]) -> None:
    _content_in_parts(body, reply)
    choice = reply["choices"][0]
    thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": _THOUGHTS}]}
    has_answer = token_limit(body) >= _REASONING_TOKENS
    choice["message"]["content"] = [thoughts, *(choice["message"]["content"] if has_answer else [])]
    choice["logprobs"] = None


def _reword(form: str) -> Callable[[Body, dict[str, Any]], None]:
    def change(body: Body, reply: dict[str, Any]) -> None:
        del body
        choice = reply["choices"][0]
        choice["message"]["content"] = form.format(choice["message"]["content"])
        choice["logprobs"] = None

    return change


def _no_alternatives(body: Body, reply: dict[str, Any]) -> None:
    choice = reply["choices"][0]
    if body.get("logprobs"):
        token = {"token": choice["message"]["content"], "logprob": -0.1, "bytes": None, "top_logprobs": []}
        choice["logprobs"] = {"content": [token]}


def _completions_logprobs(body: Body, reply: dict[str, Any]) -> None:
    choice = reply["choices"][0]
    if body.get("logprobs"):
        label = choice["message"]["content"]
        choice["logprobs"] = {"tokens": [label], "token_logprobs": [-0.1], "top_logprobs": [{label: -0.1}]}


def _changing_model(body: Body, reply: dict[str, Any]) -> None:
    del body
    reply["model"] += "-a" if int(reply["id"].rsplit("-", 1)[-1]) % 2 else "-b"


CHANGES: Mapping[str, Callable[[Body, dict[str, Any]], None]] = {
    "reasons_beside_null": _reasons_beside(None, "reasoning_content"),
    "reasons_beside_empty": _reasons_beside("", "reasoning"),
    "reasons_inline": _reasons_inline,
    "reasons_inline_without_limit": _reasons_inline_without_limit,
    "reasons_after_the_prompt": _reasons_after_the_prompt,
    "no_content": _no_content,
    "content_in_parts": _content_in_parts,
    "thinking_in_parts": _thinking_in_parts,
    "bold": _reword("**{}**"),
    "sentence": _reword("{}. The passage is about it"),
    "answer_after_a_colon": _reword("Answer: {}"),
    "no_alternatives": _no_alternatives,
    "completions_logprobs": _completions_logprobs,
    "changing_model": _changing_model,
}
"""Quirks that change replies: each takes the body and the reply, and changes the reply in place."""


def refusal_of(quirks: Sequence[str], body: Body) -> Refusal | None:
    """First refusal of a request by the given quirks; None if all accept it."""
    refusals = (REFUSALS[quirk](body) for quirk in quirks if quirk in REFUSALS)
    return next((refusal for refusal in refusals if refusal is not None), None)


def change_reply(quirks: Sequence[str], body: Body, reply: dict[str, Any]) -> dict[str, Any]:
    """Change a reply by the given quirks, in their order."""
    for quirk in quirks:
        if quirk in CHANGES:
            CHANGES[quirk](body, reply)
    return reply


def logprobs_of(shares: Mapping[str, float]) -> dict[str, Any]:
    """Log-probabilities of a first token in the format of the chat API.

    Args:
        shares: probabilities by token; the first token is the one that was sampled.
    """
    top = [{"token": token, "logprob": math.log(share), "bytes": None} for token, share in shares.items()]
    return {"content": [{**top[0], "top_logprobs": top}]}
