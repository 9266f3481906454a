"""State of the scripted server: the faults it can have, and the requests it has got."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from data_pipeline.testing.embedding_replies import Embed, EmbeddingFault, simulated_vectors

Fault = Literal[
    "429", "429_date", "500", "503", "400", "401", "402", "403", "404", "422", "context_length", "content_filter",
    "quota", "hang", "trickle", "truncated", "garbage", "html", "not_an_object", "empty_choices", "null_content",
    "chatter", "wrong_model", "refusal", "reset", "no_logprobs", "bad_logprobs", "outside_labels",
]  # fmt: skip
"""Faults of one reply. A number is an HTTP status; 429 and 503 have a Retry-After header in seconds, 429_date one with
a date. hang: no reply; trickle: one byte at a time, without end; truncated: the first half of the reply; reset: the
connection is reset; chatter: more text than a label."""

FAULTS: tuple[Fault, ...] = get_args(Fault)

When = int | range | Callable[[int, str], bool]
"""Requests with a fault: a number from 0, a range of numbers, or a predicate of number and user message, or of number
and texts, one a line."""

Answer = Callable[[str, str], str]
"""Takes system prompt and user message, and returns the text of the reply."""

STATUS: Mapping[str, tuple[int, str]] = {
    "429": (429, "rate_limit_exceeded"),
    "429_date": (429, "rate_limit_exceeded"),
    "500": (500, "server_error"),
    "503": (503, "overloaded"),
    "400": (400, "invalid_request"),
    "401": (401, "invalid_api_key"),
    "402": (402, "insufficient_balance"),
    "403": (403, "permission_denied"),
    "404": (404, "not_found"),
    "422": (422, "unprocessable"),
    "context_length": (400, "context_length_exceeded"),
    "content_filter": (400, "content_filter"),
    "quota": (429, "insufficient_quota"),
}
"""HTTP status and error code of faults that are errors."""


@dataclass(frozen=True, slots=True)
class Request:
    """One chat request, without its headers."""

    number: int
    """Number of the request, from 0."""
    system: str
    """System prompt."""
    user: str
    """User message."""
    body: dict[str, Any]
    """Body of the request."""
    fault: Fault | None
    """Fault of the reply."""
    at_s: float
    """Time of arrival in seconds of `time.monotonic`."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One request for embeddings, without its headers."""

    number: int
    """Number of the request, from 0."""
    texts: list[str]
    body: dict[str, Any]
    """Body of the request."""
    fault: Fault | EmbeddingFault | None
    """Fault of the reply."""
    at_s: float
    """Time of arrival in seconds of `time.monotonic`."""


@dataclass
class JudgeServer:
    """State of a running server."""

    base_url: str = ""
    """Base URL of its API."""
    requests: list[Request] = field(default_factory=list)
    """All chat requests in the order of their arrival, without API keys."""
    embedding_requests: list[EmbeddingRequest] = field(default_factory=list)
    """All requests for embeddings in the order of their arrival, without API keys."""
    embed: Embed = simulated_vectors
    """Model of the embeddings; may be replaced while the server runs."""
    with_key: int = 0
    """Number of requests with the right key."""
    most_at_once: int = 0
    """Maximum number of requests at the same time."""

    @property
    def users(self) -> list[str]:
        """User message of every request."""
        return [request.user for request in self.requests]
