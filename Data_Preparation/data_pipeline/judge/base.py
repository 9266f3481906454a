"""Judges, the pairs they grade, and their judgements.

A judgement is a label only where its status is `ok`. Everything else says why there is none:

    ok            the judge gave a grade
    parse_failed  it answered something that is not a grade
    refused       it would not answer
    failed        no answer this time: time-outs, overload, a broken reply
    failed_final  the server will not take this pair: too long, malformed

None of the failures is ever read as a label; each is tried again in the next run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Protocol

from data_pipeline.utils import sha256_of_json

Status = Literal["ok", "parse_failed", "refused", "failed", "failed_final"]
STATUSES: tuple[Status, ...] = ("ok", "parse_failed", "refused", "failed", "failed_final")

RELEVANT = 2
"""The lowest grade that counts as relevant."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage to be judged."""

    query_id: str
    passage_id: str
    query: str
    """The whole text."""
    passage: str
    """The whole text; the judge decides how much of it is shown."""


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """Everything about a judge that an answer may depend on."""

    model: str
    """Name of the model in the request."""
    served_model: str
    """Name of the model in the reply."""
    prompt: str
    """Version of the prompt, and hash of its text."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the request and the limit of the passage; plain JSON."""

    def to_json(self) -> dict[str, Any]:
        """The identity as JSON, for the record of a run."""
        return {
            "model": self.model,
            "served_model": self.served_model,
            "prompt": self.prompt,
            "parameters": dict(self.parameters),
        }

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole identity."""
        return sha256_of_json(self.to_json())


@dataclass(frozen=True, slots=True)
class Judgement:
    """Grade of one pair, or the reason why there is none."""

    status: Status
    grade: int | None = None
    """0 to 3; only with status ok. YES is 3, NO is 0."""
    p: float | None = None
    """Probability that the passage is relevant (grade 2 or 3), among the labels; None if the server gives none."""
    confidence: float | None = None
    """Probability of the grade among the labels; None if the server gives none."""
    outside: float | None = None
    """Probability of all answers that are no labels."""
    answer: str | None = None
    """The text of the reply."""
    reason: str = ""
    """Why there is no grade."""
    tries: int = 1
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float = 0.0
    """Duration of the last call in seconds."""
    passage_chars: int | None = None
    """Length of the passage in characters."""
    shown_chars: int | None = None
    """Characters of the passage that the judge was shown; fewer only if a limit is set."""
    reasoning: str = ""
    """Reasoning of a model before its answer; kept apart, and never read as an answer."""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.grade is not None):
            raise ValueError(f"a judgement has a grade if and only if it is ok; got {self.status}, grade {self.grade}")
        if self.grade is not None and self.grade not in range(4):
            raise ValueError(f"a grade is 0, 1, 2 or 3; got {self.grade}")


class CallFailed(Exception):
    """A call to the judge gave no answer; the pool handles it.

    Args:
        reason: for the record; holds no secrets.
        final: whether the same call can never succeed.
        limited: whether the server asked to slow down, which is no failure of it.
        retry_after_s: how long it asked to wait, in seconds.
    """

    def __init__(
        self, reason: str, *, final: bool = False, limited: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason, self.final, self.limited, self.retry_after_s = reason, final, limited, retry_after_s

    def add_to_reason(self, more: str) -> None:
        """Append a sentence to the reason."""
        self.reason = f"{self.reason}. {more}"


class Judge(Protocol):
    """Grades passages for queries. A judge of your own implements these five names."""

    name: str
    """Name for messages: the address of a server, or a description."""

    @property
    def identity(self) -> JudgeIdentity:
        """Identity of the judge; available once it is open."""

    async def open(self) -> None:
        """Connect, and find out which model answers.

        Raises:
            JudgeError: it cannot be used.
        """

    async def judge(self, query: str, passage: str) -> Judgement:
        """Grade one passage; called from several tasks at the same time.

        Raises:
            CallFailed: there was no answer; the caller decides whether to try again.
            JudgeError: there will be none for any pair, so that the run must stop.
        """

    async def close(self) -> None:
        """Close connections."""


def judgement_key(identity: JudgeIdentity, query: str, passage: str) -> bytes:
    """Key of a cached answer: 32 bytes that differ if judge, prompt, parameters or one of the texts differ."""
    digest = blake2b(digest_size=32)
    for part in (identity.sha256, query, passage):
        content = part.encode("utf-8", "surrogatepass")
        # Lengths first, so that no two pairs of texts run together into the same bytes.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()
