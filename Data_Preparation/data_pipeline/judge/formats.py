"""Request formats: how servers with OpenAI's chat API differ, and the search for the format that works.

Servers and models reject different parts of a request: log-probabilities (many hosted models), `max_tokens` or
`max_completion_tokens` (OpenAI's newer models, older servers), `temperature` (GPT-5, o-series), the system role
(Gemma). Reasoning models need tokens for their reasoning before the answer. The best format is tried first; the
server's error message decides which one is tried next. A setting that fixes a part excludes all other values of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from data_pipeline.config.judge import JudgeConfig

REASONING_TOKENS = 2048
"""Token limit for the reasoning of a model that turns out to reason."""
# Enough for a label in several tokens, and to recognize an answer that holds more than a label.
_ANSWER_TOKENS = 8
_MANY_LOGPROBS, _FEW_LOGPROBS = 20, 5
_LIMITS = ("max_tokens", "max_completion_tokens")

_NEEDS_MORE_TOKENS = re.compile(
    r"could not finish|higher max_|output limit was reached"
    r"|max_\w*tokens\W.*(?:at least|minimum|greater than|too small)"
)
_SYSTEM_ROLE = re.compile(
    r"system.{0,20}(?:role|message|prompt|instruction)|role.{0,20}system|developer instruction|roles must alternate"
)


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """Parts of a request in which servers differ."""

    limit_name: str = "max_tokens"
    """Name of the parameter that limits the number of tokens."""
    reasoning_tokens: int = 0
    """Tokens for reasoning before the answer."""
    top_logprobs: int = _MANY_LOGPROBS
    """Number of likeliest first tokens whose log-probabilities are requested; 0 for none."""
    temperature: float | None = 0.0
    """Sampling temperature; None if it is not sent."""
    system_role: bool = True
    """Whether the instructions are a system message; otherwise they precede the user's message."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the request body."""
        # A label's probability is that of its first token; later tokens would be paid for and not used.
        limit = 1 if self.top_logprobs else _ANSWER_TOKENS + self.reasoning_tokens
        parameters: dict[str, Any] = {} if self.temperature is None else {"temperature": _whole(self.temperature)}
        parameters[self.limit_name] = limit
        if self.top_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return parameters

    @property
    def identity(self) -> dict[str, Any]:
        """Parts that may change an answer; as in earlier versions for the formats that those had."""
        return self.parameters | ({} if self.system_role else {"system_role": False})

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.parameters.items()]
        parts += ["no temperature"] if self.temperature is None else []
        parts += [] if self.top_logprobs else ["no logprobs"]
        parts += [] if self.system_role else ["no system role"]
        parts += [f"{self.reasoning_tokens} tokens for reasoning"] if self.reasoning_tokens else []
        return ", ".join(parts)


class FormatSearch:
    """Search for a format that works, among those that the settings allow.

    Args:
        config: fixes parts of the format, or leaves them to the search.
    """

    def __init__(self, config: JudgeConfig) -> None:
        counts = (_MANY_LOGPROBS, _FEW_LOGPROBS)
        logprobs = (*counts, 0) if config.logprobs == "auto" else counts if config.logprobs else (0,)
        self._choices: dict[str, tuple[Any, ...]] = {
            "reasoning_tokens": (0, REASONING_TOKENS)
            if config.reasoning_tokens == "auto"
            else (config.reasoning_tokens,),
            "system_role": (True, False) if config.system_role == "auto" else (config.system_role,),
            "temperature": (0.0, None) if config.temperature == "auto" else (config.temperature,),
            "top_logprobs": logprobs,
            "limit_name": _LIMITS if config.limit_name == "auto" else (config.limit_name,),
        }
        self.tried: dict[RequestFormat, str] = {}
        """Formats that gave no label, each with the server's reply."""

    def next(self) -> RequestFormat | None:
        """Best format that was not tried yet; None if there is none left."""
        return next((candidate for candidate in self._formats() if candidate not in self.tried), None)

    def add_rejection(self, tried: RequestFormat, reply: str, hints: Mapping[str, Any]) -> None:
        """Add a format that the server rejected; the values that its message hints at are preferred from now on."""
        self.tried[tried] = reply
        for name, value in hints.items():
            if value in self._choices[name]:
                others = (choice for choice in self._choices[name] if choice != value)
                self._choices[name] = (value, *others)

    def add_reply_without_label(self, tried: RequestFormat, reply: str, needs_more_tokens: bool) -> None:
        """Add a format that the server accepted and that gave no label; the parts it accepted are fixed."""
        self.tried[tried] = reply
        for name in ("limit_name", "temperature", "system_role"):
            self._choices[name] = (getattr(tried, name),)
        if 0 in self._choices["top_logprobs"]:
            self._choices["top_logprobs"] = (0,)
        if needs_more_tokens and REASONING_TOKENS in self._choices["reasoning_tokens"]:
            self._choices["reasoning_tokens"] = (REASONING_TOKENS,)

    def _formats(self) -> Iterator[RequestFormat]:
        choices = self._choices
        tokens, roles, temperatures = (choices[name] for name in ("reasoning_tokens", "system_role", "temperature"))
        first = (tokens[0], roles[0], temperatures[0])
        for reasoning_tokens, role, temperature in product(tokens, roles, temperatures):
            # Log-probabilities are tried with the first combination only: a server that rejects requests without a
            # reason would otherwise get twice as many.
            with_logprobs = (reasoning_tokens, role, temperature) == first or 0 not in choices["top_logprobs"]
            for limit_name, top_logprobs in self._limits_and_logprobs():
                if (top_logprobs and with_logprobs and not reasoning_tokens) or not top_logprobs:
                    yield RequestFormat(limit_name, reasoning_tokens, top_logprobs, temperature, role)

    def _limits_and_logprobs(self) -> list[tuple[str, int]]:
        """Names of the token limit with numbers of log-probabilities, best first."""
        limits, counts = self._choices["limit_name"], self._choices["top_logprobs"]
        positive = [count for count in counts if count]
        with_logprobs = [(limits[0], count) for count in positive]
        with_logprobs += [(limit, count) for limit in limits[1:] for count in positive[:1]]
        without = [(limit, 0) for limit in limits if 0 in counts]
        return without + with_logprobs if counts[0] == 0 else with_logprobs + without


def read_hints(message: str, parameter: str, rejected: RequestFormat) -> dict[str, Any]:
    """Read from an error message which parts of the format the server may accept instead.

    Args:
        message: the server's error message.
        parameter: the parameter that the server names, if it names one.
        rejected: the format of the request.

    Returns:
        Field of `RequestFormat` -> value; empty if the message says nothing about the format.
    """
    text = f"{parameter} {message}".lower()
    if _NEEDS_MORE_TOKENS.search(text):
        return {"reasoning_tokens": REASONING_TOKENS}
    other = _LIMITS[1 - _LIMITS.index(rejected.limit_name)]
    fewer = _FEW_LOGPROBS if rejected.top_logprobs > _FEW_LOGPROBS and "top_logprobs" in text else 0
    mentions = {
        "limit_name": (re.search(rf"\b{rejected.limit_name}\b", text), other),
        "top_logprobs": (rejected.top_logprobs and "logprob" in text, fewer),
        "temperature": (rejected.temperature is not None and "temperature" in text, None),
        "system_role": (rejected.system_role and _SYSTEM_ROLE.search(text), False),
    }
    return {name: value for name, (mentioned, value) in mentions.items() if mentioned}


def _whole(number: float) -> float | int:
    """Convert whole numbers to int: earlier versions sent and stored the temperature as 0."""
    return int(number) if number == int(number) else number
