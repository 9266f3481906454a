"""Request formats: where servers that speak OpenAI's chat API differ, and how the format that works is found.

Servers and models refuse different parts of a request: log-probabilities (many hosted models), `max_tokens` or
`max_completion_tokens` (OpenAI's newer models, older servers), `temperature` (GPT-5, o-series), the system role
(Gemma). Reasoning models need room for their reasoning before the answer. The best format is tried first; what a server
says about a refusal decides which one is tried next. A setting that fixes a part takes all other values of it away.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from data_pipeline.config.judge import JudgeConfig

ROOM = 2048
"""Tokens for the reasoning of a model that turns out to reason."""
# Room for a label in several tokens, and for an answer that says more to be recognised as such.
_ANSWER_TOKENS = 8
_MOST_LOGPROBS, _FEW_LOGPROBS = 20, 5
_LIMITS = ("max_tokens", "max_completion_tokens")

_NEEDS_ROOM = re.compile(
    r"could not finish|higher max_|output limit was reached"
    r"|max_\w*tokens\W.*(?:at least|minimum|greater than|too small)"
)
_SYSTEM_ROLE = re.compile(
    r"system.{0,20}(?:role|message|prompt|instruction)|role.{0,20}system|developer instruction|roles must alternate"
)


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """One way to ask a server for a label."""

    limit_name: str = "max_tokens"
    """Name of the parameter that limits the answer."""
    reasoning_tokens: int = 0
    """Tokens for reasoning before the answer."""
    top_logprobs: int = _MOST_LOGPROBS
    """Number of likeliest first tokens whose log-probabilities are asked for; 0 for none."""
    temperature: float | None = 0.0
    """None: not sent."""
    system_role: bool = True
    """Whether the instructions have a message of their own; otherwise they stand in front of the user's message."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parts of the request's body that this format decides."""
        # A label's probability is that of its first token; everything after it would be paid for and not used.
        limit = 1 if self.top_logprobs else _ANSWER_TOKENS + self.reasoning_tokens
        found: dict[str, Any] = {} if self.temperature is None else {"temperature": _plain(self.temperature)}
        found[self.limit_name] = limit
        if self.top_logprobs:
            found |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """What an answer may depend on; that of earlier versions where they had the same format."""
        return self.parameters | ({} if self.system_role else {"system_role": False})

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.parameters.items()]
        parts += ["no temperature"] if self.temperature is None else []
        parts += [] if self.top_logprobs else ["no logprobs"]
        parts += [] if self.system_role else ["no system role"]
        parts += [f"{self.reasoning_tokens} tokens for reasoning"] if self.reasoning_tokens else []
        return ", ".join(parts)


class FormatSearch:
    """The formats that settings allow, best first, those that were tried aside.

    Args:
        config: fixes parts of the format, or leaves them to the search.
    """

    def __init__(self, config: JudgeConfig) -> None:
        on = (_MOST_LOGPROBS, _FEW_LOGPROBS)
        logprobs = (*on, 0) if config.logprobs == "auto" else on if config.logprobs else (0,)
        self._choices: dict[str, tuple[Any, ...]] = {
            "reasoning_tokens": (0, ROOM) if config.reasoning_tokens == "auto" else (config.reasoning_tokens,),
            "system_role": (True, False) if config.system_role == "auto" else (config.system_role,),
            "temperature": (0.0, None) if config.temperature == "auto" else (config.temperature,),
            "top_logprobs": logprobs,
            "limit_name": _LIMITS if config.limit_name == "auto" else (config.limit_name,),
        }
        self.tried: dict[RequestFormat, str] = {}
        """Formats that gave no label, and what came back."""

    def next(self) -> RequestFormat | None:
        """The best format that was not tried yet; None if there is none left."""
        return next((one for one in self._formats() if one not in self.tried), None)

    def refused(self, tried: RequestFormat, said: str, hints: Mapping[str, Any]) -> None:
        """Note a refusal; what it hints at is preferred from now on."""
        self.tried[tried] = said
        for name, value in hints.items():
            if value in self._choices[name]:
                others = (choice for choice in self._choices[name] if choice != value)
                self._choices[name] = (value, *others)

    def no_label(self, tried: RequestFormat, said: str, needs_room: bool) -> None:
        """Note a reply without a label: what the server took is settled, the rest is not."""
        self.tried[tried] = said
        for name in ("limit_name", "temperature", "system_role"):
            self._choices[name] = (getattr(tried, name),)
        if 0 in self._choices["top_logprobs"]:
            self._choices["top_logprobs"] = (0,)
        if needs_room and ROOM in self._choices["reasoning_tokens"]:
            self._choices["reasoning_tokens"] = (ROOM,)

    def _formats(self) -> Iterator[RequestFormat]:
        choices = self._choices
        rooms, roles, temperatures = (choices[name] for name in ("reasoning_tokens", "system_role", "temperature"))
        first = (rooms[0], roles[0], temperatures[0])
        for room, role, temperature in product(rooms, roles, temperatures):
            # Log-probabilities are for the likeliest case alone: a server that refuses without a reason would
            # otherwise be asked twice as often.
            plain = (room, role, temperature) == first or 0 not in choices["top_logprobs"]
            for limit_name, top_logprobs in self._pairs():
                if (top_logprobs and plain and not room) or not top_logprobs:
                    yield RequestFormat(limit_name, room, top_logprobs, temperature, role)

    def _pairs(self) -> list[tuple[str, int]]:
        """Names of the limit and numbers of log-probabilities, best first."""
        limits, numbers = self._choices["limit_name"], self._choices["top_logprobs"]
        asked = [number for number in numbers if number]
        rest = [number for number in numbers if not number]
        found = [(limits[0], number) for number in asked] + [
            (limit, number) for limit in limits[1:] for number in asked[:1]
        ]
        without = [(limit, number) for limit in limits for number in rest]
        return without + found if numbers[0] == 0 else found + without


def hints_of(said: str, parameter: str, asked: RequestFormat) -> dict[str, Any]:
    """What a refusal says about the format: values of its parts that may be taken instead.

    Args:
        said: the server's message.
        parameter: the parameter that the server names, if it names one.
        asked: the format that was refused.

    Returns:
        Name of a field of `RequestFormat` -> value; empty if the refusal says nothing of the format.
    """
    text = f"{parameter} {said}".lower()
    if _NEEDS_ROOM.search(text):
        return {"reasoning_tokens": ROOM}
    other = _LIMITS[1 - _LIMITS.index(asked.limit_name)]
    fewer = _FEW_LOGPROBS if asked.top_logprobs > _FEW_LOGPROBS and "top_logprobs" in text else 0
    about = {
        "limit_name": (re.search(rf"\b{asked.limit_name}\b", text), other),
        "top_logprobs": (asked.top_logprobs and "logprob" in text, fewer),
        "temperature": (asked.temperature is not None and "temperature" in text, None),
        "system_role": (asked.system_role and _SYSTEM_ROLE.search(text), False),
    }
    return {name: value for name, (mentioned, value) in about.items() if mentioned}


def _plain(number: float) -> float | int:
    """Whole numbers as such: earlier versions sent and kept the temperature as 0."""
    return int(number) if number == int(number) else number
